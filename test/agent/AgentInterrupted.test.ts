import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, type Exit, Fiber, Layer, Stream } from "effect"
import { Agent, AgentBudget, CheckpointStore } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import * as TestClock from "effect/testing/TestClock"
import { call, counting, durable, kit } from "./support.ts"

const options = { runId: "run-1", prompt: "Go" }
const usage = { inputTokens: 10, outputTokens: 20 }
/** What an answer counts whose tokens nobody reported. */
const estimate = AgentBudget.defaultOutputTokens

const agent = (budget: AgentBudget.Options, more: { readonly sharedBudget?: AgentBudget.Shared } = {}) =>
  Agent.make({ name: "talker", instructions: "", toolkit: kit, budget, ...more })

/** Never answers, but the last one. */
const hanging: ScriptedModel.Script = ({ toolChoice }) =>
  toolChoice === "none" ? ScriptedModel.text("So far.", { usage }) : Effect.never

const requests = Effect.map(ScriptedModel.requests, (all) => all.length)

/** Lets the run get to its next call, or to its end. */
const called = Effect.fnUntraced(function*(before: number, run: Fiber.Fiber<unknown, unknown>) {
  while ((yield* requests) === before && run.pollUnsafe() === undefined) yield* Effect.yieldNow
})

/** Runs, and does something once the next call is made. */
const during = Effect.fnUntraced(function*<A, E, R, A2, E2, R2>(
  run: Effect.Effect<A, E, R>,
  then: (fiber: Fiber.Fiber<Exit.Exit<A, E>>) => Effect.Effect<A2, E2, R2>
) {
  const before = yield* requests
  const fiber = yield* Effect.forkChild(Effect.exit(run))
  yield* called(before, fiber)
  yield* then(fiber)
  return yield* Fiber.await(fiber)
})

describe("a model call that was interrupted", () => {
  it.effect("counts as spent: readers of a stream that leave after the first piece", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const script: ScriptedModel.Script = ({ toolChoice }) =>
        toolChoice === "none"
          ? ScriptedModel.text("So far.", { usage })
          : ScriptedModel.streamed("Hello to all of you.", { pause: "1 second" })
      yield* Effect.gen(function*() {
        const poet = agent({ iterations: 2, outputTokens: 50_000 })
        const leaving = Agent.stream(poet, options).pipe(
          Stream.filter(({ _tag }) => _tag === "TextDelta"),
          Stream.take(1),
          Stream.runDrain
        )
        for (let n = 0; n < 20; n++) {
          yield* during(leaving, () => TestClock.adjust("3 seconds"))
        }
        // Two calls of the loop, and then one last answer, which is there from then on.
        const made = yield* requests
        const result = yield* Agent.run(poet, options)
        assert.strictEqual(yield* requests, made)
        assert.strictEqual(made, 3)
        assert.isTrue(result.completion === "graceful" && result.budget === "iterations")
        assert.deepInclude(result.counters, { iterations: 2, unmetered: 2 })
        assert.strictEqual(result.turns.length, 3)
        assert.isAtLeast(result.usage.outputTokens, 2 * estimate)
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(script))))
    }).pipe(Effect.provide(durable)))

  it.effect("counts with its time: runs that are given up after 100 milliseconds", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      yield* Effect.gen(function*() {
        const hasty = agent({ iterations: 50, wallTime: "1 second" })
        for (let n = 0; n < 15; n++) {
          yield* during(Effect.timeout(Agent.run(hasty, options), "100 millis"), () => TestClock.adjust("100 millis"))
        }
        const result = yield* Agent.run(hasty, options)
        assert.isTrue(result.completion === "graceful" && result.budget === "wallTime")
        assert.strictEqual(yield* requests, 11)
        assert.strictEqual(result.counters.iterations, 10)
        assert.isAtLeast(Duration.toMillis(result.elapsed), 1_000)
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(hanging))))
    }).pipe(Effect.provide(durable)))

  it.effect("counts in a budget that several runs share, and once where it is resumed", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      yield* Effect.gen(function*() {
        const run = (sharedBudget: AgentBudget.Shared) => Agent.run(agent({}, { sharedBudget }), options)
        const first = AgentBudget.shared({ outputTokens: 1_000_000 })
        const interrupt = (sharedBudget: AgentBudget.Shared) => during(run(sharedBudget), Fiber.interrupt)
        yield* interrupt(first)
        assert.deepInclude(first.spent(), { iterations: 1, outputTokens: estimate })
        yield* interrupt(first)
        assert.deepInclude(first.spent(), { iterations: 2, outputTokens: 2 * estimate })
        const later = AgentBudget.shared({ outputTokens: 1_000_000 })
        yield* interrupt(later)
        assert.deepInclude(later.spent(), { iterations: 3, outputTokens: 3 * estimate })
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(hanging))))
    }).pipe(Effect.provide(durable)))

  it.effect("is written in the time that the store has for it, and no longer", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const store = yield* CheckpointStore.CheckpointStore
      let isStuck = false
      const stuck = CheckpointStore.CheckpointStore.of({
        ...store,
        append: (lease, entries, status) => isStuck ? Effect.never : store.append(lease, entries, status)
      })
      yield* Effect.gen(function*() {
        yield* during(Agent.run(agent({}), options), (run) =>
          Effect.gen(function*() {
            isStuck = true
            const interrupted = yield* Effect.forkChild(Fiber.interrupt(run))
            for (let n = 0; n < 60 && run.pollUnsafe() === undefined; n++) yield* TestClock.adjust("5 seconds")
            assert.isDefined(run.pollUnsafe())
            yield* Fiber.join(interrupted)
          }))
        assert.strictEqual(yield* requests, 1)
      }).pipe(
        Effect.provideService(CheckpointStore.CheckpointStore, stuck),
        Effect.provide(Layer.merge(handlers, ScriptedModel.layer(hanging)))
      )
    }).pipe(Effect.provide(durable)))

  it.effect("that waited before it was made costs nothing", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      yield* Effect.gen(function*() {
        const waiting = Agent.make({
          name: "talker",
          instructions: "",
          toolkit: kit,
          policies: { model: (self) => Effect.andThen(Effect.never, self) }
        })
        const run = yield* Effect.forkChild(Agent.run(waiting, options))
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(run)
        const plain = Agent.make({ name: "talker", instructions: "", toolkit: kit })
        const result = yield* Agent.run(plain, options)
        assert.deepInclude(result.counters, { iterations: 1, unmetered: 0 })
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(["Done."]))))
    }).pipe(Effect.provide(durable)))

  it.effect("is a last answer at most three times", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      yield* Effect.gen(function*() {
        const one = agent({ iterations: 1 })
        for (let n = 0; n < 3; n++) {
          yield* during(Agent.run(one, options), (run) =>
            Effect.gen(function*() {
              // The first one makes a call of the loop, and the last one after it.
              if (n === 0) yield* called(1, run)
              yield* Fiber.interrupt(run)
            }))
        }
        const error = yield* Effect.flip(Agent.run(one, options))
        assert.isTrue(error._tag === "AgentError" && error.reason._tag === "BudgetExhausted")
        assert.strictEqual(yield* requests, 1 + 3)
      }).pipe(Effect.provide(Layer.merge(
        handlers,
        ScriptedModel.layer(({ toolChoice }) =>
          toolChoice === "none" ? Effect.never : call("1", "Lookup", { order: "1" })
        )
      )))
    }).pipe(Effect.provide(durable)))
})
