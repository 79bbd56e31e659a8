import { assert, describe } from "@effect/vitest"
import {
  Clock,
  Deferred,
  Duration,
  Effect,
  Fiber,
  flow,
  Layer,
  Logger,
  Ref,
  References,
  Schema,
  Stream,
  SubscriptionRef
} from "effect"
import { Agent, Backoff, Checkpoint, CheckpointStore, CircuitBreaker, Fault, Retry, Telemetry } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { AiError, LanguageModel, Prompt, Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"
import { replaying } from "../support/replaying.ts"
import { call, counting, durable, kit, lastResults } from "./support.ts"

const it = replaying({
  "calls tools in a loop until the model answers": "it counts the steps that were replayed: none",
  "replays a completed run from its journal, without the model or the tools, and says so":
    "its first life has replayed steps too"
})

const agent = Agent.make({ name: "support", instructions: "Be kind.", toolkit: kit })
const talker = Agent.make({ name: "talker", instructions: "Talk." })
const store = CheckpointStore.layerMemory

const talk = (script: ScriptedModel.Script, prompt = "Hello", by = talker) =>
  Agent.run(by, { runId: "talk-1", prompt }).pipe(Effect.provide(ScriptedModel.layer(script)))

describe("Agent.run", () => {
  it.effect("calls tools in a loop until the model answers", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      yield* Effect.gen(function*() {
        const result = yield* Agent.run(agent, { runId: "run-1", prompt: "Refund order 7" })
        assert.strictEqual(result.text, "Done.")
        assert.strictEqual(result.value, "Done.")
        assert.strictEqual(result.completion, "complete")
        assert.deepStrictEqual(result.counters, {
          iterations: 3,
          toolCalls: 2,
          toolErrors: 0,
          retries: 0,
          repairs: 0,
          loops: 0,
          compactions: 0,
          rollbacks: 0,
          reviews: 0,
          cuts: 0,
          unmetered: 0,
          replayedSteps: 0
        })
        assert.deepStrictEqual(result.usage, {
          inputTokens: 30,
          outputTokens: 6,
          cacheReadTokens: 0,
          cacheWriteTokens: 0
        })
        assert.isUndefined(result.cost)
        assert.deepStrictEqual(
          result.turns.map((turn) => turn.toolCalls.map((call) => call.name)),
          [["Lookup"], ["Refund"], []]
        )
        const requests = yield* ScriptedModel.requests
        assert.deepStrictEqual(
          requests.at(-1)?.prompt.content.map((message) => message.role),
          ["system", "user", "assistant", "tool", "assistant", "tool"]
        )
        assert.deepStrictEqual(lastResults(requests[1]), [{ price: 10 }])
        assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
      }).pipe(Effect.provide(Layer.mergeAll(
        handlers,
        ScriptedModel.layer([
          ScriptedModel.turn("Let me see.", call("1", "Lookup", { order: "7" }), {
            usage: { inputTokens: 10, outputTokens: 2 }
          }),
          ScriptedModel.turn(call("2", "Refund", { order: "7" }), { usage: { inputTokens: 10, outputTokens: 2 } }),
          ScriptedModel.text("Done.", { usage: { inputTokens: 10, outputTokens: 2 } })
        ])
      )))
    }).pipe(Effect.provide(durable)))

  it.effect("replays a completed run from its journal, without the model or the tools, and says so", () =>
    Effect.gen(function*() {
      const { handlers, lookups, refunds } = yield* counting
      const options = { runId: "run-1", prompt: "Refund order 7" }
      const first = yield* Agent.run(agent, options).pipe(Effect.provide(Layer.mergeAll(
        handlers,
        ScriptedModel.layer([call("1", "Lookup", { order: "7" }), call("2", "Refund", { order: "7" }), "Done."])
      )))
      const second = yield* Agent.run(agent, options).pipe(
        Effect.provide(Layer.mergeAll(handlers, ScriptedModel.layer([])))
      )
      assert.strictEqual(second.text, first.text)
      assert.deepStrictEqual(second.usage, first.usage)
      assert.deepStrictEqual(second.counters, { ...first.counters, replayedSteps: 5 })
      assert.isTrue(second.turns.every((turn) => turn.replayed && turn.toolCalls.every((call) => call.replayed)))
      assert.isFalse(first.turns.some((turn) => turn.replayed))
      assert.deepStrictEqual([yield* Ref.get(lookups), yield* Ref.get(refunds)], [1, ["7"]])
    }).pipe(Effect.provide(durable)))

  it.effect("refuses another prompt for a run that exists", () =>
    Effect.gen(function*() {
      yield* talk(["Hi"])
      const error = yield* Effect.flip(talk(["Hi"], "Good bye"))
      assert.strictEqual(error._tag, "RunConflict")
    }).pipe(Effect.provide(store)))

  it.effect("takes a whole conversation as its prompt", () =>
    Effect.gen(function*() {
      const prompt = Prompt.make([
        { role: "user", content: "Hello" },
        { role: "assistant", content: "Hi" },
        { role: "user", content: [{ type: "file", mediaType: "image/png", data: new Uint8Array([1, 2, 3]) }] }
      ])
      const run = Agent.run(talker, { runId: "talk-1", prompt })
      yield* run.pipe(Effect.provide(ScriptedModel.layer(["A picture."])))
      assert.strictEqual((yield* run.pipe(Effect.provide(ScriptedModel.layer([])))).text, "A picture.")
    }).pipe(Effect.provide(store)))

  it.effect("waits out a provider that is overloaded for 20 minutes", () =>
    Effect.gen(function*() {
      const patient = Agent.make({
        name: "patient",
        instructions: "",
        budget: { wallTime: "1 hour" },
        policies: {
          model: flow(
            CircuitBreaker.protect("anthropic"),
            Retry.apply(Retry.policy({
              maxAttempts: 200,
              backoff: Backoff.constant({ delay: "20 seconds", cap: "2 minutes" }),
              retryIf: (_, verdict) => verdict._tag === "Rejected" ? true : undefined
            }))
          )
        }
      })
      const outage = ScriptedModel.layer(() =>
        Effect.flatMap(Clock.currentTimeMillis, (now) =>
          now < 20 * 60_000
            ? Effect.fail(ScriptedModel.fail(Fault.overloaded()))
            : Effect.succeed("At last."))
      )
      const fiber = yield* Agent.run(patient, { runId: "run-1", prompt: "Hello" }).pipe(
        Effect.provide(Layer.mergeAll(outage, CircuitBreaker.layer())),
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust("19 minutes")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("3 minutes")
      const result = yield* Fiber.join(fiber)
      assert.strictEqual(result.text, "At last.")
      assert.isAtLeast(result.counters.retries, 4)
      assert.isAtLeast(Duration.toMillis(result.elapsed), 20 * 60_000)
    }).pipe(Effect.provide(store)))

  it.effect("keeps the answers of an outage that outlasts its guard, and goes on when run again", () =>
    Effect.gen(function*() {
      const { handlers, lookups } = yield* counting
      const options = { runId: "run-1", prompt: "What is the price of 7?" }
      const error = yield* Agent.run(agent, options).pipe(
        Effect.provide(Layer.mergeAll(
          handlers,
          ScriptedModel.layer([call("1", "Lookup", { order: "7" }), ScriptedModel.fail(Fault.overloaded())])
        )),
        Effect.flip
      )
      assert.isTrue(AiError.isAiError(error))
      const result = yield* Agent.run(agent, options).pipe(
        Effect.provide(Layer.mergeAll(handlers, ScriptedModel.layer(["10."])))
      )
      assert.strictEqual(result.text, "10.")
      assert.strictEqual(yield* Ref.get(lookups), 1)
    }).pipe(Effect.provide(durable)))
})

