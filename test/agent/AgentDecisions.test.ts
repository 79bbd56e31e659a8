import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { Agent, Checkpoint, CheckpointStore, EscalationQueue, Idempotency } from "effect-resilience"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import { ScriptedModel } from "effect-resilience/testing"
import { Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"
import { sqliteFile } from "../durable/sqliteFile.ts"
import { call, durable, lastResults } from "./support.ts"

const Send = Tool.make("Send", {
  parameters: Schema.Struct({
    body: Schema.String,
    bcc: Schema.String.check(Schema.makeFilter((address) => address !== "nobody" || "nobody is nobody")),
    key: Schema.optionalKey(Schema.RedactedFromValue(Schema.String))
  }),
  success: Schema.String,
  needsApproval: true
})
const toolkit = Toolkit.make(Send)
const sender = Agent.make({ name: "sender", instructions: "", toolkit })

/** A run that makes these calls, one an answer, and what was sent and told. */
const sending = (...calls: ReadonlyArray<unknown>) => {
  const sent: Array<string> = []
  const told: Array<ReadonlyArray<unknown>> = []
  const World = Layer.merge(
    toolkit.toLayer({
      Send: ({ bcc }) =>
        Effect.sync(() => {
          sent.push(bcc)
          return `sent ${sent.length}`
        })
    }),
    ScriptedModel.layer((request) => {
      const done = request.prompt.content.filter(({ role }) => role === "tool").length
      if (done > 0) told.push(lastResults(request))
      const next = calls[done]
      return next === undefined ? "Done." : call(`call_${done}`, "Send", next)
    })
  )
  const run = Agent.run(sender, { runId: "mail-1", prompt: "Send it." }).pipe(Effect.provide(World))
  return { run, sent, told }
}

const only = Effect.gen(function*() {
  const [asked, ...others] = yield* EscalationQueue.EscalationQueue.use((queue) => queue.list({ status: "open" }))
  assert.deepStrictEqual(others, [])
  if (asked === undefined) return yield* Effect.die("nothing is asked")
  return asked
})

const decide = (decision: EscalationQueue.Decision) =>
  Effect.flatMap(only, ({ id }) => EscalationQueue.decide(id, decision, { by: "ann" }))

const suspended = <A, E, R>(run: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(run), (error) => {
    assert.instanceOf(error, Checkpoint.RunSuspended)
  })

const long = { body: "x".repeat(60_000), bcc: "evil@example.org" }

describe("who approves a call", () => {
  it.effect("sees all of its arguments, however long they are and in whatever order, and no secret", () =>
    Effect.gen(function*() {
      const { run, sent } = sending({ ...long, key: "s3cret" })
      yield* suspended(run)
      const asked = yield* only
      assert.deepNestedInclude(asked.about, { "tool": "Send", "arguments.bcc": long.bcc, "arguments.body": long.body })
      assert.notInclude(JSON.stringify(asked), "s3cret")
      yield* decide({ _tag: "Approve" })
      yield* run
      assert.deepStrictEqual(sent, [long.bcc])
    }).pipe(Effect.provide(durable)))

  it.effect("is not asked about more than can be seen: the model is told so, and nothing runs", () =>
    Effect.gen(function*() {
      const { run, sent, told } = sending(long)
      const Live = Layer.mergeAll(
        CheckpointStore.layerMemory,
        Idempotency.layerMemory,
        Layer.effect(
          EscalationQueue.EscalationQueue,
          Effect.flatMap(
            EscalationQueue.makeStoreMemory(),
            (store) => EscalationQueue.make({ store, aboutLimit: 10_000 })
          )
        )
      )
      yield* Effect.gen(function*() {
        yield* run
        assert.deepStrictEqual(yield* EscalationQueue.EscalationQueue.use((queue) => queue.list()), [])
      }).pipe(Effect.provide(Live))
      assert.deepStrictEqual(sent, [])
      assert.deepNestedInclude(told[0]?.[0], { error: "TooLongToApprove" })
    }))

  it.effect("the layers of stores take the bounds of the queue", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const submit = EscalationQueue.submit({ reason: "RequiresHuman", task: "?", about: long, context: long })
      const kept = yield* Effect.provide(submit, Sqlite.layer({ filename, escalations: { excerptLimit: 100_000 } }))
      assert.deepStrictEqual([kept.about, kept.context], [long, long])
      const refused = yield* Effect.flip(
        Effect.provide(submit, Sqlite.layer({ filename, escalations: { aboutLimit: 1_000 } }))
      )
      assert.strictEqual(refused._tag === "EscalationError" ? refused.reason._tag : refused._tag, "TooLong")
    }))
})

