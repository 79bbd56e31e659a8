import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as config from "../../internal/config.ts"
import { sha256 } from "../../internal/sha256.ts"
import * as Deadline from "../../policy/Deadline.ts"
import { type AmbiguousStep, RunSuspended } from "./checkpointErrors.ts"
import { Run } from "./checkpointRun.ts"
import * as Scope from "./checkpointScope.ts"
import * as Step from "./checkpointStep.ts"

/**
 * Tells which run and scope the program is in.
 *
 * @category scopes
 * @since 0.1.0
 */
export const current: Effect.Effect<{ readonly runId: string; readonly scope: string }, never, Run> = Effect.map(
  Run,
  ({ runId, scope }) => ({ runId, scope })
)

/**
 * The idempotency key of the step that asks: the same each time the step is executed, in this life of the run or another,
 * and another one for every other step and run.
 *
 * **When to use**
 *
 * Use it inside a step to tell a provider that a call is the same call (`Idempotency-Key`), and inside its `reconcile` to
 * ask what became of it.
 *
 * **Details**
 *
 * 64 hexadecimal digits: the SHA-256 of the run's own random name and the step's id. It holds no attempt number. A fork,
 * and a run that begins anew under the id of one that was cleared, has other keys. Outside of steps it is the key of the
 * scope.
 *
 * **Example** (Paying once, however often it is tried)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const keys: Array<string> = []
 * let tries = 0
 * const pay = Checkpoint.step("pay", {}, Effect.gen(function*() {
 *   keys.push(yield* Checkpoint.idempotencyKey)
 *   if (++tries === 1) return yield* Effect.fail("connection lost")
 * })).pipe(Checkpoint.run({ id: "order-7" }))
 *
 * await Effect.runPromise(Effect.provide(Effect.andThen(Effect.flip(pay), pay), CheckpointStore.layerMemory))
 * keys.length // => 2
 * keys[0] === keys[1] // => true
 * ```
 *
 * @category steps
 * @since 0.1.0
 */
export const idempotencyKey: Effect.Effect<string, never, Run> = Effect.map(
  Run,
  ({ journal, scope }) => keyOf(journal, scope)
)

/** @internal */
export const keyOf = ({ salt }: { readonly salt: string }, path: string): string =>
  sha256(JSON.stringify([salt, Scope.ownerOf(path)]))

const recorded = <A>(
  name: string,
  success: Schema.Codec<A, unknown>,
  execute: Effect.Effect<A>
): Effect.Effect<A, Step.Failure, Run> => {
  const options = {
    success,
    error: Schema.Never,
    atMostOnce: false,
    reconcile: undefined,
    retry: undefined,
    undo: undefined
  }
  const step: Effect.Effect<A, Step.Failure | AmbiguousStep, Run> = Step.step(name, options, execute)
  // A step that may happen twice is never ambiguous.
  return Effect.catchTag(step, "AmbiguousStep", (error) => Effect.die(error))
}

/**
 * The time, the same on every replay: a step, named `now`, that remembers what the clock said.
 *
 * Fails with what a step can fail with.
 *
 * @category replaying
 * @since 0.1.0
 */
export const now: Effect.Effect<DateTime.Utc, Step.Failure, Run> = recorded(
  "now",
  Schema.DateTimeUtcFromMillis,
  DateTime.now
)

/**
 * A random number from 0 to 1, without 1, the same on every replay: a step, named `random`, that remembers it.
 *
 * Fails with what a step can fail with.
 *
 * @category replaying
 * @since 0.1.0
 */
export const random: Effect.Effect<number, Step.Failure, Run> = recorded("random", Schema.Finite, Random.next)

const hex = (byte: number): string => byte.toString(16).padStart(2, "0")

/**
 * A random UUID (version 4), the same on every replay: a step, named `uuid`, that remembers it.
 *
 * **Details**
 *
 * Its bits come from Effect's `Random`, which is not for secrets. Fails with what a step can fail with.
 *
 * **Example** (Giving a report an id)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const report = Checkpoint.uuid.pipe(Checkpoint.run({ id: "report" }))
 *
 * const program = Effect.all([report, report]).pipe(Effect.provide(CheckpointStore.layerMemory))
 * const [first, second] = await Effect.runPromise(program)
 * first === second // => true
 * ```
 *
 * @category replaying
 * @since 0.1.0
 */
export const uuid: Effect.Effect<string, Step.Failure, Run> = recorded(
  "uuid",
  Schema.String,
  Effect.map(Effect.replicateEffect(Random.nextIntBetween(0, 256, { halfOpen: true }), 16), (bytes) => {
    const [version = 0, variant = 0] = [bytes[6], bytes[8]]
    const digits = bytes.with(6, (version & 0x0f) | 0x40).with(8, (variant & 0x3f) | 0x80).map(hex).join("")
    return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5")
  })
)