describe("answers that are none", () => {
  const failsWith = (script: ScriptedModel.Script, by = talker) =>
    Effect.map(Effect.flip(talk(script, "Hello", by)), (error) => error._tag === "AgentError" ? error : undefined)

  it.effect("fails with a refusal, whose verdict is Refused", () =>
    Effect.gen(function*() {
      const error = yield* failsWith([ScriptedModel.text("No.", { finishReason: "content-filter" })])
      assert.deepStrictEqual(error?.reason, { _tag: "Refused", text: "No." })
      assert.strictEqual((yield* Fault.classify(error))._tag, "Refused")
      assert.include(error?.message, `run "talk-1"`)
    }).pipe(Effect.provide(store)))

  it.effect("fails with a truncated answer and never runs the tools in it", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const error = yield* Agent.run(agent, { runId: "run-1", prompt: "Refund" }).pipe(
        Effect.provide(Layer.mergeAll(
          handlers,
          ScriptedModel.layer([
            ScriptedModel.turn("I will", call("1", "Refund", { order: "7" }), { finishReason: "length" })
          ])
        )),
        Effect.flip
      )
      assert.strictEqual(error._tag === "AgentError" ? error.reason._tag : error._tag, "Truncated")
      assert.deepStrictEqual(yield* Ref.get(refunds), [])
    }).pipe(Effect.provide(durable)))

  it.effect("fails with an answer in one piece that has no end", () =>
    Effect.gen(function*() {
      const whole = Agent.make({ name: "talker", instructions: "Talk.", stream: false })
      const error = yield* failsWith([[{ type: "text", text: "I was about to" }]], whole)
      assert.deepStrictEqual(error?.reason, { _tag: "IncompleteAnswer", finishReason: "unknown" })
    }).pipe(Effect.provide(store)))

  it.effect("asks again once where the answer is empty", () =>
    Effect.gen(function*() {
      const result = yield* talk([ScriptedModel.turn(), "Hi"])
      assert.strictEqual(result.text, "Hi")
      assert.strictEqual(result.counters.retries, 1)
      const error = yield* Effect.flip(
        Agent.run(talker, { runId: "talk-2", prompt: "Hello" }).pipe(
          Effect.provide(ScriptedModel.layer([ScriptedModel.turn(), ScriptedModel.turn(), "Hi"]))
        )
      )
      assert.strictEqual(error._tag === "AgentError" ? error.reason._tag : error._tag, "EmptyAnswer")
    }).pipe(Effect.provide(store)))

  it.effect("lets the model's guard retry what is not an answer", () =>
    Effect.gen(function*() {
      const careful = Agent.make({
        name: "careful",
        instructions: "",
        policies: { model: Retry.apply(Retry.policy({ backoff: Backoff.constant({ delay: 0 }) })) }
      })
      const result = yield* Agent.run(careful, { runId: "run-1", prompt: "Hello" }).pipe(
        Effect.provide(ScriptedModel.layer([
          ScriptedModel.text("It is", { finishReason: "length", usage: { outputTokens: 7 } }),
          ScriptedModel.text("It is so.", { usage: { outputTokens: 3 } })
        ]))
      )
      assert.strictEqual(result.text, "It is so.")
      assert.strictEqual(result.usage.outputTokens, 10)
    }).pipe(Effect.provide(store)))

  it.effect("sends a paused answer back and joins what comes", () =>
    Effect.gen(function*() {
      const { requests, result } = yield* Effect.gen(function*() {
        const result = yield* Agent.run(talker, { runId: "talk-1", prompt: "Tell" })
        return { result, requests: yield* ScriptedModel.requests }
      }).pipe(Effect.provide(ScriptedModel.layer([
        ScriptedModel.text("Once upon ", { finishReason: "pause" }),
        "a time."
      ])))
      assert.strictEqual(result.text, "Once upon a time.")
      assert.strictEqual(requests[1]?.prompt.content.at(-1)?.role, "assistant")
    }).pipe(Effect.provide(store)))
})

