import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { Agent, Backoff, Checkpoint, EscalationQueue, Fault } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { Tool, Toolkit } from "effect/ai"
import { call, durable } from "./support.ts"

class Lost extends Schema.TaggedError<Lost>("test/Lost")("Lost", { message: Schema.String }) {
  readonly [Fault.verdictOf] = Fault.ambiguous
}

const Refund = Tool.make("Refund", {
  parameters: Schema.Struct({ order: Schema.String }),
  success: Schema.String,
  failure: Schema.Union([Lost, Schema.String, Schema.Defect()])
})
const kit = Toolkit.make(Refund)
const lost = new Lost({ message: "reset" })

const make = (options: { readonly concurrency?: number; readonly approval?: "atMostOnce" } = {}) =>
  Agent.make({
    name: "support",
    instructions: "",
    toolkit: kit,
    toolBackoff: Backoff.constant({ delay: 0 }),
    ...options
  })

const refund = (id: string) => call(id, "Refund", { order: "7" })

/** A model that asks for the same refund twice, and an account of how often it went out. */
const twice = (handler: (sent: number) => Effect.Effect<string, Lost | string | Error>) => {
  let sent = 0
  const layer = Layer.merge(
    kit.toLayer({ Refund: () => Effect.suspend(() => handler(++sent)) }),
    ScriptedModel.layer((request) =>
      request.prompt.content.some((message) => message.role === "tool")
        ? "Done."
        : ScriptedModel.turn(refund("1"), refund("2"))
    )
  )
  const run = (agent: ReturnType<typeof make>) =>
    Effect.provide(Agent.run(agent, { runId: "run-1", prompt: "Go" }), layer)
  return { run, sent: () => sent }
}

const open = Effect.flatMap(EscalationQueue.EscalationQueue, (queue) => queue.list({ status: "open" }))

const suspended = <E>(exit: Exit.Exit<unknown, E>) => {
  const error = Exit.findErrorOption(exit)
  assert.isTrue(error._tag === "Some" && error.value instanceof Checkpoint.RunSuspended)
}

describe("the same call twice in one answer, the first of which may have happened", () => {
  for (const concurrency of [1, 4]) {
    for (
      const [how, handler] of [
        ["is ambiguous", () => Effect.fail(lost)],
        ["dies", () => Effect.die(new Error("bug"))],
        ["fails with what no rule knows", () => Effect.fail(new Error("socket hang up"))],
        ["fails with a text", () => Effect.fail("socket hang up")]
      ] as const
    ) {
      it.effect(`runs once where it ${how}, and asks once, ${concurrency} at a time`, () =>
        Effect.gen(function*() {
          const { run, sent } = twice(handler)
          for (const _ of [1, 2]) {
            suspended(yield* Effect.exit(run(make({ concurrency }))))
            assert.deepStrictEqual([sent(), (yield* open).length], [1, 1])
            assert.strictEqual((yield* Checkpoint.inspect("run-1")).status, "escalated")
          }
          for (const { id } of yield* open) {
            yield* EscalationQueue.decide(id, { _tag: "Supply", value: "refunded by hand" })
          }
          assert.strictEqual((yield* run(make({ concurrency }))).counters.toolErrors, 0)
          assert.deepStrictEqual([sent(), (yield* open).length], [1, 0])
        }).pipe(Effect.provide(durable)))
    }

    it.effect(`runs once where it is cut off, ${concurrency} at a time`, () =>
      Effect.gen(function*() {
        const started = yield* Deferred.make<void>()
        const { run, sent } = twice(() => Effect.andThen(Deferred.succeed(started, undefined), Effect.never))
        const fiber = yield* Effect.forkChild(run(make({ concurrency })))
        yield* Deferred.await(started)
        for (let i = 0; i < 20; i++) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        suspended(yield* Effect.exit(run(make({ concurrency }))))
        assert.deepStrictEqual([sent(), (yield* open).length], [1, 1])
      }).pipe(Effect.provide(durable)))
  }

  it.effect("runs a second time only once people say that the first did not happen", () =>
    Effect.gen(function*() {
      const { run, sent } = twice((n) => n === 1 ? Effect.fail(lost) : Effect.succeed("refunded"))
      suspended(yield* Effect.exit(run(make())))
      for (const { id } of yield* open) yield* EscalationQueue.decide(id, { _tag: "Retry" })
      yield* run(make())
      assert.strictEqual(sent(), 2)
    }).pipe(Effect.provide(durable)))

  it.effect("is recognised in the journal by a tool of any name, after the process that left it open", () =>
    Effect.gen(function*() {
      const Odd = Tool.make("Pay/50%#[x]", { success: Schema.String, failure: Lost, needsApproval: true })
      const odd = Toolkit.make(Odd)
      let sent = 0
      const again = (id: string) => call(id, Odd.name, {})
      const run = Agent.run(Agent.make({ name: "odd", instructions: "", toolkit: odd, concurrency: 1 }), {
        runId: "run-1",
        prompt: "Go"
      }).pipe(Effect.provide(Layer.merge(
        odd.toLayer({ [Odd.name]: () => Effect.suspend(() => (sent++, Effect.fail(lost))) }),
        ScriptedModel.layer(() => ScriptedModel.turn(again("1"), again("2")))
      )))
      suspended(yield* Effect.exit(run))
      for (const { id } of (yield* open).toReversed()) {
        yield* EscalationQueue.decide(id, { _tag: "Approve" })
        suspended(yield* Effect.exit(run))
        assert.strictEqual(sent, 1)
      }
    }).pipe(Effect.provide(durable)))

  for (const first of [0, 1]) {
    it.effect(`does not run on the approval of the other one, with call ${first + 1} approved first`, () =>
      Effect.gen(function*() {
        const { run, sent } = twice(() => Effect.fail(lost))
        const careful = make({ approval: "atMostOnce" })
        suspended(yield* Effect.exit(run(careful)))
        const asked = yield* open
        assert.strictEqual(asked.length, 2)
        for (const { id } of [...asked.slice(first), ...asked.slice(0, first)]) {
          yield* EscalationQueue.decide(id, { _tag: "Approve" })
          suspended(yield* Effect.exit(run(careful)))
          assert.strictEqual(sent(), 1)
        }
        const uncertain = yield* open
        assert.deepStrictEqual(uncertain.map(({ reason }) => reason), ["AmbiguousState"])
        for (const { id } of uncertain) yield* EscalationQueue.decide(id, { _tag: "Supply", value: "refunded by hand" })
        assert.strictEqual((yield* run(careful)).counters.toolErrors, 0)
        assert.strictEqual(sent(), 1)
      }).pipe(Effect.provide(durable)))
  }
})

describe("the same call in another agent of the run", () => {
  it.effect("does not run as long as nobody knows whether the first took effect", () =>
    Effect.gen(function*() {
      let sent = 0
      const world = Layer.merge(
        kit.toLayer({ Refund: () => Effect.suspend(() => (sent++, Effect.fail(lost))) }),
        ScriptedModel.layer(() => refund("1"))
      )
      const program = Agent.loop(make(), { prompt: "Go" }).pipe(
        Effect.catchTag("RunSuspended", () => Agent.loop(make(), { prompt: "Go on" })),
        Checkpoint.run({ id: "run-1" }),
        Effect.provide(world)
      )
      for (const _ of [1, 2]) {
        suspended(yield* Effect.exit(program))
        assert.deepStrictEqual([sent, (yield* open).length], [1, 1])
      }
    }).pipe(Effect.provide(durable)))
})