const until = (name: string, duration: Duration.Duration) =>
  recorded(
    name,
    Schema.Finite,
    Effect.map(Clock.currentTimeMillis, (millis) => Math.ceil(millis + Duration.toMillis(duration)))
  )

const remaining = (time: number) => Effect.map(Clock.currentTimeMillis, (millis) => Math.max(0, time - millis))

/**
 * Waits, and goes on waiting after a crash for as long as there is left: a step remembers when the sleep is over.
 *
 * **Details**
 *
 * The fiber waits, and the run keeps its lease. Where nobody is to wait, let the run fail with {@link suspend}, and run it
 * again when the time has come.
 *
 * Fails with what a step can fail with.
 *
 * **Example** (Sleeping through a crash)
 *
 * ```ts import.meta.vitest
 * import { Clock, Effect } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 * import { TestClock } from "effect/testing"
 *
 * const program = Checkpoint.sleep("cool off", "1 hour").pipe(Checkpoint.run({ id: "r" }))
 *
 * const story = Effect.gen(function*() {
 *   // Interrupted after forty minutes, and resumed after ten more: ten are left.
 *   yield* Effect.forkChild(Effect.timeoutOption(program, "40 minutes"), { startImmediately: true })
 *   yield* TestClock.adjust("50 minutes")
 *   yield* Effect.forkChild(Effect.tap(program, TestClock.adjust(0)), { startImmediately: true })
 *   yield* TestClock.adjust("10 minutes")
 *   return (yield* Checkpoint.inspect("r")).status
 * }).pipe(Effect.provide(CheckpointStore.layerMemory), Effect.provide(TestClock.layer()))
 *
 * await Effect.runPromise(story) // => "completed"
 * ```
 *
 * @category waiting
 * @since 0.1.0
 */
export const sleep = (name: string, duration: Duration.Input): Effect.Effect<void, Step.Failure, Run> => {
  const wanted = config.duration("Checkpoint.sleep", "duration", duration)
  return until(config.nonEmpty("Checkpoint.sleep", "name", name), wanted).pipe(
    Effect.flatMap(remaining),
    Effect.flatMap((millis) => millis > 0 ? Effect.sleep(millis) : Effect.void)
  )
}

/**
 * Bounds everything inside by a deadline that a crash does not move: a step remembers when it is.
 *
 * **Details**
 *
 * It is `Deadline.within` for a run. The time that the run spends suspended, or waiting for somebody to resume it, counts.
 *
 * Adds `DeadlineExceeded`, and what a step can fail with.
 *
 * **Example** (A deadline that is over when the run is resumed)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 * import { TestClock } from "effect/testing"
 *
 * const program = Effect.never.pipe(
 *   Checkpoint.deadline("report", "1 hour"),
 *   Checkpoint.run({ id: "r" })
 * )
 *
 * const story = Effect.gen(function*() {
 *   yield* Effect.forkChild(Effect.timeoutOption(program, "1 minute"), { startImmediately: true })
 *   yield* TestClock.adjust("2 hours")
 *   return (yield* Effect.flip(program))._tag
 * }).pipe(Effect.provide(CheckpointStore.layerMemory), Effect.provide(TestClock.layer()))
 *
 * await Effect.runPromise(story) // => "DeadlineExceeded"
 * ```
 *
 * @category waiting
 * @since 0.1.0
 */
export const deadline = (name: string, duration: Duration.Input) => {
  const wanted = config.duration("Checkpoint.deadline", "duration", duration, { minimum: "1 millis" })
  const step = until(config.nonEmpty("Checkpoint.deadline", "name", name), wanted)
  return <A, E, R>(
    self: Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | Deadline.DeadlineExceeded | Step.Failure, R | Run> =>
    step.pipe(
      Effect.flatMap(remaining),
      Effect.flatMap((millis) => Deadline.within(self, millis, { name }))
    )
}

/**
 * Ends the run on purpose, to be resumed by calling it again: its status is `suspended`.
 *
 * **Details**
 *
 * Ask for it after looking whether what is waited for has come: the program runs from its start when it is resumed, and
 * would be suspended here again.
 *
 * Fails with `RunSuspended`, always.
 *
 * @category waiting
 * @since 0.1.0
 */
export const suspend = (step: string, reason: string): Effect.Effect<never, RunSuspended, Run> =>
  Effect.flatMap(Run, ({ runId }) => new RunSuspended({ runId, step, reason }))