describe("AgentError", () => {
  it.effect("survives a journal", () =>
    Effect.gen(function*() {
      const codec = Schema.toCodecJson(Agent.AgentError)
      const base = { agent: "a", runId: "r", turn: 2 }
      for (
        const reason of [
          { _tag: "Refused", text: "No." },
          { _tag: "IncompleteAnswer", finishReason: "unknown" },
          { _tag: "BudgetExhausted", budget: "cost", cause: "down" },
          { _tag: "Abandoned", tool: "Pay", reason: "closed" }
        ] as const
      ) {
        const error = new Agent.AgentError({ ...base, reason })
        const back = yield* Schema.decodeEffect(codec)(yield* Schema.encodeEffect(codec)(error))
        assert.strictEqual(back.message, error.message)
        assert.deepStrictEqual(back.reason, error.reason)
      }
    }))
})

describe("a result schema", () => {
  const Verdict = Schema.Struct({ score: Schema.Int, on: Schema.DateTimeUtcFromString })
  const judge = Agent.make({ name: "judge", instructions: "Judge.", result: Verdict })
  const good = `{"score":3,"on":"2026-01-01T00:00:00.000Z"}`
  const judged = (script: ScriptedModel.Script) =>
    Effect.gen(function*() {
      const result = yield* Agent.run(judge, { runId: "run-1", prompt: "Judge this" })
      return { result, requests: yield* ScriptedModel.requests }
    }).pipe(Effect.provide(ScriptedModel.layer(script)), Effect.provide(store))

  it.effect("decodes the final answer, also out of a code block", () =>
    Effect.gen(function*() {
      const { requests, result } = yield* judged([`\`\`\`json\n${good}\n\`\`\``])
      assert.strictEqual(result.value?.score, 3)
      const system = requests[0]?.prompt.content[0]
      assert.isTrue(system?.role === "system" && system.content.includes(`"score"`))
    }))

  it.effect("asks again with the error where it does not match", () =>
    Effect.gen(function*() {
      const { requests, result } = yield* judged(["Three.", `{"score":"three"}`, good])
      assert.strictEqual(result.value?.score, 3)
      assert.strictEqual(result.counters.repairs, 2)
      const last = requests[2]?.prompt.content.at(-1)
      assert.isTrue(last?.role === "user" && JSON.stringify(last.content).includes("score"))
    }))

  it.effect("gives up after the last repair", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(judged(["a", "b", "c", good]))
      assert.isTrue(
        error._tag === "AgentError" && error.reason._tag === "InvalidResult" && error.reason.repairs === 2
      )
    }))
})

