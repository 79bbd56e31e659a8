import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option, Ref, Schema } from "effect"
import { Agent, Checkpoint, Compaction, Fault, Telemetry } from "effect-resilience"
import { CrashPoints, ScriptedModel } from "effect-resilience/testing"
import { Prompt, Tool, Toolkit } from "effect/ai"
import { paired } from "../../src/agent/internal/pairing.ts"
import { runs } from "../support/runs.ts"
import { call, durable } from "./support.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

/** Conversations as they come: calls with and without results, results without calls, ids used again. */
const Piece = Schema.Struct({
  kind: Schema.Literals(["user", "answer", "calls", "results", "system"]),
  length: Schema.Literals([0, 10, 200, 2_000]),
  ids: Schema.Array(upTo(3)).check(Schema.isMaxLength(3))
})
const Pieces = Schema.Array(Piece).check(Schema.isMaxLength(25))

const messageOf = ({ ids, kind, length }: typeof Piece.Type): Prompt.MessageEncoded => {
  const text = "x".repeat(length)
  switch (kind) {
    case "system":
      return { role: "system", content: text }
    case "user":
      return { role: "user", content: [{ type: "text", text }] }
    case "answer":
      return { role: "assistant", content: [{ type: "text", text }] }
    case "calls":
      return {
        role: "assistant",
        content: Array.from(new Set(ids), (id) => ({
          type: "tool-call" as const,
          id: `${id}`,
          name: "T",
          params: { text },
          providerExecuted: false
        }))
      }
    case "results":
      return {
        role: "tool",
        content: ids.map((id) => ({
          type: "tool-result" as const,
          id: `${id}`,
          name: "T",
          isFailure: false,
          result: text
        }))
      }
  }
}

/** What a provider refuses for ever: an answer whose calls are not followed by one result each, or results for no call. */
const unpaired = (prompt: Prompt.Prompt): ReadonlyArray<string> => {
  const wrong: Array<string> = []
  let open: Array<string> = []
  for (const message of prompt.content) {
    if (message.role === "tool") {
      for (const part of message.content) {
        if (part.type !== "tool-result") continue
        if (open.includes(part.id)) open = open.filter((id) => id !== part.id)
        else wrong.push(`result ${part.id}`)
      }
      continue
    }
    wrong.push(...open)
    open = message.role === "assistant"
      ? message.content.flatMap((part) => part.type === "tool-call" && !part.providerExecuted ? [part.id] : [])
      : []
  }
  return [...wrong, ...open]
}

const of = (prompt: Prompt.Prompt, role: Prompt.Message["role"]) =>
  prompt.content.filter((message) => message.role === role)

