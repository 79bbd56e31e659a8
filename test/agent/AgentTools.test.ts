import { assert, describe } from "@effect/vitest"
import { Cause, Deferred, Effect, Fiber, Layer, Logger, Ref, Schema } from "effect"
import {
  Agent,
  AgentTools,
  Backoff,
  Bulkhead,
  Checkpoint,
  CircuitBreaker,
  EscalationQueue,
  Fault,
  Idempotency,
  Telemetry
} from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { Prompt, Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"
import { replaying } from "../support/replaying.ts"
import { call, counting, durable, kit, lastResults, Refund } from "./support.ts"

const it = replaying({
  "are all stopped by an interruption, and none is left running": "it counts the steps that were replayed: one"
})

const now = Backoff.constant({ delay: 0 })
const support = Agent.make({ name: "support", instructions: "", toolkit: kit, toolBackoff: now })

class Down extends Schema.TaggedError<Down>("test/Down")("Down", { message: Schema.String }) {
  readonly [Fault.verdictOf] = Fault.transient
}

class Busy extends Schema.TaggedError<Busy>("test/Busy")("Busy", { message: Schema.String }) {
  readonly [Fault.verdictOf] = Fault.overloaded()
}

class Lost extends Schema.TaggedError<Lost>("test/Lost")("Lost", { message: Schema.String }) {
  readonly [Fault.verdictOf] = Fault.ambiguous
}

const Read = Tool.make("Read", { success: Schema.String, failure: Schema.Union([Down, Busy]) })
  .annotate(Tool.Readonly, true)
const Write = Tool.make("Write", {
  parameters: Schema.Struct({ text: Schema.String }),
  success: Schema.String,
  failure: Schema.Union([Down, Busy, Lost])
})
const shelf = Toolkit.make(Read, Write)
const clerk = Agent.make({ name: "clerk", instructions: "", toolkit: shelf, toolBackoff: now })

/** Lets the model make calls, and answers what it was told of them. */
const told = (calls: ReadonlyArray<ReturnType<typeof call>>) => {
  let results: ReadonlyArray<unknown> = []
  const model = ScriptedModel.layer((request) => {
    if (request.prompt.content.every((message) => message.role !== "tool")) return ScriptedModel.turn(...calls)
    results = lastResults(request)
    return "Done."
  })
  return { model, results: () => results }
}

describe("bad calls", () => {
  const answers = (one: ReturnType<typeof call>, limits?: AgentTools.Limits) =>
    Effect.gen(function*() {
      const { handlers, lookups } = yield* counting
      const { model, results } = told([one])
      const result = yield* Agent.run(
        Agent.make({ name: "support", instructions: "", toolkit: kit, limits }),
        { runId: "run-1", prompt: "Go" }
      ).pipe(Effect.provide(Layer.merge(handlers, model)))
      assert.strictEqual(result.text, "Done.")
      assert.strictEqual(result.counters.toolErrors, 1)
      assert.strictEqual(yield* Ref.get(lookups), 0)
      return results()[0]
    }).pipe(Effect.provide(durable))

  it.effect("with arguments that do not match become an error that the model reads", () =>
    Effect.gen(function*() {
      const error = yield* answers(call("1", "Lookup", { order: 7 }))
      assert.deepInclude(error, { error: "InvalidArguments", attempts: 1 })
      assert.include(JSON.stringify(error), "order")
    }))

  it.effect("of a tool that does not exist name those that do", () =>
    Effect.gen(function*() {
      const error = yield* answers(call("1", "Delete", {}))
      assert.deepStrictEqual(error, {
        error: "UnknownTool",
        message: `there is no tool "Delete"; the tools are: Lookup, Refund`,
        attempts: 0
      })
    }))

  it.effect("of a name that every object has are of no tool", () =>
    Effect.gen(function*() {
      assert.deepInclude(yield* answers(call("1", "constructor", {})), { error: "UnknownTool" })
    }))

  it.effect("with arguments that are too long, too deep or circular are refused unread", () =>
    Effect.gen(function*() {
      let deep: unknown = "deep"
      for (let i = 0; i < 100_000; i++) deep = [deep]
      const circular: { self?: unknown } = {}
      circular.self = circular
      for (const order of [deep, circular]) {
        const error = yield* answers(call("1", "Lookup", { order }))
        assert.deepStrictEqual(error, {
          error: "InvalidArguments",
          message: "the arguments are nested more than 64 levels deep",
          attempts: 0
        })
      }
      const error = yield* answers(call("1", "Lookup", { order: "x".repeat(2_000) }), { arguments: 1_000 })
      assert.deepInclude(error, { message: "the arguments are longer than 1000 characters" })
    }))
})

describe("hostile arguments", () => {
  const hostile = JSON.parse(`{"order":"7","__proto__":{"isAdmin":true}}`)
  const nested = JSON.parse(`{"order":"7","more":[{"constructor":{"prototype":{"isAdmin":true}}}]}`)
  const huge = { order: "x".repeat(10_000_000) }

  it.effect("never reach a tool, a prototype or the journal, and the model reads why", () =>
    Effect.gen(function*() {
      const { handlers, lookups } = yield* counting
      const { model, results } = told([
        call("1", "Lookup", hostile),
        call("2", "Lookup", nested),
        call("3", "Lookup", huge),
        call("4", "Lookup", { order: "7", constructor: "a name like any other" })
      ])
      const result = yield* Agent.run(
        Agent.make({ name: "support", instructions: "", toolkit: kit }),
        { runId: "run-1", prompt: "Go" }
      ).pipe(Effect.provide(Layer.merge(handlers, model)))
      const refused = (message: string) => ({ error: "InvalidArguments", message, attempts: 0 })
      assert.deepStrictEqual(results(), [
        refused(`the arguments have the key "__proto__", which no argument may have`),
        refused(`the arguments have the key "constructor", which no argument may have`),
        refused("the arguments are longer than 100000 characters"),
        { price: 10 }
      ])
      assert.strictEqual(result.counters.toolErrors, 3)
      assert.strictEqual(yield* Ref.get(lookups), 1)
      assert.isFalse("isAdmin" in {})
      const { records } = yield* Checkpoint.inspect("run-1")
      assert.isBelow(JSON.stringify(records).length, 100_000)
    }).pipe(Effect.provide(durable)))
})

describe("guards of single tools", () => {
  it.effect("are their own bulkhead and circuit, inside of the guard for all", () =>
    Effect.gen(function*() {
      const order: Array<string> = []
      const guarded = Agent.make({
        name: "guarded",
        instructions: "",
        toolkit: kit,
        tools: {
          Lookup: {
            attempts: 1,
            guard: (self, { name }) => {
              order.push(`own ${name}`)
              return Bulkhead.limit(self, "lookup", { maxConcurrent: 1, maxQueue: 0 })
            }
          },
          Refund: { guard: (self) => CircuitBreaker.protect(self, "refund") }
        },
        policies: { tool: (self, { name }) => Effect.andThen(Effect.sync(() => order.push(`all ${name}`)), self) }
      })
      const slow = yield* Deferred.make<void>()
      const handlers = kit.toLayer({
        Lookup: () => Effect.as(Deferred.await(slow), { price: 10 }),
        Refund: ({ order }) => Effect.as(Deferred.succeed(slow, undefined), `refunded ${order}`)
      })
      const { model, results } = told([
        call("1", "Lookup", { order: "1" }),
        call("2", "Lookup", { order: "2" }),
        call("3", "Refund", { order: "3" })
      ])
      yield* Agent.run(guarded, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(model, handlers)))
      assert.deepStrictEqual(results()[0], { price: 10 })
      assert.deepInclude(results()[1], { error: "BulkheadFull", attempts: 1 })
      assert.strictEqual(results()[2], "refunded 3")
      assert.deepStrictEqual(order.slice(0, 2), ["own Lookup", "all Lookup"])
    }).pipe(Effect.provide([durable, Bulkhead.layer(), CircuitBreaker.layer()])))
})