describe("a decision that only the program can tell is none", () => {
  const edited = { _tag: "Approve", arguments: { body: "Hello", bcc: "nobody" } } as const

  it.effect("is asked for again with the reason, as often as it takes, and the run waits", () =>
    Effect.gen(function*() {
      const { run, sent } = sending({ body: "Hello", bcc: "ann" })
      yield* suspended(run)
      for (let n = 0; n < 2; n++) {
        yield* decide(edited)
        yield* suspended(run)
        const { refused, resolution } = yield* only
        assert.strictEqual(resolution, undefined)
        assert.deepStrictEqual([refused?.decision, refused?.by], [edited, "ann"])
        assert.include(refused?.issue, "nobody is nobody")
      }
      yield* decide({ _tag: "Approve", arguments: { body: "Hello", bcc: "bob" } })
      const result = yield* run
      assert.deepStrictEqual([sent, result.turns[0]?.toolCalls[0]?.decision], [["bob"], "edited"])
      const [over] = yield* EscalationQueue.EscalationQueue.use((queue) => queue.list())
      assert.strictEqual(over?.refused, undefined)
    }).pipe(Effect.provide(durable)))

  it.effect("leaves another one alone that was made meanwhile", () =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      const { id } = yield* queue.submit({ reason: "RequiresHuman", task: "?" })
      const read = yield* queue.decide(id, { _tag: "Approve" }, { by: "ann" })
      yield* queue.reopen(id)
      yield* queue.decide(id, { _tag: "Approve" }, { by: "bob" })
      const kept = yield* queue.reopen(id, { refused: { read, issue: "no" } })
      assert.deepStrictEqual([kept.status, kept.resolution?.by, kept.refused], ["resolved", "bob", undefined])
    }).pipe(Effect.provide(durable)))

  it.effect("is no failure of the run that an answer stands in for", () =>
    Effect.gen(function*() {
      const ask = Agent.answer(sender, {
        runId: "mail-1",
        prompt: "Send it.",
        simplified: () => "Short, please.",
        emergency: "Soon."
      })
      yield* suspended(ask)
      yield* decide(edited)
      yield* suspended(ask)
      yield* only
    }).pipe(
      Effect.provide(Layer.merge(
        toolkit.toLayer({ Send: () => Effect.succeed("sent") }),
        Agent.layerProduction({
          model: ScriptedModel.layer([call("1", "Send", { body: "Hello", bcc: "ann" })]),
          store: durable
        })
      ))
    ))
})

describe("a call that people approve anew", () => {
  const mail = { body: "Hello", bcc: "ann" }

  it.effect("is executed, also where its run was cleared and begins again", () =>
    Effect.gen(function*() {
      const { run, sent, told } = sending(mail)
      yield* suspended(run)
      yield* decide({ _tag: "Approve" })
      yield* run
      yield* Checkpoint.clear("mail-1")
      yield* suspended(run)
      yield* decide({ _tag: "Approve" })
      const again = yield* run
      assert.deepStrictEqual([sent, told.at(-1)], [["ann", "ann"], ["sent 2"]])
      assert.deepNestedInclude(again.turns[0]?.toolCalls[0], { attempts: 1, replayed: false, decision: "approved" })
      assert.notProperty(again.turns[0]?.toolCalls[0], "deduplicated")
    }).pipe(Effect.provide(durable)))

  it.effect("is executed within one run, once for each approval, and not without one", () =>
    Effect.gen(function*() {
      const { run, sent } = sending(mail, mail, mail)
      yield* suspended(run)
      yield* decide({ _tag: "Approve" })
      yield* suspended(run)
      yield* suspended(run)
      assert.deepStrictEqual(sent, ["ann"])
      yield* decide({ _tag: "Approve" })
      yield* suspended(run)
      yield* decide({ _tag: "Reject", reason: "twice is enough" })
      const { turns } = yield* run
      assert.deepStrictEqual(sent, ["ann", "ann"])
      assert.deepStrictEqual(turns.flatMap(({ toolCalls }) => toolCalls.map(({ decision }) => decision)), [
        "approved",
        "approved",
        "rejected"
      ])
    }).pipe(Effect.provide(durable)))
})

describe("a call that nobody has to approve", () => {
  const Post = Tool.make("Post", { parameters: Schema.Struct({ text: Schema.String }), success: Schema.String })
  const kit = Toolkit.make(Post)
  const poster = Agent.make({ name: "poster", instructions: "", toolkit: kit })

  it.effect("is answered from memory, and the result says so; Agent.clear begins anew", () =>
    Effect.gen(function*() {
      const posted: Array<string> = []
      const World = Layer.merge(
        kit.toLayer({ Post: ({ text }) => Effect.sync(() => `posted ${posted.push(text)}`) }),
        ScriptedModel.layer(({ prompt }) => {
          const done = prompt.content.filter(({ role }) => role === "tool").length
          return done < 2 ? call(`call_${done}`, "Post", { text: "Hello" }) : "Done."
        })
      )
      const run = Agent.run(poster, { runId: "post-1", prompt: "Go" }).pipe(
        Effect.map(({ turns }) =>
          turns.flatMap(({ toolCalls }) => toolCalls.map((made) => made.deduplicated ?? false))
        ),
        Effect.provide(World)
      )
      assert.deepStrictEqual([yield* run, posted.length], [[false, true], 1])
      assert.deepStrictEqual([yield* run, posted.length], [[false, true], 1])
      yield* Checkpoint.clear("post-1")
      assert.deepStrictEqual([yield* run, posted.length], [[true, true], 1])
      yield* Agent.clear("post-1")
      assert.deepStrictEqual([yield* run, posted.length], [[false, true], 2])
    }).pipe(Effect.provide(durable)))
})