describe("budgets", () => {
  const looping = (budget: Parameters<typeof Agent.make>[0]["budget"], script: ScriptedModel.Script) =>
    Effect.gen(function*() {
      const { handlers, lookups } = yield* counting
      const events: Array<Telemetry.Event> = []
      const result = yield* Agent.run(
        // In one piece: the stream of a model that never says anything is cut long before.
        Agent.make({ name: "looper", instructions: "", toolkit: kit, budget, stream: false }),
        { runId: "run-1", prompt: "Go" }
      ).pipe(
        Effect.provide(Layer.mergeAll(handlers, ScriptedModel.layer(script))),
        Effect.provideService(Telemetry.Listener, (event) => void events.push(event)),
        Effect.result
      )
      return { result, lookups: yield* Ref.get(lookups), events }
    })

  const forever: ScriptedModel.Script = (request) =>
    request.toolChoice === "none"
      ? "The best so far."
      : ScriptedModel.turn(call(`call-${request.index}`, "Lookup", { order: String(request.index) }), {
        usage: { inputTokens: 100, outputTokens: 10 }
      })

  it.effect("completes gracefully after 10 iterations by default", () =>
    Effect.gen(function*() {
      const { events, lookups, result } = yield* looping({}, forever)
      assert.isTrue(result._tag === "Success" && result.success.completion === "graceful")
      if (result._tag === "Success" && result.success.completion === "graceful") {
        assert.strictEqual(result.success.budget, "iterations")
        assert.strictEqual(result.success.text, "The best so far.")
        assert.strictEqual(result.success.counters.iterations, 10)
        assert.strictEqual(result.success.turns.length, 11)
      }
      assert.strictEqual(lookups, 10)
      assert.deepStrictEqual(
        events.filter((event) => event._tag === "BudgetExceeded"),
        [{ _tag: "BudgetExceeded", agent: "looper", runId: "run-1", budget: "iterations" }]
      )
    }).pipe(Effect.provide(durable)))

  it.effect("runs no more tool calls than allowed, and tells the model of those that it did not run", () =>
    Effect.gen(function*() {
      let refused: ReadonlyArray<unknown> = []
      const { lookups, result } = yield* looping({ toolCalls: 3 }, (request) => {
        if (request.toolChoice === "none") {
          refused = lastResults(request)
          return "Enough."
        }
        return ScriptedModel.turn(
          call("a", "Lookup", { order: `${request.index}a` }),
          call("b", "Lookup", { order: `${request.index}b` })
        )
      })
      assert.isTrue(result._tag === "Success" && result.success.completion === "graceful")
      assert.strictEqual(lookups, 3)
      assert.deepInclude(refused[1], { error: "BudgetExceeded", attempts: 0 })
    }).pipe(Effect.provide(durable)))

  it.effect("lets a run that used its last tool call answer", () =>
    Effect.gen(function*() {
      const { result } = yield* looping({ toolCalls: 1 }, [call("1", "Lookup", { order: "7" }), "Fine."])
      assert.isTrue(result._tag === "Success" && result.success.completion === "complete")
    }).pipe(Effect.provide(durable)))

  for (
    const [budget, options, times] of [
      // A call is not made that may pass the limit.
      ["inputTokens", { inputTokens: 250 }, 1],
      ["cost", { cost: 0.003, prices: { any: { input: 10, output: 10 } } }, 2],
      // This model cannot be told how much it may say.
      ["outputTokens", { outputTokens: 25 }, 3]
    ] as const
  ) {
    it.effect(`completes gracefully when ${budget} are used up`, () =>
      Effect.gen(function*() {
        const { lookups, result } = yield* looping(options, forever)
        assert.isTrue(
          result._tag === "Success" && result.success.completion === "graceful" && result.success.budget === budget
        )
        assert.strictEqual(lookups, times)
      }).pipe(Effect.provide(durable)))
  }

  it.effect("cuts off a model call that outlasts the wall time, and asks for the best so far", () =>
    Effect.gen(function*() {
      const fiber = yield* looping({}, (request) => request.toolChoice === "none" ? "In short: no." : Effect.never)
        .pipe(
          Effect.forkChild({ startImmediately: true })
        )
      yield* TestClock.adjust("299 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      const { result } = yield* Fiber.join(fiber)
      assert.isTrue(
        result._tag === "Success" && result.success.completion === "graceful" && result.success.budget === "wallTime"
      )
      if (result._tag !== "Success") return
      // A turn for the call that was cut off, too, and one for the last answer.
      assert.strictEqual(result.success.counters.iterations, 1)
      assert.deepStrictEqual(result.success.turns.map(({ attempts, finishReason }) => [finishReason, attempts]), [
        ["error", 1],
        ["stop", 1]
      ])
    }).pipe(Effect.provide(durable)))

  it.effect("needs no limit of time", () =>
    Effect.gen(function*() {
      const { result } = yield* looping({ wallTime: Duration.infinity, iterations: Infinity }, ["Fine."])
      assert.isTrue(result._tag === "Success" && result.success.completion === "complete")
    }).pipe(Effect.provide(durable)))

  it.effect("fails with BudgetExhausted where the last call fails too, and bounds its time", () =>
    Effect.gen(function*() {
      const down = yield* looping({ iterations: 1 }, [
        call("1", "Lookup", { order: "7" }),
        ScriptedModel.fail(Fault.permanent)
      ])
      assert.isTrue(
        down.result._tag === "Failure" && down.result.failure._tag === "AgentError" &&
          down.result.failure.reason._tag === "BudgetExhausted"
      )
    }).pipe(Effect.provide(durable)))

  it.effect("bounds the last call by the grace period", () =>
    Effect.gen(function*() {
      const fiber = yield* looping({ grace: "5 seconds" }, () => Effect.never).pipe(
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust("300 seconds")
      yield* TestClock.adjust("5 seconds")
      const { result } = yield* Fiber.join(fiber)
      assert.isTrue(
        result._tag === "Failure" && result.failure._tag === "AgentError" &&
          result.failure.reason._tag === "BudgetExhausted"
      )
    }).pipe(Effect.provide(durable)))

  it.effect("counts the time of all processes of a run, and not the time between them", () =>
    Effect.gen(function*() {
      const slow = Agent.make({
        name: "slow",
        instructions: "",
        toolkit: kit,
        budget: { wallTime: "100 seconds" },
        stream: false
      })
      const { handlers } = yield* counting
      const asked = yield* Deferred.make<void>()
      const askedAgain = yield* Deferred.make<void>()
      const options = { runId: "run-1", prompt: "Go" }
      const first = yield* Agent.run(slow, options).pipe(
        Effect.provide(Layer.mergeAll(
          handlers,
          ScriptedModel.layer([
            Deferred.succeed(asked, undefined).pipe(
              Effect.andThen(Effect.sleep("60 seconds")),
              Effect.as(call("1", "Lookup", { order: "7" }))
            ),
            ScriptedModel.fail(Fault.permanent)
          ])
        )),
        Effect.flip,
        Effect.forkChild({ startImmediately: true })
      )
      yield* Deferred.await(asked)
      yield* TestClock.adjust("60 seconds")
      yield* Fiber.join(first)
      yield* TestClock.adjust("1 day")
      const second = yield* Agent.run(slow, options).pipe(
        Effect.provide(Layer.mergeAll(
          handlers,
          ScriptedModel.layer((request) =>
            request.toolChoice === "none" ? "Late." : Deferred.succeed(askedAgain, undefined).pipe(
              Effect.andThen(Effect.sleep("50 seconds")),
              Effect.as("In time?")
            )
          )
        )),
        Effect.forkChild({ startImmediately: true })
      )
      yield* Deferred.await(askedAgain)
      yield* TestClock.adjust("39 seconds")
      assert.isUndefined(second.pollUnsafe())
      yield* TestClock.adjust("1 second")
      const result = yield* Fiber.join(second)
      assert.strictEqual(result.text, "Late.")
      assert.strictEqual(Duration.toSeconds(result.elapsed), 100)
    }).pipe(Effect.provide(durable)))

  it.effect("takes the same decisions when a run that ended gracefully is replayed", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const short = Agent.make({ name: "short", instructions: "", toolkit: kit, budget: { iterations: 2 } })
      const options = { runId: "run-1", prompt: "Go" }
      const first = yield* Agent.run(short, options).pipe(
        Effect.provide(Layer.mergeAll(handlers, ScriptedModel.layer(forever)))
      )
      const second = yield* Agent.run(short, options).pipe(
        Effect.provide(Layer.mergeAll(handlers, ScriptedModel.layer([])))
      )
      assert.strictEqual(second.text, first.text)
      assert.strictEqual(second.completion, "graceful")
    }).pipe(Effect.provide(durable)))

  it.effect("reports the cost by the price table and the model's id", () =>
    Effect.gen(function*() {
      const priced = Agent.make({
        name: "priced",
        instructions: "",
        budget: { prices: { small: { input: 1, output: 2 }, large: { input: 10, output: 20 } } }
      })
      const answer = (modelId: string) =>
        ScriptedModel.turn(
          { type: "response-metadata", id: "1", modelId, timestamp: undefined },
          "Hi",
          {
            usage: { inputTokens: 1_000_000, outputTokens: 1_000_000 }
          }
        )
      const cost = (runId: string, modelId: string) =>
        Agent.run(priced, { runId, prompt: "Hello" }).pipe(
          Effect.map((result) => result.cost),
          Effect.provide(ScriptedModel.layer([answer(modelId)]))
        )
      assert.deepStrictEqual([yield* cost("1", "small"), yield* cost("2", "unknown")], [3, 30])
    }).pipe(Effect.provide(store)))
})