describe("failing tools", () => {
  const reading = (failures: ReadonlyArray<Down | Busy>, runId = "run-1") =>
    Effect.gen(function*() {
      let attempts = 0
      const { model, results } = told([call("1", "Read", {})])
      const result = yield* Agent.run(clerk, { runId, prompt: "Go" }).pipe(
        Effect.provide(Layer.merge(
          model,
          shelf.toLayer({
            Read: () =>
              Effect.suspend(() => {
                const failure = failures[attempts++]
                return failure === undefined ? Effect.succeed("text") : Effect.fail(failure)
              }),
            Write: () => Effect.succeed("written")
          })
        ))
      )
      return { attempts, result, told: results()[0] }
    }).pipe(Effect.provide(durable))

  const down = new Down({ message: "no route" })

  it.effect("are attempted three times", () =>
    Effect.gen(function*() {
      const { attempts, result, told } = yield* reading([down, down])
      assert.deepStrictEqual([attempts, told], [3, "text"])
      assert.strictEqual(result.counters.retries, 2)
      assert.strictEqual(result.turns[0]?.toolCalls[0]?.attempts, 3)
    }))

  it.effect("tell the model error, message and attempts when these run out", () =>
    Effect.gen(function*() {
      const { attempts, result, told } = yield* reading([down, down, down, down])
      assert.strictEqual(attempts, 3)
      assert.deepStrictEqual(told, {
        error: "Down",
        message: "no route",
        attempts: 3,
        details: { _tag: "Down", message: "no route" }
      })
      assert.strictEqual(result.text, "Done.")
      assert.strictEqual(result.counters.toolErrors, 1)
    }))

  it.effect("are not attempted again where that cannot help", () =>
    Effect.gen(function*() {
      let attempts = 0
      const { model, results } = told([call("1", "Refund", { order: "7" })])
      yield* Agent.run(support, { runId: "run-1", prompt: "Go" }).pipe(
        Effect.provide(Layer.merge(
          model,
          kit.toLayer({
            Lookup: () => Effect.succeed({ price: 1 }),
            Refund: () => Effect.suspend(() => (attempts++, Effect.fail("no such order")))
          })
        )),
        Effect.provideService(Fault.Classifier, (error) => error === "no such order" ? Fault.permanent : undefined)
      )
      assert.strictEqual(attempts, 1)
      assert.deepInclude(results()[0], { message: "no such order", details: "no such order", attempts: 1 })
    }).pipe(Effect.provide(durable)))

  it.effect("tell the same in both failure modes", () =>
    Effect.gen(function*() {
      const run = (failureMode: "return" | "error") =>
        Effect.gen(function*() {
          const One = Tool.make("One", { success: Schema.String, failure: Down, failureMode })
          const one = Toolkit.make(One)
          const { model, results } = told([call("1", "One", {})])
          yield* Agent.run(Agent.make({ name: "one", instructions: "", toolkit: one, toolBackoff: now }), {
            runId: failureMode,
            prompt: "Go"
          }).pipe(Effect.provide(Layer.merge(model, one.toLayer({ One: () => Effect.fail(down) }))))
          return results()
        })
      assert.deepStrictEqual(yield* run("return"), yield* run("error"))
    }).pipe(Effect.provide(durable)))

  it.effect("that must not happen twice are attempted again only when nothing was executed", () =>
    Effect.gen(function*() {
      const attemptsOf = (failure: Down | Busy, runId: string) =>
        Effect.gen(function*() {
          let attempts = 0
          const { model } = told([call("1", "Write", { text: "x" })])
          yield* Agent.run(clerk, { runId, prompt: "Go" }).pipe(Effect.provide(Layer.merge(
            model,
            shelf.toLayer({
              Read: () => Effect.succeed("text"),
              Write: () => Effect.suspend(() => (attempts++, Effect.fail(failure)))
            })
          )))
          return attempts
        })
      assert.strictEqual(yield* attemptsOf(down, "run-1"), 1)
      assert.strictEqual(yield* attemptsOf(new Busy({ message: "full" }), "run-2"), 3)
    }).pipe(Effect.provide(durable)))

  it.effect("that die end their own call where they only read", () =>
    Effect.gen(function*() {
      const { model, results } = told([call("1", "Read", {})])
      yield* Agent.run(clerk, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        model,
        shelf.toLayer({ Read: () => Effect.die(new Error("bug")), Write: () => Effect.succeed("") })
      )))
      assert.deepStrictEqual(results()[0], { error: "ToolDefect", message: "bug", attempts: 1 })
    }).pipe(Effect.provide(durable)))

  it.effect("that interrupt themselves do not interrupt the agent", () =>
    Effect.gen(function*() {
      let attempts = 0
      const { model, results } = told([call("1", "Read", {})])
      const result = yield* Agent.run(clerk, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        model,
        shelf.toLayer({
          Read: () => Effect.suspend(() => (attempts++, Effect.interrupt)),
          Write: () => Effect.succeed("")
        })
      )))
      assert.strictEqual(result.text, "Done.")
      assert.deepInclude(results()[0], { error: "ToolInterrupted", attempts: 3 })
      assert.strictEqual(attempts, 3)
    }).pipe(Effect.provide(durable)))

  it.effect("are cut off when the time of the run is over", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const { model, results } = told([call("1", "Read", {})])
      const fiber = yield* Agent.run(clerk, { runId: "run-1", prompt: "Go" }).pipe(
        Effect.provide(Layer.merge(
          model,
          shelf.toLayer({
            Read: () => Effect.andThen(Deferred.succeed(started, undefined), Effect.never),
            Write: () => Effect.succeed("")
          })
        )),
        Effect.forkChild
      )
      yield* Deferred.await(started)
      yield* TestClock.adjust("300 seconds")
      const result = yield* Fiber.join(fiber)
      assert.strictEqual(result.completion, "graceful")
      assert.deepInclude(results()[0], { error: "OutOfTime" })
    }).pipe(Effect.provide(durable)))

  it.effect("that must not happen twice get a grace period, and are uncertain after it", () =>
    Effect.gen(function*() {
      const writing = (seconds: number, runId: string) =>
        Effect.gen(function*() {
          const started = yield* Deferred.make<void>()
          const { model, results } = told([call("1", "Write", { text: runId })])
          const fiber = yield* Agent.run(clerk, { runId, prompt: "Go" }).pipe(
            Effect.provide(Layer.merge(
              model,
              shelf.toLayer({
                Read: () => Effect.succeed(""),
                Write: () =>
                  Deferred.succeed(started, undefined).pipe(
                    Effect.andThen(Effect.sleep(seconds * 1000)),
                    Effect.as("written")
                  )
              })
            )),
            Effect.result,
            Effect.forkChild
          )
          yield* Deferred.await(started)
          yield* Effect.forEach(Array.from({ length: 40 }), () => TestClock.adjust("10 seconds"))
          return { result: yield* Fiber.join(fiber), results: results() }
        })
      const inTime = yield* writing(320, "run-1")
      assert.isTrue(inTime.result._tag === "Success" && inTime.result.success.completion === "graceful")
      assert.deepStrictEqual(inTime.results, ["written"])
      const late = yield* writing(340, "run-2")
      assert.isTrue(late.result._tag === "Failure" && late.result.failure._tag === "RunSuspended")
    }).pipe(Effect.provide(durable)))

  it.effect("emit what they came to", () =>
    Effect.gen(function*() {
      const events: Array<Telemetry.Event> = []
      yield* reading([down, down, down]).pipe(
        Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
      )
      const [called, ...others] = events.filter((event) => event._tag === "ToolCalled")
      assert.deepStrictEqual([called?.agent, called?.runId, called?.sessionId], ["clerk", "run-1", "run-1"])
      assert.deepStrictEqual([called?.tool, called?.attempts, called?.outcome], ["Read", 3, "failure"])
      assert.deepStrictEqual(others, [])
      assert.strictEqual(events.filter((event) => event._tag === "ModelCalled").length, 2)
    }))
})