describe("who has to be asked, where that cannot be told", () => {
  const asking = (needsApproval: () => boolean | Effect.Effect<boolean, string>) => {
    const kit = Toolkit.make(
      Tool.make("Erase", { success: Schema.String, needsApproval: needsApproval as () => boolean })
    )
    let erased = 0
    const run = Agent.run(Agent.make({ name: "eraser", instructions: "", toolkit: kit }), {
      runId: "e-1",
      prompt: "Go"
    })
      .pipe(Effect.provide(Layer.merge(
        kit.toLayer({ Erase: () => Effect.sync(() => `erased ${++erased}`) }),
        ScriptedModel.layer([call("1", "Erase", {})])
      )))
    return { run, erased: () => erased }
  }

  for (
    const [how, needsApproval] of [
      ["throws", () => {
        throw new Error("no rules")
      }],
      ["fails", () => Effect.fail("no rules")]
    ] as const
  ) {
    it.effect(`the run fails and names the tool where needsApproval ${how}, and the call does not run`, () =>
      Effect.gen(function*() {
        const { erased, run } = asking(needsApproval)
        const error = yield* Effect.flip(run)
        assert.isTrue(error instanceof Agent.AgentError && error.reason._tag === "Undecided")
        assert.include(String(error), `tool "Erase"`)
        assert.include(String(error), "no rules")
        assert.strictEqual(erased(), 0)
      }).pipe(Effect.provide(durable)))
  }

  it.effect("the run fails where what an answer is reviewed by throws", () =>
    Effect.gen(function*() {
      const judge = Agent.reviewed(Agent.make({ name: "judge", instructions: "" }), {
        when: () => {
          throw new Error("no rules")
        }
      })
      const run = Agent.run(judge, { runId: "j-1", prompt: "Go" })
      const error = yield* Effect.flip(Effect.provide(run, ScriptedModel.layer(["Guilty."])))
      assert.isTrue(error instanceof Agent.AgentError && error.reason._tag === "Undecided")
    }).pipe(Effect.provide(durable)))

  it.effect("has a time to decide, if the agent says so, and is asked anew after it", () =>
    Effect.gen(function*() {
      const limited = Agent.make({ name: "sender", instructions: "", toolkit, approvalTimeToLive: "1 hour" })
      const hurried = Agent.run(limited, { runId: "mail-2", prompt: "Send it." }).pipe(Effect.provide(Layer.merge(
        toolkit.toLayer({ Send: () => Effect.succeed("sent") }),
        ScriptedModel.layer([call("1", "Send", { body: "Hello", bcc: "ann" })])
      )))
      yield* suspended(hurried)
      yield* TestClock.adjust("61 minutes")
      const expired = yield* Effect.flip(hurried)
      assert.isTrue(expired instanceof EscalationQueue.EscalationError && expired.reason._tag === "Expired")
      yield* suspended(hurried)
    }).pipe(Effect.provide(durable)))

  it.effect("no question is asked that nobody can answer", () =>
    Effect.gen(function*() {
      const refused = yield* Effect.flip(
        EscalationQueue.submit({ reason: "RequiresHuman", task: "?", decisions: [] })
      )
      assert.strictEqual(refused.reason._tag, "InvalidRequest")
    }).pipe(Effect.provide(durable)))
})

describe("a question about a call that may have happened", () => {
  it.effect("says what it ended with", () =>
    Effect.gen(function*() {
      const kit = Toolkit.make(Tool.make("Pay", { success: Schema.String, failure: Schema.Defect() }))
      const run = Agent.run(Agent.make({ name: "payer", instructions: "", toolkit: kit }), {
        runId: "p-1",
        prompt: "Go"
      })
      yield* suspended(Effect.provide(
        run,
        Layer.merge(
          kit.toLayer({ Pay: () => Effect.fail(new Error("HTTP 502")) }),
          ScriptedModel.layer([call("1", "Pay", {})])
        )
      ))
      const { error, task } = yield* only
      assert.include(task, "HTTP 502")
      assert.notInclude(task, "stopped")
      assert.include(error?.message, "HTTP 502")
    }).pipe(Effect.provide(durable)))
})

describe("a prompt with half of a character", () => {
  it.effect("is one with the replacement character, for the run and for the model", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const Live = Agent.layerProduction({
        model: ScriptedModel.layer((request) => {
          seen.push(JSON.stringify(request.prompt))
          return "Yes."
        }),
        store: durable
      })
      const plain = Agent.make({ name: "plain", instructions: "" })
      const ask = Agent.answer(plain, { runId: "h-1", prompt: "Hello \ud83d", emergency: "Soon." })
      const answered = yield* Effect.provide(ask, Live)
      assert.strictEqual(answered.source, "agent")
      assert.include(seen[0], "Hello \ufffd")
    }))
})
