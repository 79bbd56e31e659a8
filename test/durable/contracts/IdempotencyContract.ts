import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Layer, Ref, Schema } from "effect"
import type { Scope } from "effect"
import { Idempotency, Telemetry } from "effect-resilience"
import * as Arbitrary from "effect/Arbitrary"
import * as TestClock from "effect/testing/TestClock"

type Process = Layer.Layer<Idempotency.Idempotency, unknown>

/** One process after the other over the same store: every provision of the layer is a process. */
const inProcess = <A, E, R>(process: Process, effect: Effect.Effect<A, E, R | Idempotency.Idempotency>) =>
  Effect.provide(effect, Layer.fresh(process), { local: true })

class Declined extends Schema.TaggedError<Declined>()("Declined", { code: Schema.Int }) {}

const Receipt = Schema.Struct({ number: Schema.Int, at: Schema.DateTimeUtcFromMillis.pipe(Schema.optionalKey) })

/**
 * What every `Idempotency` promises, over a store that `open` makes anew for each test. With `durable`, the results
 * are there for the next process too.
 */
export const idempotencyContract = (
  name: string,
  open: Effect.Effect<Process, unknown, Scope.Scope>,
  { durable }: { readonly durable: boolean }
) => {
  const test = <E>(
    body: (process: Process) => Effect.Effect<void, E, Idempotency.Idempotency | Scope.Scope>
  ): Effect.Effect<void, unknown, Scope.Scope> => Effect.flatMap(open, (process) => inProcess(process, body(process)))

  /** A tool that counts how often it was executed, and one call of it. */
  const counter = Effect.map(Ref.make(0), (runs) => ({
    runs: Ref.get(runs),
    call: (args: unknown, scope = "run-1") =>
      Ref.updateAndGet(runs, (n) => n + 1).pipe(
        Idempotency.once({ scope, tool: "count", args, success: Schema.Int })
      )
  }))

  describe(name, () => {
    it.effect("executes once for the same scope, tool and arguments, and answers the same result", () =>
      test(() =>
        Effect.gen(function*() {
          const { call, runs } = yield* counter
          const answers = [
            yield* call({ a: 1, b: [2] }),
            yield* call({ b: [2], a: 1 }),
            yield* call({ a: 1e0, b: [2.0] }),
            yield* call({ a: 1, b: [2], c: undefined })
          ]
          assert.deepStrictEqual(answers, [1, 1, 1, 1])
          assert.strictEqual(yield* runs, 1)
        })
      ))

    it.effect("executes again for other arguments, another tool or another scope", () =>
      test(() =>
        Effect.gen(function*() {
          const { call, runs } = yield* counter
          yield* call({ a: 1 })
          yield* call({ a: 2 })
          yield* call({ a: 1 }, "run-2")
          yield* call(undefined)
          yield* call(null)
          yield* Idempotency.once({ scope: "run-1", tool: "other", args: { a: 1 }, success: Schema.Void }, Effect.void)
          assert.strictEqual(yield* runs, 5)
        })
      ))

    it.effect("answers a value that went through its schema, on the first call as on every other", () =>
      test(() =>
        Effect.gen(function*() {
          const call = Idempotency.once(
            { scope: "s", tool: "date", success: Schema.Struct({ at: Schema.Date, none: Schema.Void }) },
            Effect.succeed({ at: new Date(5), none: undefined })
          )
          const first = yield* call
          assert.instanceOf(first.at, Date)
          assert.deepStrictEqual(yield* call, first)
        })
      ))

    it.effect("concurrent duplicates join the first execution", () =>
      test(() =>
        Effect.gen(function*() {
          const gate = yield* Deferred.make<void>()
          const runs = yield* Ref.make(0)
          const call = Ref.updateAndGet(runs, (n) => n + 1).pipe(
            Effect.tap(Deferred.await(gate)),
            Idempotency.once({ scope: "s", tool: "slow", success: Schema.Int })
          )
          const fibers = yield* Effect.forEach(
            Array.from({ length: 20 }),
            () => Effect.forkChild(call, { startImmediately: true })
          )
          yield* Deferred.succeed(gate, undefined)
          assert.deepStrictEqual(yield* Fiber.joinAll(fibers), Array.from({ length: 20 }, () => 1))
          assert.strictEqual(yield* Ref.get(runs), 1)
        })
      ))

    it.effect("a failure is not remembered, and those who joined share it", () =>
      test(() =>
        Effect.gen(function*() {
          const gate = yield* Deferred.make<void>()
          const runs = yield* Ref.make(0)
          const call = Ref.updateAndGet(runs, (n) => n + 1).pipe(
            Effect.tap(Deferred.await(gate)),
            Effect.flatMap((n) => n === 1 ? Effect.fail(new Declined({ code: n })) : Effect.succeed(n)),
            Idempotency.once({ scope: "s", tool: "pay", success: Schema.Int })
          )
          const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(call, { startImmediately: true }))
          yield* Deferred.succeed(gate, undefined)
          for (const fiber of fibers) {
            assert.deepStrictEqual(yield* Effect.flip(Fiber.join(fiber)), new Declined({ code: 1 }))
          }
          assert.strictEqual(yield* call, 2)
        })
      ))

    it.effect("a failure that the error schema accepts is remembered, and no other", () =>
      test((process) =>
        Effect.gen(function*() {
          const runs = yield* Ref.make(0)
          const call = (error: Declined | string) =>
            Ref.updateAndGet(runs, (n) => n + 1).pipe(
              Effect.andThen(Effect.fail(error)),
              Idempotency.once({ scope: "s", tool: "pay", success: Schema.Int, error: Declined })
            )
          assert.strictEqual(yield* Effect.flip(call("no line")), "no line")
          assert.deepStrictEqual(yield* Effect.flip(call(new Declined({ code: 7 }))), new Declined({ code: 7 }))
          const replayed = yield* Effect.flip(call("never executed"))
          assert.isTrue(replayed instanceof Declined && replayed.code === 7)
          assert.strictEqual(yield* Ref.get(runs), 2)
          if (durable) {
            const later = yield* Effect.flip(inProcess(process, call("never executed")))
            assert.isTrue(later instanceof Declined && later.code === 7)
          }
        })
      ))

    it.effect("a defect is not remembered", () =>
      test(() =>
        Effect.gen(function*() {
          const call = (effect: Effect.Effect<number>) =>
            Idempotency.once({ scope: "s", tool: "bug", success: Schema.Int, error: Schema.Unknown }, effect)
          assert.isTrue(Exit.hasDies(yield* Effect.exit(call(Effect.die("boom")))))
          assert.strictEqual(yield* call(Effect.succeed(3)), 3)
        })
      ))

    it.effect("an interrupted first caller leaves the execution to those who joined", () =>
      test(() =>
        Effect.gen(function*() {
          const gate = yield* Deferred.make<void>()
          const runs = yield* Ref.make(0)
          const call = Ref.updateAndGet(runs, (n) => n + 1).pipe(
            Effect.tap(Deferred.await(gate)),
            Idempotency.once({ scope: "s", tool: "slow", success: Schema.Int })
          )
          const first = yield* Effect.forkChild(call, { startImmediately: true })
          const second = yield* Effect.forkChild(call, { startImmediately: true })
          const third = yield* Effect.forkChild(call, { startImmediately: true })
          yield* Fiber.interrupt(first)
          yield* Fiber.interrupt(third)
          yield* Deferred.succeed(gate, undefined)
          assert.strictEqual(yield* Fiber.join(second), 1)
          assert.strictEqual(yield* Ref.get(runs), 1)
        })
      ))

    it.effect("the execution is interrupted when no caller is left, and the last one waits until it has stopped", () =>
      test(() =>
        Effect.gen(function*() {
          const started = yield* Deferred.make<void>()
          const log: Array<string> = []
          const call = Deferred.succeed(started, undefined).pipe(
            Effect.andThen(Effect.never),
            Effect.onInterrupt(() => Effect.andThen(Effect.yieldNow, Effect.sync(() => log.push("stopped")))),
            Idempotency.once({ scope: "s", tool: "slow", success: Schema.Int })
          )
          const first = yield* Effect.forkChild(call, { startImmediately: true })
          const second = yield* Effect.forkChild(call, { startImmediately: true })
          yield* Deferred.await(started)
          yield* Fiber.interrupt(first)
          assert.deepStrictEqual(log, [])
          yield* Fiber.interrupt(second)
          assert.deepStrictEqual(log, ["stopped"])
          const again = Idempotency.once({ scope: "s", tool: "slow", success: Schema.Int }, Effect.succeed(9))
          assert.strictEqual(yield* again, 9)
        })
      ))

    it.effect("never executes twice at once, not even while an abandoned execution is stopping", () =>
      test(() =>
        Effect.gen(function*() {
          const started = yield* Deferred.make<void>()
          const mayStop = yield* Deferred.make<void>()
          const log: Array<string> = []
          const options = { scope: "s", tool: "slow", success: Schema.Int }
          const first = yield* Deferred.succeed(started, undefined).pipe(
            Effect.andThen(Effect.never),
            Effect.onInterrupt(() => Effect.andThen(Deferred.await(mayStop), Effect.sync(() => log.push("stopped")))),
            Idempotency.once(options),
            Effect.forkChild({ startImmediately: true })
          )
          yield* Deferred.await(started)
          const stopping = yield* Effect.forkChild(Fiber.interrupt(first), { startImmediately: true })
          const next = yield* Effect.sync(() => log.push("executed")).pipe(
            Idempotency.once(options),
            Effect.forkChild({ startImmediately: true })
          )
          yield* TestClock.adjust(0)
          assert.deepStrictEqual(log, [])
          yield* Deferred.succeed(mayStop, undefined)
          yield* Fiber.join(stopping)
          assert.strictEqual(yield* Fiber.join(next), 2)
          assert.deepStrictEqual(log, ["stopped", "executed"])
        })
      ))

    it.effect("who waits for an abandoned execution to stop, and is interrupted, executes nothing", () =>
      test(() =>
        Effect.gen(function*() {
          const started = yield* Deferred.make<void>()
          const mayStop = yield* Deferred.make<void>()
          const options = { scope: "s", tool: "slow", success: Schema.Int }
          const first = yield* Deferred.succeed(started, undefined).pipe(
            Effect.andThen(Effect.never),
            Effect.onInterrupt(() => Deferred.await(mayStop)),
            Idempotency.once(options),
            Effect.forkChild({ startImmediately: true })
          )
          yield* Deferred.await(started)
          const stopping = yield* Effect.forkChild(Fiber.interrupt(first), { startImmediately: true })
          let executed = 0
          const waiting = yield* Effect.sync(() => ++executed).pipe(
            Idempotency.once(options),
            Effect.forkChild({ startImmediately: true })
          )
          yield* TestClock.adjust(0)
          yield* Fiber.interrupt(waiting)
          yield* Deferred.succeed(mayStop, undefined)
          yield* Fiber.join(stopping)
          assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(waiting)))
          assert.strictEqual(executed, 0)
        })
      ))

    it.effect("executes once at most under a storm of interruptions, unless an execution was interrupted", () =>
      test(() =>
        Effect.gen(function*() {
          for (let i = 0; i < 100; i++) {
            let running = 0
            let most = 0
            let finished = 0
            const call = Effect.acquireUseRelease(
              Effect.sync(() => most = Math.max(most, ++running)),
              () => Effect.andThen(Effect.yieldNow, Effect.sync(() => ++finished)),
              () => Effect.sync(() => running--)
            ).pipe(Idempotency.once({ scope: "storm", tool: "t", args: i, success: Schema.Int }))
            const fibers = yield* Effect.forEach(
              [1, 2, 3, 4],
              () => Effect.forkChild(call, { startImmediately: i % 2 === 0 })
            )
            for (let k = 0; k < i % 7; k++) yield* Effect.yieldNow
            yield* Fiber.interruptAll(fibers.slice(0, i % 5))
            assert.strictEqual(yield* call, 1)
            yield* Fiber.interruptAll(fibers)
            assert.deepStrictEqual({ running, most, finished }, { running: 0, most: 1, finished: 1 })
          }
        })
      ))

    it.effect("a call that would wait for itself dies instead", () =>
      test(() =>
        Effect.gen(function*() {
          const options = { scope: "s", tool: "self", success: Schema.Int }
          const inner = Idempotency.once(options, Effect.succeed(1))
          assert.isTrue(Exit.hasDies(yield* Effect.exit(Idempotency.once(options, inner))))
          assert.strictEqual(yield* inner, 1)
        })
      ))

    it.effect("calls that would wait for each other die instead", () =>
      test(() =>
        Effect.gen(function*() {
          const started = yield* Effect.all([Deferred.make<void>(), Deferred.make<void>()])
          const call = (tool: string, effect: Effect.Effect<void, unknown, Idempotency.Idempotency>) =>
            Idempotency.once({ scope: "s", tool, success: Schema.Void }, effect)
          const both = (one: Deferred.Deferred<void>, other: Deferred.Deferred<void>) =>
            Effect.andThen(Deferred.succeed(one, undefined), Deferred.await(other))
          // The call of c lies between a and b, so that a waits for b over a third execution.
          const a = call("a", Effect.andThen(both(...started), call("c", call("b", Effect.void))))
          const b = call("b", Effect.andThen(both(started[1], started[0]), call("a", Effect.void)))
          const exits = yield* Effect.all([Effect.exit(a), Effect.exit(b)], { concurrency: 2 })
          assert.isTrue(exits.every(Exit.hasDies))
        })
      ))

    it.effect("a schema that holds a secret is refused before anything is executed", () =>
      test(() =>
        Effect.gen(function*() {
          const Secret = Schema.RedactedFromValue(Schema.String)
          const base = { scope: "s", tool: "login" }
          const never = Effect.die("must not run")
          const refused = [
            yield* Effect.flip(Idempotency.once({ ...base, success: Schema.Redacted(Schema.String) }, never)),
            yield* Effect.flip(Idempotency.once({ ...base, success: Schema.Struct({ token: Secret }) }, never)),
            yield* Effect.flip(Idempotency.once({ ...base, success: Schema.Void, error: Secret }, never))
          ]
          for (const error of refused) {
            assert.instanceOf(error, Idempotency.IdempotencyStoreError)
            assert.strictEqual(error.reason, "Redacted")
            assert.include(error.message, "login")
          }
        })
      ))

    it.effect("clear forgets one scope and no other", () =>
      test(() =>
        Effect.gen(function*() {
          const { call, runs } = yield* counter
          yield* call(1, "a")
          yield* call(1, "b")
          yield* Idempotency.clear("a")
          assert.deepStrictEqual([yield* call(1, "a"), yield* call(1, "b")], [3, 2])
          assert.strictEqual(yield* runs, 3)
        })
      ))

    it.effect("a result is forgotten after its time to live", () =>
      test(() =>
        Effect.gen(function*() {
          const { call } = yield* counter
          assert.strictEqual(yield* call(1), 1)
          yield* TestClock.adjust(Duration.subtract(Duration.days(30), Duration.millis(1)))
          assert.strictEqual(yield* call(1), 1)
          yield* TestClock.adjust("1 millis")
          assert.strictEqual(yield* call(1), 2)
          assert.strictEqual(yield* call(1), 2)
        })
      ))

    it.effect("a recorded result that does not decode is IdempotencyCorrupt, and nothing is executed", () =>
      test(() =>
        Effect.gen(function*() {
          const options = { scope: "s", tool: "t" }
          yield* Idempotency.once({ ...options, success: Schema.String }, Effect.succeed("text"))
          const error = yield* Effect.flip(
            Idempotency.once({ ...options, success: Receipt }, Effect.die("must not run"))
          )
          assert.isTrue(error instanceof Idempotency.IdempotencyCorrupt)
          assert.include(error.message, "t in scope \"s\"")
        })
      ))

    it.effect("a remembered failure is not executed again by a caller without its schema", () =>
      test(() =>
        Effect.gen(function*() {
          const options = { scope: "s", tool: "t", success: Schema.Int }
          const declined = Effect.fail(new Declined({ code: 1 }))
          yield* Effect.flip(Idempotency.once({ ...options, error: Declined }, declined))
          const error = yield* Effect.flip(Idempotency.once(options, Effect.die("must not run")))
          assert.isTrue(error instanceof Idempotency.IdempotencyCorrupt)
        })
      ))

    it.effect("arguments without canonical JSON are refused before anything is executed", () =>
      test(() =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(
            Idempotency.once(
              { scope: "s", tool: "t", args: { n: 1n }, success: Schema.Int },
              Effect.die("must not run")
            )
          )
          assert.isTrue(error instanceof Idempotency.NotJson && error.path === "$.n")
        })
      ))

    it.effect("a result that its schema cannot write is ambiguous: the call was executed", () =>
      test(() =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(
            Idempotency.once({ scope: "s", tool: "t", success: Schema.Int }, Effect.succeed(0.5))
          )
          assert.isTrue(error instanceof Idempotency.IdempotencyStoreError && error.operation === "record")
        })
      ))

    it.effect("tells of a hit, joined or recorded, and not of an execution", () =>
      test(() =>
        Effect.gen(function*() {
          const events: Array<Telemetry.Event> = []
          const gate = yield* Deferred.make<void>()
          const call = Idempotency.once({ scope: "s", tool: "t", success: Schema.Void }, Deferred.await(gate)).pipe(
            Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
          )
          const fibers = yield* Effect.forEach([1, 2], () => Effect.forkChild(call, { startImmediately: true }))
          yield* Deferred.succeed(gate, undefined)
          yield* Fiber.joinAll(fibers)
          yield* call
          const key = yield* Idempotency.key("t")
          assert.deepStrictEqual(events, [
            { _tag: "IdempotencyHit", key, joined: true },
            { _tag: "IdempotencyHit", key, joined: false }
          ])
        })
      ))

    it.effect.prop(
      "any result is answered as it was recorded",
      [Schema.Json, Arbitrary.schema(Schema.Json)],
      ([args, value]) =>
        test(() =>
          Effect.gen(function*() {
            const call = Idempotency.once(
              { scope: "s", tool: "t", args: JSON.stringify(args), success: Schema.Json },
              Effect.succeed(value)
            )
            const first = yield* call
            assert.deepStrictEqual(yield* call, first)
            // JSON has no -0
            assert.deepStrictEqual(first, JSON.parse(JSON.stringify(value)))
          })
        ),
      { arbitrary: { runs: 20 } }
    )

    if (durable) {
      it.effect("results survive a restart", () =>
        test((process) =>
          Effect.gen(function*() {
            const { call, runs } = yield* counter
            assert.strictEqual(yield* inProcess(process, call(1)), 1)
            assert.strictEqual(yield* inProcess(process, call(1)), 1)
            assert.strictEqual(yield* call(1), 1)
            assert.strictEqual(yield* runs, 1)
          })
        ))

      it.effect("two processes that executed the same call answer the outcome that was recorded first", () =>
        test((process) =>
          Effect.gen(function*() {
            const gates = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
            const started = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
            const call = (n: 0 | 1) =>
              Deferred.succeed(started[n], undefined).pipe(
                Effect.andThen(Deferred.await(gates[n])),
                Effect.as(n),
                Idempotency.once({ scope: "s", tool: "t", success: Schema.Int })
              )
            const slow = yield* Effect.forkChild(call(0), { startImmediately: true })
            const quick = yield* Effect.forkChild(inProcess(process, call(1)), { startImmediately: true })
            yield* Deferred.await(started[0])
            yield* Deferred.await(started[1])
            yield* Deferred.succeed(gates[1], undefined)
            assert.strictEqual(yield* Fiber.join(quick), 1)
            yield* Deferred.succeed(gates[0], undefined)
            assert.strictEqual(yield* Fiber.join(slow), 1)
          })
        ))
    }
  })
}