describe("guards of tools", () => {
  it.effect("see each attempt and the tool, and their failures are told to the model", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const guarded = Agent.make({
        name: "guarded",
        instructions: "",
        toolkit: shelf,
        toolBackoff: now,
        policies: {
          tool: (self, { name }) => {
            seen.push(name)
            return name === "Read" ? self : Effect.fail(new Down({ message: "circuit open" }))
          }
        }
      })
      const { model, results } = told([call("1", "Read", {}), call("2", "Write", { text: "x" })])
      yield* Agent.run(guarded, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        model,
        shelf.toLayer({ Read: () => Effect.succeed("text"), Write: () => Effect.succeed("written") })
      )))
      assert.deepStrictEqual(seen.toSorted(), ["Read", "Write"])
      assert.strictEqual(results()[0], "text")
      assert.deepInclude(results()[1], { error: "Down", message: "circuit open" })
    }).pipe(Effect.provide(durable)))
})

describe("results", () => {
  const Dump = Tool.make("Dump", { success: Schema.Unknown }).annotate(Tool.Readonly, true)
  const dumping = Toolkit.make(Dump)
  const dumped = (value: unknown) =>
    Effect.gen(function*() {
      const { model, results } = told([call("1", "Dump", {})])
      yield* Agent.run(
        Agent.make({ name: "dumper", instructions: "", toolkit: dumping, limits: { results: 100 } }),
        { runId: "run-1", prompt: "Go" }
      ).pipe(Effect.provide(Layer.merge(model, dumping.toLayer({ Dump: () => Effect.succeed(value) }))))
      return results()[0]
    }).pipe(Effect.provide(durable))

  it.effect("that are too long are cut, and marked", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* dumped("x".repeat(1_000)), {
        truncated: true,
        message: "the result is longer than 100 characters, this is its beginning",
        start: `"${"x".repeat(99)}`
      })
    }))

  it.effect("that are no JSON are told as such, and are not lost silently", () =>
    Effect.gen(function*() {
      for (const value of [1n, () => 1]) assert.deepInclude(yield* dumped(value), { error: "UnreadableResult" })
      assert.deepStrictEqual(yield* dumped({ at: new Date(0), gone: undefined }), { at: "1970-01-01T00:00:00.000Z" })
      assert.isNull(yield* dumped(undefined))
    }))
})