describe("any conversation", () => {
  it.effect.prop(
    "is sent with one result after each call, and without results for no call",
    { pieces: Pieces },
    ({ pieces }) =>
      Effect.sync(() => {
        const prompt = Prompt.make(pieces.map(messageOf))
        const whole = paired(prompt)
        assert.deepStrictEqual(unpaired(whole), [])
        assert.strictEqual(paired(whole), whole)
        for (const role of ["system", "user", "assistant"] as const) {
          assert.deepStrictEqual(of(whole, role), of(prompt, role))
        }
        if (unpaired(prompt).length === 0) assert.strictEqual(whole, prompt)
      }),
    { arbitrary: { runs: runs(300, 20_000), seed: 1 } }
  )

  it.effect.prop(
    "is made smaller without a call that loses its result, and keeps system messages, its beginning and its last turn",
    { pieces: Pieces, protect: upTo(4), target: upTo(6_000), keepResults: upTo(2) },
    ({ keepResults, pieces, protect, target }) =>
      Effect.sync(() => {
        const prompt = paired(Prompt.make(pieces.map(messageOf)))
        // The beginning is whole: the loop protects what it was given.
        if (unpaired(Prompt.fromMessages(prompt.content.slice(0, protect))).length > 0) return
        const options = { protect, target, keepResults }
        const { dropped, messages, prompt: smaller, results } = Compaction.compact(prompt, options)
        assert.deepStrictEqual(unpaired(smaller), [])
        assert.deepStrictEqual(of(smaller, "system"), of(prompt, "system"))
        assert.strictEqual(dropped.length, messages)
        const beginning = smaller.content.slice(0, protect)
        assert.deepStrictEqual(
          beginning.filter(({ role }) => role !== "tool"),
          prompt.content.slice(0, protect).filter(({ role }) => role !== "tool")
        )
        const lastAnswer = prompt.content.findLast(({ role }) => role === "assistant")
        if (lastAnswer !== undefined) assert.include(smaller.content, lastAnswer)
        const before = Compaction.sizeOf(prompt)
        if (before <= target) assert.strictEqual(smaller, prompt)
        // One note at the most is added.
        else assert.isAtMost(Compaction.sizeOf(smaller), before + 100)
        assert.deepStrictEqual(Compaction.compact(prompt, options).prompt, smaller, "the same for the same")
        if (Compaction.sizeOf(smaller) > target + 100) {
          const left = smaller.content.flatMap((message) =>
            message.role === "tool" ? message.content.filter((part) => part.type === "tool-result") : []
          )
          assert.isTrue(left.every((part) => JSON.stringify(part.result).length < 200), "all that may go is gone")
        }
        assert.isAtLeast(results, 0)
      }),
    { arbitrary: { runs: runs(300, 20_000), seed: 1 } }
  )
})

describe("compact", () => {
  const turn = (id: string, length: number): ReadonlyArray<Prompt.MessageEncoded> => [
    messageOf({ kind: "calls", ids: [Number(id)], length: 10 }),
    {
      role: "tool",
      content: [{ type: "tool-result", id, name: "T", isFailure: false, result: "y".repeat(length) }]
    }
  ]
  const prompt = Prompt.make([
    { role: "system", content: "Be kind." },
    { role: "user", content: "Go" },
    ...turn("1", 1_000),
    ...turn("2", 1_000),
    ...turn("3", 1_000)
  ])
  const resultsOf = (prompt: Prompt.Prompt) =>
    of(prompt, "tool").flatMap((message) =>
      message.role === "tool"
        ? message.content.map((part) => part.type === "tool-result" && typeof part.result === "string")
        : []
    )

  it("leaves out the oldest results first, and as few as needed", () => {
    const { messages, prompt: smaller, results } = Compaction.compact(prompt, {
      protect: 2,
      target: 3_000,
      keepResults: 1
    })
    assert.deepStrictEqual([messages, results], [0, 1])
    assert.deepStrictEqual(resultsOf(smaller), [false, true, true])
  })

  it("leaves out the oldest turns where results are not enough, and puts a note or the summary in their place", () => {
    for (const summary of [undefined, "Two things were found."]) {
      const { messages, prompt: smaller } = Compaction.compact(prompt, {
        protect: 2,
        target: 1_400,
        keepResults: 1,
        summary
      })
      assert.strictEqual(messages, 4)
      assert.deepStrictEqual(smaller.content.map(({ role }) => role), ["system", "user", "user", "assistant", "tool"])
      assert.include(JSON.stringify(smaller.content[2]), summary ?? "Earlier turns of this task were left out")
      assert.deepStrictEqual(resultsOf(smaller), [true])
    }
  })

  it("leaves out the last result where nothing else is enough", () => {
    const { prompt: smaller } = Compaction.compact(prompt, { protect: 2, target: 600, keepResults: 1 })
    assert.deepStrictEqual(resultsOf(smaller), [false])
    assert.isAtMost(Compaction.sizeOf(smaller), 600)
  })

  it("never leaves out a call that has no result yet", () => {
    const open = Prompt.concat(
      Prompt.make([{ role: "user", content: "Go" }, messageOf({ kind: "calls", ids: [9], length: 2_000 })]),
      Prompt.make(turn("1", 10))
    )
    const { prompt: smaller } = Compaction.compact(open, { protect: 1, target: 0, keepResults: 0 })
    assert.deepStrictEqual(smaller.content[1], open.content[1])
  })

  it("refuses options that cannot be, naming them", () => {
    for (const options of [{ share: 0 }, { share: 1 }, { share: NaN }, { keepResults: -1 }]) {
      assert.throws(() => Compaction.make(options), Fault.InvalidConfig)
    }
  })
})