describe("states", () => {
  it.effect("are seen by whoever looks while the agent runs", () =>
    Effect.gen(function*() {
      const state = yield* SubscriptionRef.make<Agent.State>("idle")
      const seen: Array<Agent.State> = []
      const note = Effect.sync(() => seen.push(SubscriptionRef.getUnsafe(state)))
      const watched = kit.toLayer({
        Lookup: () => Effect.as(note, { price: 1 }),
        Refund: () => Effect.as(note, "done")
      })
      yield* Agent.run(agent, { runId: "run-1", prompt: "Go", state }).pipe(
        Effect.provide(Layer.mergeAll(
          watched,
          ScriptedModel.layer([Effect.as(note, call("1", "Lookup", { order: "7" })), Effect.as(note, "Done.")])
        ))
      )
      assert.deepStrictEqual(
        [...seen, yield* SubscriptionRef.get(state)],
        ["running", "waitingForTool", "running", "completed"]
      )
    }).pipe(Effect.provide(durable)))

  it.effect("are a stream that ends with the last one", () =>
    Effect.gen(function*() {
      const running = yield* Agent.start(talker, { runId: "talk-1", prompt: "Hello" })
      const states = yield* Stream.runCollect(running.states).pipe(Effect.forkChild({ startImmediately: true }))
      assert.strictEqual((yield* running.result).text, "Hi")
      const collected = yield* Fiber.join(states)
      assert.strictEqual(collected.at(-1), "completed")
      assert.strictEqual(yield* running.state, "completed")
    }).pipe(Effect.scoped, Effect.provide(Layer.mergeAll(store, ScriptedModel.layer(["Hi"])))))

  it.effect("end in failed, and in idle after an interruption", () =>
    Effect.gen(function*() {
      const failed = yield* Agent.start(talker, { runId: "talk-1", prompt: "Hello" }).pipe(
        Effect.provide(ScriptedModel.layer([ScriptedModel.fail(Fault.permanent)]))
      )
      yield* Effect.flip(failed.result)
      assert.strictEqual(yield* failed.state, "failed")
      const stopped = yield* Agent.start(talker, { runId: "talk-2", prompt: "Hello" }).pipe(
        Effect.provide(ScriptedModel.layer([Effect.never]))
      )
      yield* Effect.yieldNow
      yield* stopped.interrupt
      assert.deepStrictEqual(yield* Stream.runCollect(stopped.states), ["idle"])
      const again = yield* Agent.run(talker, { runId: "talk-2", prompt: "Hello" }).pipe(
        Effect.provide(ScriptedModel.layer(["Hi"]))
      )
      assert.strictEqual(again.text, "Hi")
    }).pipe(Effect.scoped, Effect.provide(store)))
})