describe("what a tool shows the model", () => {
  const Shot = Tool.make("Shot", {
    success: Schema.Struct({ files: Schema.Array(Schema.Finite) }),
    toModelOutput: ({ files }) => [
      Prompt.textPart({ text: "Screenshots" }),
      ...files.map((size) =>
        Prompt.filePart({ mediaType: "image/png", fileName: `${size}.png`, data: new Uint8Array(size).fill(200) })
      )
    ]
  }).annotate(Tool.Readonly, true)
  const camera = Toolkit.make(Shot)

  it.effect("keeps the files that fit by the length of their base64, and marks those that do not", () =>
    Effect.gen(function*() {
      let shown: unknown
      const script: ScriptedModel.Script = (request) => {
        const message = request.prompt.content.findLast((message) => message.role === "tool")
        if (message === undefined) return call("1", "Shot", {})
        const [part] = message.content
        shown = part?.type === "tool-result" ? part.modelOutput : undefined
        return "Done."
      }
      const agent = Agent.make({ name: "camera", instructions: "", toolkit: camera, limits: { results: 1_000 } })
      const run = Agent.run(agent, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        camera.toLayer({ Shot: () => Effect.succeed({ files: [600, 700, 60] }) }),
        ScriptedModel.layer(script)
      )))
      yield* run
      const file = (size: number) =>
        Prompt.filePart({ mediaType: "image/png", fileName: `${size}.png`, data: new Uint8Array(size).fill(200) })
      assert.deepStrictEqual(shown, [
        Prompt.textPart({ text: "Screenshots" }),
        file(600),
        Prompt.textPart({
          text: "[image/png 700.png left out: its 936 characters are more than are left of the 1000 of a result]"
        }),
        file(60)
      ])
    }).pipe(Effect.provide(durable)))
})

describe("text that is cut", () => {
  it.effect("never ends in half a character", () =>
    Effect.gen(function*() {
      const Say = Tool.make("Say", { success: Schema.String, failure: Schema.String }).annotate(Tool.Readonly, true)
      const saying = Toolkit.make(Say)
      const smiles = "🙂".repeat(2_000)
      for (const padding of ["", "x"]) {
        for (const answer of [Effect.succeed(padding + smiles), Effect.fail(padding + smiles)]) {
          const { model, results } = told([call("1", "Say", {}), call("2", `${padding}${smiles}`, {})])
          yield* Agent.run(
            Agent.make({ name: "sayer", instructions: "", toolkit: saying, limits: { results: 100 } }),
            { runId: "run-1", prompt: "Go" }
          ).pipe(Effect.provide(Layer.mergeAll(model, saying.toLayer({ Say: () => answer }), Layer.fresh(durable))))
          assert.notMatch(JSON.stringify(results()), /\\ud[89a-f]/)
        }
      }
    }))
})