const Read = Tool.make("Read", { parameters: Schema.Struct({ page: Schema.Finite }), success: Schema.String })
  .annotate(Tool.Readonly, true)
const toolkit = Toolkit.make(Read)
const handlers = toolkit.toLayer({ Read: ({ page }) => Effect.succeed(`${page}: ${"word ".repeat(400)}`) })

/** A model with room for so many characters, that reads page after page. */
const reader = (room: number, pages: number): ScriptedModel.Script => (request) => {
  if (JSON.stringify(request.prompt.content.at(-1)).includes("Sum up")) return "Pages were read."
  if (Compaction.sizeOf(request.prompt) > room) return ScriptedModel.fail(Fault.contextOverflow)
  const read = request.prompt.content.flatMap((message) =>
    message.role === "assistant" ? message.content.filter((part) => part.type === "tool-call") : []
  )
  const last = read.at(-1)?.id ?? "0"
  const next = Number(last) + 1
  return next > pages ? `Read ${pages} pages.` : call(String(next), "Read", { page: next })
}
const options = { runId: "run-1", prompt: "Read the book" }
const agent = Agent.make({ name: "reader", instructions: "Read.", toolkit })

describe("an agent whose model has no room left", () => {
  it.effect("goes on with a smaller conversation, and says so in its result", () =>
    Effect.gen(function*() {
      const events: Array<Telemetry.Event> = []
      const result = yield* Agent.run(agent, options).pipe(
        Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
      )
      assert.strictEqual(result.text, "Read 8 pages.")
      assert.isAbove(result.counters.compactions, 0)
      assert.strictEqual(
        events.filter((event) => event._tag === "ContextCompacted").length,
        result.counters.compactions
      )
      for (const { prompt } of yield* ScriptedModel.requests) assert.deepStrictEqual(unpaired(prompt), [])
    }).pipe(Effect.provide(Layer.mergeAll(durable, handlers, ScriptedModel.layer(reader(7_000, 8))))))

  it.effect("goes on with the smaller one after a crash too, and compacts nothing twice", () =>
    Effect.gen(function*() {
      const plain = yield* Agent.run(agent, options)
      const asked = (yield* ScriptedModel.requests).map(({ prompt }) => prompt)
      const resumed = yield* CrashPoints.alwaysReplay(Agent.run(agent, { ...options, runId: "run-2" }))
      assert.strictEqual(resumed.text, plain.text)
      assert.strictEqual(resumed.counters.compactions, plain.counters.compactions)
      const askedAgain = (yield* ScriptedModel.requests).slice(asked.length).map(({ prompt }) => prompt)
      assert.deepStrictEqual(askedAgain, asked)
    }).pipe(Effect.provide(Layer.mergeAll(durable, handlers, ScriptedModel.layer(reader(7_000, 8))))))

  it.effect("puts the model's summary in place of turns, and the crash does not lose it", () =>
    Effect.gen(function*() {
      const summing = Agent.make({ name: "reader", instructions: "Read.", toolkit, compaction: { summary: true } })
      const result = yield* CrashPoints.alwaysReplay(Agent.run(summing, options))
      assert.strictEqual(result.text, "Read 6 pages.")
      const last = (yield* ScriptedModel.requests).at(-1)?.prompt
      assert.include(JSON.stringify(last), "Pages were read.")
    }).pipe(Effect.provide(Layer.mergeAll(durable, handlers, ScriptedModel.layer(reader(4_000, 6))))))

  it.effect("asks once more and no oftener where even the smaller one is too large", () =>
    Effect.gen(function*() {
      const still = Agent.make({ name: "reader", instructions: "Read.", toolkit, rollback: false })
      const error = yield* Effect.flip(Agent.run(still, options))
      assert.strictEqual((yield* Fault.classify(error))._tag, "ContextOverflow")
      assert.strictEqual((yield* ScriptedModel.requests).length, 3)
    }).pipe(Effect.provide(Layer.mergeAll(
      durable,
      handlers,
      ScriptedModel.layer((request) =>
        request.index === 0 ? call("1", "Read", { page: 1 }) : ScriptedModel.fail(Fault.contextOverflow)
      )
    ))))

  it.effect("fails at once where it must not make anything smaller, or cannot", () =>
    Effect.gen(function*() {
      const strict = Agent.make({ name: "reader", instructions: "Read.", toolkit, compaction: false })
      const error = yield* Effect.flip(Agent.run(strict, options))
      assert.strictEqual((yield* Fault.classify(error))._tag, "ContextOverflow")
      assert.strictEqual((yield* ScriptedModel.requests).length, 1)
      yield* Effect.flip(Agent.run(agent, { ...options, runId: "run-2" }))
      assert.strictEqual((yield* ScriptedModel.requests).length, 2)
    }).pipe(Effect.provide(Layer.mergeAll(
      durable,
      handlers,
      ScriptedModel.layer(() => ScriptedModel.fail(Fault.contextOverflow))
    ))))
})