describe("Agent.loop", () => {
  it.effect("is part of the run around it, as often as wanted", () =>
    Effect.gen(function*() {
      const program = Effect.gen(function*() {
        const one = yield* Agent.loop(talker, { prompt: "One" })
        const two = yield* Agent.loop(talker, { prompt: "Two" })
        const more = yield* Checkpoint.forEach(["a", "b"], (prompt) => Agent.loop(talker, { prompt }), {
          concurrency: 2
        })
        return [one, two, ...more].map((result) => result.text)
      }).pipe(Checkpoint.run({ id: "report" }))
      const echo = ScriptedModel.layer((request) => {
        const last = request.prompt.content.at(-1)
        return last?.role === "user"
          ? `Re: ${last.content.map((part) => part.type === "text" ? part.text : "").join()}`
          : "?"
      })
      const first = yield* Effect.provide(program, echo)
      assert.deepStrictEqual(first, ["Re: One", "Re: Two", "Re: a", "Re: b"])
      assert.deepStrictEqual(yield* Effect.provide(program, ScriptedModel.layer([])), first)
    }).pipe(Effect.provide(store)))

  it.effect("serves as a tool of another agent, in the same run", () =>
    Effect.gen(function*() {
      const Ask = Tool.make("Ask", {
        parameters: Schema.Struct({ question: Schema.String }),
        success: Schema.String,
        dependencies: [Checkpoint.Run, LanguageModel.LanguageModel]
      }).annotate(Tool.Idempotent, true)
      const asking = Toolkit.make(Ask)
      const boss = Agent.make({ name: "boss", instructions: "Ask around.", toolkit: asking })
      const handlers = asking.toLayer({
        Ask: ({ question }) =>
          Agent.loop(talker, { prompt: question }).pipe(Effect.map((result) => result.text), Effect.orDie)
      })
      const result = yield* Agent.run(boss, { runId: "run-1", prompt: "Go" }).pipe(
        Effect.provide(Layer.mergeAll(
          handlers,
          ScriptedModel.layer([call("1", "Ask", { question: "Why?" }), "Because.", "They say: because."])
        ))
      )
      assert.strictEqual(result.text, "They say: because.")
      const { records } = yield* Checkpoint.inspect("run-1")
      assert.isTrue(records.some((record) => record.step.endsWith("Ask/[talker]/[turn-1]/model")))
    }).pipe(Effect.provide(durable)))
})

describe("logs", () => {
  it.effect("carry agent and run", () =>
    Effect.gen(function*() {
      const lines: Array<unknown> = []
      const logger = Logger.make((options) => {
        lines.push([options.message, options.fiber.getRef(References.CurrentLogAnnotations)])
      })
      yield* talk(["Hi"]).pipe(
        Effect.provide(Logger.layer([logger])),
        Effect.provideService(References.MinimumLogLevel, "Debug")
      )
      assert.deepStrictEqual(lines.at(-1), [["agent stopped"], {
        agent: "talker",
        runId: "talk-1",
        sessionId: "talk-1",
        state: "completed"
      }])
    }).pipe(Effect.provide(store)))
})