describe("a call whose result cannot be read", () => {
  it.effect("has happened, says so, and is not repeated by an equal call", () =>
    Effect.gen(function*() {
      const Send = Tool.make("Send", { success: Schema.String.check(Schema.isMinLength(3)) })
      const sending = Toolkit.make(Send)
      let sent = 0
      const { model, results } = told([call("1", "Send", {}), call("2", "Send", {})])
      yield* Agent.run(Agent.make({ name: "sender", instructions: "", toolkit: sending, concurrency: 1 }), {
        runId: "run-1",
        prompt: "Go"
      }).pipe(Effect.provide(Layer.merge(
        model,
        sending.toLayer({ Send: () => Effect.sync(() => (sent++, "x")) })
      )))
      assert.strictEqual(sent, 1)
      for (const result of results()) {
        assert.deepInclude(result, { error: "UnreadableResult", attempts: 1 })
        assert.match(JSON.stringify(result), /"message":"the tool has run, but/)
      }
    }).pipe(Effect.provide(durable)))
})

describe("a tool that dies", () => {
  it.effect("is in the log with its defect, whatever a repetition means", () =>
    Effect.gen(function*() {
      const messages: Array<unknown> = []
      const logger = Logger.layer([Logger.make(({ cause, logLevel, message }) => {
        if (logLevel === "Error") messages.push([message, Cause.squash(cause)].flat().map(String))
      })])
      const { model } = told([call("1", "Read", {}), call("2", "Write", { text: "x" })])
      yield* Agent.run(clerk, { runId: "run-1", prompt: "Go" }).pipe(
        Effect.provide(Layer.mergeAll(
          model,
          logger,
          shelf.toLayer({ Read: () => Effect.die(new Error("one")), Write: () => Effect.die(new Error("two")) })
        )),
        Effect.provideService(Telemetry.CaptureContent, true),
        Effect.exit
      )
      assert.sameDeepMembers(messages, [["tool Read died", "Error: one"], ["tool Write died", "Error: two"]])
    }).pipe(Effect.provide(durable)))
})

describe("a call of a tool that must not happen twice is heard of once", () => {
  const heard = (
    write: Effect.Effect<string>,
    idempotency: Layer.Layer<Idempotency.Idempotency> = Idempotency.layerMemory
  ) =>
    Effect.gen(function*() {
      const events: Array<readonly [outcome: string, attempts: number]> = []
      const { model } = told([call("1", "Write", { text: "x" })])
      const exit = yield* Agent.run(clerk, { runId: "run-1", prompt: "Go" }).pipe(
        Effect.provide(
          Layer.mergeAll(model, shelf.toLayer({ Read: () => Effect.succeed(""), Write: () => write }), idempotency)
        ),
        Effect.provideService(Telemetry.Listener, (event) => {
          if (event._tag === "ToolCalled") events.push([event.outcome, event.attempts])
        }),
        Effect.provideService(Telemetry.CaptureContent, false),
        Effect.result
      )
      return { events, exit }
    }).pipe(Effect.provide(durable), Effect.provide(Logger.layer([])))

  it.effect("where its result was recorded and nobody was told so", () =>
    Effect.gen(function*() {
      const store = yield* Idempotency.makeStoreMemory()
      const unacknowledged = Layer.effect(
        Idempotency.Idempotency,
        Idempotency.make({
          store: { ...store, put: (...args) => Effect.andThen(store.put(...args), Effect.never) },
          storeTimeout: "1 millis"
        })
      )
      const fiber = yield* Effect.forkChild(heard(Effect.succeed("written"), unacknowledged))
      while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("1 millis")
      const { events, exit } = yield* Fiber.join(fiber)
      assert.isTrue(exit._tag === "Success" && exit.success.counters.toolErrors === 0)
      assert.deepStrictEqual(events, [["success", 1]])
    }))

  it.effect("where it died", () =>
    Effect.gen(function*() {
      const { events, exit } = yield* heard(Effect.die("a bug"))
      assert.isTrue(exit._tag === "Failure" && exit.failure._tag === "RunSuspended")
      assert.deepStrictEqual(events, [["failure", 1]])
    }))
})

describe("keys", () => {
  it.effect("are the same for every attempt and for equal calls, and others for other runs", () =>
    Effect.gen(function*() {
      const keys: Array<string> = []
      const calls: Array<AgentTools.ToolCall> = []
      const run = (runId: string) =>
        Effect.gen(function*() {
          const { model } = told([call("1", "Write", { text: "x" }), call("2", "Write", { text: "y" })])
          yield* Agent.run(clerk, { runId, prompt: "Go" }).pipe(Effect.provide(Layer.merge(
            model,
            shelf.toLayer({
              Read: () => Effect.succeed(""),
              Write: Effect.fnUntraced(function*({ text }) {
                const current = yield* AgentTools.CurrentToolCall
                if (current === undefined) return "?"
                calls.push(current)
                keys.push(`${text} ${current.idempotencyKey}`)
                return current.attempt < 2 ? yield* new Busy({ message: "full" }) : "written"
              })
            })
          )))
        })
      yield* run("run-1")
      yield* run("run-2")
      assert.strictEqual(keys.length, 8)
      assert.strictEqual(new Set(keys).size, 4)
      const first = calls[0]
      assert.deepInclude(first, { agent: "clerk", runId: "run-1", tool: "Write", attempt: 1 })
      assert.match(first?.idempotencyKey ?? "", /^[0-9a-f]{64}$/)
    }).pipe(Effect.provide(durable)))

  it.effect("let an equal call that must not happen twice answer with the first one's result", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const refund = (id: string) => call(id, "Refund", { order: "7" })
      const result = yield* Agent.run(support, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        handlers,
        ScriptedModel.layer([ScriptedModel.turn(refund("1"), refund("2")), refund("3"), "Done."])
      )))
      assert.strictEqual(result.counters.toolErrors, 0)
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
    }).pipe(Effect.provide(durable)))

  it.effect("are made of what the tool's schema keeps, and of nothing that a model adds", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      yield* Agent.run(support, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        handlers,
        ScriptedModel.layer([
          call("1", "Refund", { order: "7" }),
          call("2", "Refund", { order: "7", note: "again" }),
          call("3", "Refund", { order: "8", note: "again" }),
          "Done."
        ])
      )))
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7", "8"])
    }).pipe(Effect.provide(durable)))

  it.effect("cannot be made of broken text, which is refused before anything runs", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const { model, results } = told([call("1", "Refund", { order: "\ud800" })])
      yield* Agent.run(support, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(handlers, model)))
      assert.deepInclude(results()[0], { error: "InvalidArguments", attempts: 0 })
      assert.deepStrictEqual(yield* Ref.get(refunds), [])
    }).pipe(Effect.provide(durable)))

  it.effect("are not looked at where dedupe is off", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const eager = Agent.make({
        name: "eager",
        instructions: "",
        toolkit: kit,
        tools: { Refund: { dedupe: false } }
      })
      const refund = (id: string) => call(id, "Refund", { order: "7" })
      yield* Agent.run(eager, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        handlers,
        ScriptedModel.layer([ScriptedModel.turn(refund("1"), refund("2")), "Done."])
      )))
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7", "7"])
    }).pipe(Effect.provide(durable)))
})