describe("what the model is sent", () => {
  it.effect("pairs every call with a result, also those that a conversation brings along without one", () =>
    Effect.gen(function*() {
      const prompt = Prompt.make([
        { role: "user", content: "Go" },
        messageOf({ kind: "calls", ids: [1, 2], length: 10 }),
        { role: "tool", content: [{ type: "tool-result", id: "2", name: "T", isFailure: false, result: "two" }] },
        { role: "user", content: "Go on" }
      ])
      yield* Agent.run(agent, { runId: "run-1", prompt })
      const sent = (yield* ScriptedModel.requests)[0]?.prompt ?? Prompt.empty
      assert.deepStrictEqual(unpaired(sent), [])
      assert.include(JSON.stringify(sent), "OutcomeUnknown")
    }).pipe(Effect.provide(Layer.mergeAll(durable, handlers, ScriptedModel.layer(["Gone."])))))

  it.effect("says that the outcome is unknown where a tool is not to ask people, and runs the call no second time", () =>
    Effect.gen(function*() {
      const Pay = Tool.make("Pay", { parameters: Schema.Struct({ to: Schema.String }), success: Schema.String })
      const payments = Toolkit.make(Pay)
      const paid = yield* Ref.make(0)
      const payer = Agent.make({
        name: "payer",
        instructions: "",
        toolkit: payments,
        tools: { Pay: { uncertain: "tell" } }
      })
      const world = Layer.mergeAll(
        payments.toLayer({
          Pay: () => Effect.andThen(Ref.update(paid, (n) => n + 1), Effect.die("the process is gone"))
        }),
        ScriptedModel.layer([call("1", "Pay", { to: "ann" }), call("2", "Pay", { to: "ann" }), "I do not know."]),
        durable
      )
      yield* Effect.gen(function*() {
        const run = Agent.run(payer, options)
        const first = yield* Effect.exit(run)
        const result = first._tag === "Success" ? first.value : yield* run
        assert.strictEqual(result.text, "I do not know.")
        assert.strictEqual(yield* Ref.get(paid), 1)
        const last = (yield* ScriptedModel.requests).at(-1)?.prompt ?? Prompt.empty
        assert.strictEqual(JSON.stringify(last).split("OutcomeUnknown").length - 1, 2)
        assert.deepStrictEqual(unpaired(last), [])
        assert.deepStrictEqual(yield* Checkpoint.status(options.runId), Option.some("completed"))
      }).pipe(Effect.provide(world))
    }))
})