describe("parallel calls", () => {
  it.effect("run at the same time within the bound, and are told in the order of the calls", () =>
    Effect.gen(function*() {
      const Wait = Tool.make("Wait", { parameters: Schema.Struct({ seconds: Schema.Number }), success: Schema.Number })
        .annotate(Tool.Readonly, true)
      const waiting = Toolkit.make(Wait)
      let running = 0
      let most = 0
      const handlers = waiting.toLayer({
        Wait: ({ seconds }) =>
          Effect.acquireUseRelease(
            Effect.sync(() => most = Math.max(most, ++running)),
            () => Effect.as(Effect.sleep(seconds * 1000), seconds),
            () => Effect.sync(() => running--)
          )
      })
      const agent = Agent.make({ name: "waiter", instructions: "", toolkit: waiting, concurrency: 2 })
      // Models repeat ids.
      const { model, results } = told([5, 4, 3, 2, 1].map((seconds) => call("same", "Wait", { seconds })))
      const options = { runId: "run-1", prompt: "Go" }
      const fiber = yield* Agent.run(agent, options).pipe(
        Effect.provide(Layer.merge(handlers, model)),
        Effect.forkChild
      )
      yield* Effect.forEach(Array.from({ length: 30 }), () => TestClock.adjust("1 second"))
      const first = yield* Fiber.join(fiber)
      assert.deepStrictEqual(results(), [5, 4, 3, 2, 1])
      assert.deepStrictEqual([most, running], [2, 0])
      const second = yield* Agent.run(agent, options).pipe(
        Effect.provide(Layer.merge(handlers, ScriptedModel.layer([])))
      )
      assert.deepStrictEqual(
        second.turns.map((turn) => turn.toolCalls.length),
        first.turns.map((t) => t.toolCalls.length)
      )
      assert.strictEqual(most, 2)
    }).pipe(Effect.provide(durable)))

  it.effect("are all stopped by an interruption, and none is left running", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      let open = 0
      const handlers = shelf.toLayer({
        Read: () =>
          Effect.acquireUseRelease(
            Effect.sync(() => ++open).pipe(
              Effect.tap((n) => n === 2 ? Deferred.succeed(started, undefined) : Effect.void)
            ),
            () => Effect.never,
            () => Effect.sync(() => open--)
          ),
        Write: () => Effect.succeed("")
      })
      const { model } = told([call("1", "Read", {}), call("2", "Read", {})])
      const fiber = yield* Agent.run(clerk, { runId: "run-1", prompt: "Go" }).pipe(
        Effect.provide(Layer.merge(handlers, model)),
        Effect.forkChild
      )
      yield* Deferred.await(started)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(open, 0)
      const result = yield* Agent.run(clerk, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        shelf.toLayer({ Read: () => Effect.succeed("text"), Write: () => Effect.succeed("") }),
        ScriptedModel.layer(["Done."])
      )))
      assert.strictEqual(result.counters.replayedSteps, 1)
    }).pipe(Effect.provide(durable)))
})

const decide = (decision: EscalationQueue.Decision) =>
  Effect.gen(function*() {
    const queue = yield* EscalationQueue.EscalationQueue
    const open = yield* queue.list({ status: "open" })
    assert.strictEqual(open.length, 1)
    for (const { id } of open) yield* queue.decide(id, decision, { by: "ann" })
    return open[0]
  })

describe("approvals", () => {
  const Pay = Tool.make("Pay", {
    parameters: Schema.Struct({ amount: Schema.Number }),
    success: Schema.Struct({ paid: Schema.Number }),
    needsApproval: ({ amount }) => amount > 100
  })
  const Note = Tool.make("Note", { success: Schema.String }).annotate(Tool.Readonly, true)
  const paying = Toolkit.make(Pay, Note)
  const payer = Agent.make({ name: "payer", instructions: "", toolkit: paying })
  const setup = Effect.gen(function*() {
    const paid: Array<number> = []
    let notes = 0
    const handlers = paying.toLayer({
      Pay: ({ amount }) => Effect.sync(() => (paid.push(amount), { paid: amount })),
      Note: () => Effect.sync(() => `note ${++notes}`)
    })
    const script = told([call("1", "Pay", { amount: 900 }), call("2", "Note", {}), call("3", "Pay", { amount: 5 })])
    const run = Agent.run(payer, { runId: "run-1", prompt: "Go" }).pipe(
      Effect.provide(Layer.merge(handlers, script.model))
    )
    const suspended = yield* Effect.flip(run)
    assert.strictEqual(suspended._tag, "RunSuspended")
    return { paid, run, results: script.results, notes: () => notes }
  })

  it.effect("suspend the run after the calls that need none, and go on with the decision", () =>
    Effect.gen(function*() {
      const { notes, paid, results, run } = yield* setup
      assert.deepStrictEqual([paid, notes()], [[5], 1])
      assert.strictEqual((yield* Effect.flip(run))._tag, "RunSuspended")
      const asked = yield* decide({ _tag: "Approve" })
      assert.strictEqual(asked?.reason, "IrreversibleAction")
      assert.include(asked?.task, `Pay({"amount":900})`)
      assert.deepStrictEqual(asked?.about, { tool: "Pay", arguments: { amount: 900 } })
      const result = yield* run
      assert.strictEqual(result.text, "Done.")
      assert.deepStrictEqual(results(), [{ paid: 900 }, "note 1", { paid: 5 }])
      assert.deepStrictEqual([paid, notes()], [[5, 900], 1])
    }).pipe(Effect.provide(durable)))

  it.effect("that are rejected become an error that the model reads", () =>
    Effect.gen(function*() {
      const { paid, results, run } = yield* setup
      yield* decide({ _tag: "Reject", reason: "too much" })
      yield* run
      assert.deepInclude(results()[0], { error: "Rejected" })
      assert.include(JSON.stringify(results()[0]), "too much")
      assert.deepStrictEqual(paid, [5])
    }).pipe(Effect.provide(durable)))

  it.effect("that supply a value use it as the result", () =>
    Effect.gen(function*() {
      const { paid, results, run } = yield* setup
      yield* decide({ _tag: "Supply", value: { paid: 0 } })
      const result = yield* run
      assert.deepStrictEqual(results()[0], { paid: 0 })
      assert.strictEqual(result.counters.toolErrors, 0)
      assert.deepStrictEqual(paid, [5])
    }).pipe(Effect.provide(durable)))

  it.effect("that supply what is no result of the tool are told so before it is recorded, and decided again", () =>
    Effect.gen(function*() {
      const Even = Schema.Int.check(Schema.makeFilter((n: number) => n % 2 === 0 || "odd"))
      const choosing = Toolkit.make(Tool.make("Choose", { success: Even, needsApproval: true }))
      const { model, results } = told([call("1", "Choose", {})])
      const run = Agent.run(Agent.make({ name: "chooser", instructions: "", toolkit: choosing }), {
        runId: "run-1",
        prompt: "Go"
      }).pipe(Effect.provide(Layer.merge(model, choosing.toLayer({ Choose: () => Effect.die("not approved") }))))
      yield* Effect.flip(run)
      yield* decide({ _tag: "Supply", value: 3 })
      assert.instanceOf(yield* Effect.flip(run), Checkpoint.RunSuspended)
      yield* decide({ _tag: "Supply", value: 4 })
      yield* run
      assert.deepStrictEqual(results(), [4])
    }).pipe(Effect.provide(durable)))

  it.effect("that are abandoned end the run", () =>
    Effect.gen(function*() {
      const { run } = yield* setup
      yield* decide({ _tag: "Abandon", reason: "closed" })
      const error = yield* Effect.flip(run)
      assert.isTrue(
        error._tag === "AgentError" && error.reason._tag === "Abandoned" && error.reason.reason === "closed"
      )
    }).pipe(Effect.provide(durable)))

  it.effect("are seen as waitingForHuman", () =>
    Effect.gen(function*() {
      const { model } = told([call("1", "Pay", { amount: 900 })])
      const running = yield* Agent.start(payer, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        paying.toLayer({ Pay: () => Effect.succeed({ paid: 1 }), Note: () => Effect.succeed("") }),
        model
      )))
      yield* Effect.flip(running.result)
      assert.strictEqual(yield* running.state, "waitingForHuman")
      assert.deepStrictEqual((yield* Checkpoint.status("run-1"))._tag, "Some")
    }).pipe(Effect.scoped, Effect.provide(durable)))

  it.effect("are not asked for where the arguments are wrong", () =>
    Effect.gen(function*() {
      const { model, results } = told([call("1", "Pay", { amount: "much" })])
      yield* Agent.run(payer, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        paying.toLayer({ Pay: () => Effect.succeed({ paid: 1 }), Note: () => Effect.succeed("") }),
        model
      )))
      assert.deepInclude(results()[0], { error: "InvalidArguments" })
    }).pipe(Effect.provide(durable)))

  it.effect("are asked for before everything that must not happen twice, if the agent says so", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const careful = Agent.make({ name: "careful", instructions: "", toolkit: kit, approval: "atMostOnce" })
      const { model } = told([call("1", "Refund", { order: "7" })])
      const run = Agent.run(careful, { runId: "run-1", prompt: "Go" }).pipe(
        Effect.provide(Layer.merge(handlers, model))
      )
      yield* Effect.flip(run)
      assert.deepStrictEqual(yield* Ref.get(refunds), [])
      yield* decide({ _tag: "Approve" })
      yield* run
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
    }).pipe(Effect.provide(durable)))
})

describe("calls that may have happened", () => {
  const lost = new Lost({ message: "reset" })
  const writing = (
    handler: Effect.Effect<string, Lost>,
    tools: { readonly Write?: AgentTools.ToolOptions<typeof Write> } = {}
  ) => {
    const script = told([call("1", "Write", { text: "x" }), call("2", "Read", {})])
    const run = Agent.run(
      Agent.make({ name: "writer", instructions: "", toolkit: shelf, toolBackoff: now, tools }),
      { runId: "run-1", prompt: "Go" }
    ).pipe(Effect.provide(Layer.merge(
      script.model,
      shelf.toLayer({ Read: () => Effect.succeed("text"), Write: () => handler })
    )))
    return { run, results: script.results }
  }

  it.effect("are never repeated: people are asked, and what they supply is the result", () =>
    Effect.gen(function*() {
      let writes = 0
      const { results, run } = writing(Effect.suspend(() => (writes++, Effect.fail(lost))))
      const suspended = yield* Effect.flip(run)
      assert.strictEqual(suspended._tag, "RunSuspended")
      const asked = yield* decide({ _tag: "Supply", value: "written by hand" })
      assert.strictEqual(asked?.reason, "AmbiguousState")
      yield* run
      assert.deepStrictEqual([writes, results()], [1, ["written by hand", "text"]])
    }).pipe(Effect.provide(durable)))

  it.effect("run once more where people say that nothing happened", () =>
    Effect.gen(function*() {
      let writes = 0
      const { results, run } = writing(
        Effect.suspend(() => writes++ === 0 ? Effect.fail(lost) : Effect.succeed("written"))
      )
      yield* Effect.flip(run)
      yield* decide({ _tag: "Retry" })
      yield* run
      assert.deepStrictEqual([writes, results()], [2, ["written", "text"]])
    }).pipe(Effect.provide(durable)))

  it.effect("end the run where people abandon it", () =>
    Effect.gen(function*() {
      const { run } = writing(Effect.fail(lost))
      yield* Effect.flip(run)
      yield* decide({ _tag: "Abandon", reason: "hopeless" })
      const error = yield* Effect.flip(run)
      assert.isTrue(error._tag === "AgentError" && error.reason._tag === "Abandoned")
    }).pipe(Effect.provide(durable)))

  it.effect("are settled by the tool's own reconcile, and nobody is asked", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const { results, run } = writing(Effect.fail(lost), {
        Write: {
          reconcile: (call) => Effect.sync(() => (seen.push(call.params), Checkpoint.happened("found it")))
        }
      })
      yield* run
      assert.deepStrictEqual(results(), ["found it", "text"])
      assert.deepStrictEqual(seen, [{ text: "x" }])
    }).pipe(Effect.provide(durable)))

  it.effect("that turn out not to have happened are told to the model, the same on a replay", () =>
    Effect.gen(function*() {
      let writes = 0
      const { results, run } = writing(Effect.suspend(() => (writes++, Effect.fail(lost))), {
        Write: { reconcile: () => Effect.succeed(Checkpoint.notHappened) }
      })
      const first = yield* run
      assert.deepInclude(results()[0], { error: "Lost", message: "reset", attempts: 1 })
      const second = yield* run
      assert.strictEqual(writes, 1)
      assert.strictEqual(second.counters.toolErrors, first.counters.toolErrors)
    }).pipe(Effect.provide(durable)))

  it.effect("go to people where reconcile does not know or fails", () =>
    Effect.gen(function*() {
      const { run } = writing(Effect.fail(lost), { Write: { reconcile: () => Effect.fail("down too") } })
      assert.strictEqual((yield* Effect.flip(run))._tag, "RunSuspended")
    }).pipe(Effect.provide(durable)))

  it.effect("are as uncertain after a defect as after a reset", () =>
    Effect.gen(function*() {
      const { results, run } = writing(Effect.die("bug"))
      assert.strictEqual((yield* Effect.flip(run))._tag, "RunSuspended")
      yield* decide({ _tag: "Supply", value: "it was written" })
      yield* run
      assert.deepStrictEqual(results()[0], "it was written")
    }).pipe(Effect.provide(durable)))

  it.effect("are not repeated by a later equal call either, once they are known to have happened", () =>
    Effect.gen(function*() {
      let writes = 0
      const write = (id: string) => call(id, "Write", { text: "x" })
      const run = Agent.run(clerk, { runId: "run-1", prompt: "Go" }).pipe(Effect.provide(Layer.merge(
        ScriptedModel.layer((request) =>
          request.prompt.content.filter((m) => m.role === "tool").length < 2
            ? write(String(request.index))
            : "Done."
        ),
        shelf.toLayer({
          Read: () => Effect.succeed("text"),
          Write: () => Effect.suspend(() => (writes++, Effect.fail(lost)))
        })
      )))
      yield* Effect.flip(run)
      yield* decide({ _tag: "Supply", value: "written" })
      const result = yield* run
      assert.deepStrictEqual([writes, result.counters.toolErrors], [1, 0])
    }).pipe(Effect.provide(durable)))
})

describe("effectsOf", () => {
  it("takes a tool to be destructive unless it says otherwise", () => {
    assert.strictEqual(AgentTools.effectsOf(Refund), "atMostOnce")
    assert.strictEqual(AgentTools.effectsOf(Refund.annotate(Tool.Idempotent, true)), "idempotent")
    assert.strictEqual(AgentTools.effectsOf(Refund.annotate(Tool.Readonly, true)), "idempotent")
  })
})
