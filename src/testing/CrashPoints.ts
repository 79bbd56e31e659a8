/**
 * Crashes a durable program at every point where that makes a difference, resumes it, and compares it with the run that
 * did not crash.
 *
 * **When to use**
 *
 * Use it to prove that a program written with `Checkpoint` does nothing twice and forgets nothing, wherever it is
 * killed.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import type * as Exit from "effect/Exit"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import * as Checkpoint from "../durable/Checkpoint.ts"
import type { CheckpointStore } from "../durable/CheckpointStore.ts"
import * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import * as Compare from "./internal/crashCompare.ts"
import { mark } from "./internal/crashEffect.ts"
import type * as Life from "./internal/crashLife.ts"
import * as Plan from "./internal/crashPlan.ts"
import * as Run from "./internal/crashRun.ts"

const module = "CrashPoints"

/**
 * How a process crashes.
 *
 * **Details**
 *
 * - `killed`: nothing of it runs any more, no finalizer either, as after `kill -9`. What it had asked of the store or of
 *   the outside arrives.
 * - `interrupted`: it is asked to stop, and its finalizers run and may write, as after `kill`.
 * - `disconnected`: its store fails from there on with `Unavailable`, while it lives on.
 * - `silent`: its store answers no more, while it lives on.
 *
 * @category models
 * @since 0.1.0
 */
export type Way = Life.Way

const Way: Schema.Literals<ReadonlyArray<Way>> = Schema.Literals([
  "killed",
  "interrupted",
  "disconnected",
  "silent"
])

/**
 * A point that a run goes over: before or after a write of its store, an operation on its lease, or an {@link effect}.
 *
 * **Details**
 *
 * `index` counts them from 1. After a write means that it happened and the process does not know.
 *
 * @category models
 * @since 0.1.0
 */
export type Boundary = Life.Boundary

/**
 * Where a process crashes, and how.
 *
 * @category models
 * @since 0.1.0
 */
export type Crash = Life.Crash

/**
 * What was done to the outside in the run without a crash, see {@link effect}.
 *
 * **Details**
 *
 * `scope` and `idempotencyKey` are where in its run, as `Checkpoint.current` and `Checkpoint.idempotencyKey` tell; the
 * scope is empty outside of any step.
 *
 * @category models
 * @since 0.1.0
 */
export interface ExternalEffect {
  readonly label: string
  readonly runId: string | undefined
  readonly scope: string
  readonly idempotencyKey: string | undefined
  readonly atMostOnce: boolean
  readonly outcome: "begun" | "done" | "failed" | "interrupted"
}

/**
 * What a story with a crash has that the run without one has not.
 *
 * **Details**
 *
 * `kind` is
 * - `OtherResult`: the resumed program ends otherwise, or a completed one gives another result when it is run again.
 * - `DoneTooOften`: an effect that must not happen twice happened more often than without a crash.
 * - `DoneAgain`: an effect happened in a step whose result was in the journal already, or in a run that had completed.
 * - `NotDone`: an effect did not happen.
 * - `RecordLost`: the store had acknowledged a record, and has it no more, or has another one in its place.
 * - `NeverEnded`: the resumed program does not come to an end.
 *
 * `crashes` are where the processes crashed, one after the other; none if the run without a crash is at fault itself.
 * `log` is the end of what happened.
 *
 * @category models
 * @since 0.1.0
 */
export const Difference = Schema.Struct({
  kind: Schema.Literals(["OtherResult", "DoneTooOften", "DoneAgain", "NotDone", "RecordLost", "NeverEnded"]),
  subject: Schema.String,
  expected: Schema.String,
  found: Schema.String,
  crashes: Schema.Array(Schema.Struct({ boundary: Schema.Finite, way: Way, at: Schema.String })),
  log: Schema.Array(Schema.String)
})

/**
 * A {@link Difference} as a value.
 *
 * @category models
 * @since 0.1.0
 */
export type Difference = typeof Difference.Type

/**
 * What an exploration found.
 *
 * **Details**
 *
 * - `exit`, `boundaries` and `effects` are those of the run without a crash.
 * - `stories`: how many were told with a crash; `left`: how many were not, because there are more than `limit` or
 *   because enough had been found; `unreached`: in how many the program ended before it came to the boundary, as can be
 *   where timing is not virtual.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report<out A, out E> {
  readonly exit: Exit.Exit<A, E>
  readonly boundaries: ReadonlyArray<Boundary>
  readonly effects: ReadonlyArray<ExternalEffect>
  readonly stories: number
  readonly left: number
  readonly unreached: number
  readonly differences: ReadonlyArray<Difference>
}

/**
 * Failure of a program of which no crash could tell anything.
 *
 * **Details**
 *
 * `reason` is
 * - `NoBoundaries`: it neither wrote to the store nor did anything that is marked.
 * - `NotRepeatable`: without a crash, at another time and with other random numbers, it gives another result.
 * - `NeverEnded`: it does not come to an end without a crash.
 *
 * @category errors
 * @since 0.1.0
 */
export class CannotExplore
  extends Schema.TaggedError<CannotExplore>("effect-resilience/testing/CrashPoints/CannotExplore")("CannotExplore", {
    reason: Schema.Literals(["NoBoundaries", "NotRepeatable", "NeverEnded"]),
    detail: Schema.String
  })
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    switch (this.reason) {
      case "NoBoundaries":
        return "CrashPoints: the program wrote nothing to the CheckpointStore that it was given and did nothing that " +
          "CrashPoints.effect marks; let it take the store from its surroundings"
      case "NotRepeatable":
        return `CrashPoints: without a crash the program comes to something else every time: ${this.detail}; leave out ` +
          "what depends on time and chance, or say with `equals` what makes no difference"
      case "NeverEnded":
        return `CrashPoints: without a crash the program does not come to an end: ${this.detail}`
    }
  }
}

const plural = (n: number, one: string, many: string): string => `${n} ${n === 1 ? one : many}`

const tellOne = ({ crashes, expected, found, kind, log, subject }: Difference): string => {
  const where = crashes.length === 0
    ? "without a crash"
    : crashes.map(({ at, boundary, way }) => `${way} at boundary ${boundary}, ${at}`).join(", then ")
  const again = crashes.map(({ boundary, way }) => `{ boundary: ${boundary}, way: "${way}" }`).join(", ")
  return [
    `- ${kind}: ${subject}`,
    `    ${where}`,
    `    expected: ${expected}`,
    `    found:    ${found}`,
    ...log.map((line) => `      ${line}`),
    ...(crashes.length === 0 ? [] : [`    this story alone: only: [${again}]`])
  ].join("\n")
}

/**
 * Failure of a program that does not come to the same end wherever it crashes.
 *
 * @category errors
 * @since 0.1.0
 */
export class CrashDifferences
  extends Schema.TaggedError<CrashDifferences>("effect-resilience/testing/CrashPoints/CrashDifferences")(
    "CrashDifferences",
    { boundaries: Schema.Finite, stories: Schema.Finite, left: Schema.Finite, differences: Schema.Array(Difference) }
  )
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const shown = this.differences.slice(0, 5)
    const more = this.differences.length - shown.length
    const stories = `${plural(this.stories, "story", "stories")} over ${
      plural(this.boundaries, "boundary", "boundaries")
    }`
    return [
      `CrashPoints: ${plural(this.differences.length, "difference", "differences")} in ${stories}` +
      (this.left === 0 ? "" : `, ${this.left} were not told`),
      ...shown.map(tellOne),
      ...(more > 0 ? [`and ${more} more`] : [])
    ].join("\n")
  }
}

/**
 * Options of {@link explore} and {@link check}.
 *
 * **Details**
 *
 * - `program`: what a process does from its start. Its `CheckpointStore` is given to it.
 * - `world`: what outlives a crash, made anew for every story: the store, other databases, whatever stands for the
 *   outside. Where it has no `CheckpointStore`, there is one in memory. Default: nothing else.
 * - `process`: what lives in a process's memory and dies with it, made anew for every process: connections, caches,
 *   circuits, a `CheckpointStore` over a file that `world` has. Default: nothing.
 * - `ways`: how to crash. Default: `killed`, `interrupted`, `disconnected`, and `silent` where time is virtual.
 * - `equals`: whether one end of the program is as good as the one without a crash. Default: equal values or equal
 *   errors.
 * - `downtime`: how much later the clock of the next process is after a crash, default 1 minute. Nobody waits for it.
 * - `advance`: makes time go by when everybody waits for it. Default: `TestClock.adjust` under a `TestClock`, and
 *   otherwise nothing, for time passes by itself.
 * - `limit`: how many stories with one crash at most, default 1 000. If there are more, they are drawn.
 * - `again`: how many stories, drawn, crash a second time while they recover. Default: 20.
 * - `seed`: for what is drawn, and for the `Random` of the program. Default: 0.
 * - `patience`: how long in real time a process may take, default 10 seconds.
 * - `maxBoundaries`: how many boundaries a process may cross, default 10 000.
 * - `only`: tells this story alone, as the message of a difference names it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<A, E, R, W = never, WE = never, WR = never, P = never, PE = never, PR = never> {
  readonly program: Effect.Effect<A, E, R>
  readonly world?: Layer.Layer<W, WE, WR> | undefined
  readonly process?: Layer.Layer<P, PE, PR> | undefined
  readonly ways?: ReadonlyArray<Way> | undefined
  readonly equals?: ((expected: Exit.Exit<A, E>, found: Exit.Exit<A, E>) => boolean) | undefined
  readonly downtime?: Duration.Input | undefined
  readonly advance?: ((duration: Duration.Duration) => Effect.Effect<void>) | undefined
  readonly limit?: number | undefined
  readonly again?: number | undefined
  readonly seed?: string | number | undefined
  readonly patience?: Duration.Input | undefined
  readonly maxBoundaries?: number | undefined
  readonly only?: ReadonlyArray<Crash> | undefined
}

type Services<R, W, WR, P, PR> =
  | WR
  | Exclude<PR, W | CheckpointStore>
  | Exclude<R, W | P | CheckpointStore>

// Where a layer is left out, what it provides is `never`, unless somebody said otherwise.
const none = Layer.empty as never

// After so many the next ones tell nothing new, and those that never end take long.
const enough = (differences: ReadonlyArray<Difference>): boolean =>
  differences.length >= 20 || differences.filter(({ kind }) => kind === "NeverEnded").length >= 3

/**
 * Runs a program without a crash, then once for each of its boundaries and each way of crashing there, resumes it each
 * time, and reports what was different.
 *
 * **Details**
 *
 * Every story has a world of its own. In it one process after the other runs the program from its start: the first one
 * crashes, the next one takes its runs over and goes on, at a later time and with other random numbers. When the program
 * has succeeded and its runs are completed, it is run once more, which must give the same result and do nothing. What a
 * program reads from `Clock` or `Random` outside of a step shows there.
 *
 * What is compared: how the program ends; the log of its {@link effect}s; and that every record that the store
 * acknowledged is there. To compare more of the outside, let the program end with reading it.
 *
 * Under a `TestClock` no story takes real time for sleeping. Fails with {@link CannotExplore}, and with what the layers
 * fail with; throws `Fault.InvalidConfig` for options that make no sense.
 *
 * **Example** (Finding an effect that is not in a step)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Checkpoint } from "effect-resilience"
 * import { CrashPoints } from "effect-resilience/testing"
 * import { TestClock } from "effect/testing"
 *
 * const send = (to: string) => Effect.void.pipe(CrashPoints.effect(`mail to ${to}`))
 *
 * const program = Effect.gen(function*() {
 *   yield* send("ann")
 *   yield* Checkpoint.step("bob", { effects: "atMostOnce" }, send("bob"))
 * }).pipe(Checkpoint.run({ id: "mails" }))
 *
 * const report = await Effect.runPromise(
 *   CrashPoints.explore({ program, ways: ["killed"], again: 0 }).pipe(Effect.provide(TestClock.layer()))
 * )
 * const kinds = new Set(report.differences.map(({ kind, subject }) => `${kind}: ${subject}`))
 * kinds.has('DoneTooOften: "mail to ann" in run "mails", outside of any step') // => true
 * kinds.has('OtherResult: the result') // => true
 * ```
 *
 * @category exploring
 * @since 0.1.0
 */
export const explore = <A, E, R, W = never, WE = never, WR = never, P = never, PE = never, PR = never>(
  options: Options<A, E, R, W, WE, WR, P, PE, PR>
): Effect.Effect<Report<A, E>, CannotExplore | WE | PE, Services<R, W, WR, P, PR>> => {
  const seed = String(options.seed ?? 0)
  const limit = config.integer(module, "limit", options.limit ?? 1_000, 1)
  const again = config.integer(module, "again", options.again ?? 20, 0)
  const isSame = options.equals ?? Compare.sameExit
  const setting = {
    program: options.program,
    world: options.world ?? none,
    process: options.process ?? none,
    isSame,
    downtime: config.duration(module, "downtime", options.downtime ?? "1 minute"),
    patience: config.duration(module, "patience", options.patience ?? "10 seconds", { minimum: 1 }),
    maxBoundaries: config.integer(module, "maxBoundaries", options.maxBoundaries ?? 10_000, 1),
    seed
  }

  return Effect.gen(function*() {
    const virtual = yield* Run.isVirtual
    const advance = options.advance ?? (virtual ? TestClock.adjust : undefined)
    const ways = options.ways ??
      ["killed", "interrupted", "disconnected", ...(advance === undefined ? [] : ["silent" as const])]
    // A test clock that was never moved warns of that, from a fiber that would be one of the first process.
    if (advance !== undefined) yield* advance(Duration.zero)
    const { tell } = yield* Run.make({ ...setting, advance })

    const first = yield* tell([], undefined)
    const { effects, exit } = first
    const boundaries = first.lives[0]?.boundaries ?? []
    if (exit === undefined) {
      const detail = first.findings.map(({ found }) => found).join("; ")
      return yield* new CannotExplore({ reason: "NeverEnded", detail })
    }
    if (boundaries.length === 0) return yield* new CannotExplore({ reason: "NoBoundaries", detail: "" })

    const differences = differencesOf(first)
    const report = (told: Pick<Report<A, E>, "stories" | "left" | "unreached">): Report<A, E> => ({
      exit,
      boundaries,
      effects,
      differences,
      ...told
    })

    const second = yield* tell([], undefined, 2)
    const detail = second.exit === undefined
      ? second.findings.map(({ found }) => found).join("; ")
      : !isSame(exit, second.exit)
      ? `${Compare.show(exit)}, then ${Compare.show(second.exit)}`
      : !Equal.equals(Compare.doings(effects), Compare.doings(second.effects))
      ? "it does other things to the outside"
      : undefined
    if (detail !== undefined) {
      if (differences.length === 0) return yield* new CannotExplore({ reason: "NotRepeatable", detail })
      return report({ stories: 0, left: 0, unreached: 0 })
    }

    const reference: Compare.Reference<A, E> = { exit, effects }
    const recoveries: Array<Plan.Recovery> = []
    let stories = 0
    let unreached = 0
    const crashing = Effect.fnUntraced(function*(crashes: ReadonlyArray<Crash>) {
      const told = yield* tell(crashes, reference)
      stories++
      if (told.lives.filter(({ struck }) => struck !== undefined).length < crashes.length) unreached++
      differences.push(...differencesOf(told))
      const [crash] = crashes
      if (crash !== undefined) recoveries.push({ crash, boundaries: told.lives[1]?.boundaries ?? [] })
    })

    if (options.only !== undefined) {
      yield* crashing(options.only)
      return report({ stories, left: 0, unreached })
    }
    const { chosen, left } = Plan.crashes(boundaries, ways, limit, seed)
    for (const crash of chosen) {
      if (enough(differences)) break
      yield* crashing([crash])
    }
    const told = stories
    const pairs = enough(differences) ? [] : Plan.pairs(recoveries, ways, again, seed)
    for (const pair of pairs) {
      if (enough(differences)) break
      yield* crashing(pair)
    }
    return report({ stories, unreached, left: left + (chosen.length - told) + (told + pairs.length - stories) })
  })
}

const differencesOf = <A, E>({ findings, lives, story }: Run.Told<A, E>): Array<Difference> => {
  const crashes = lives.flatMap(({ crashed }) => crashed === undefined ? [] : [crashed])
  return findings.map((finding) => ({ ...finding, crashes, log: story.log }))
}

/**
 * Fails if a program does not come to the same end wherever it crashes; see {@link explore}.
 *
 * **When to use**
 *
 * Use it as a test. Run it under a `TestClock`, as `it.effect` of `@effect/vitest` does.
 *
 * **Details**
 *
 * Fails with {@link CrashDifferences}, whose message tells where and how, besides what {@link explore} fails with.
 *
 * **Example** (Proving that nobody is paid twice)
 *
 * ```ts import.meta.vitest
 * import { Context, Effect, Layer } from "effect"
 * import { Checkpoint } from "effect-resilience"
 * import { CrashPoints } from "effect-resilience/testing"
 * import { TestClock } from "effect/testing"
 *
 * // What stands for the outside, and outlives every crash.
 * class Bank extends Context.Service<Bank, { readonly paid: Set<string> }>()("Bank") {}
 * const world = Layer.sync(Bank, () => ({ paid: new Set<string>() }))
 *
 * const pay = (to: string) =>
 *   Bank.use(({ paid }) => Effect.sync(() => void paid.add(to))).pipe(CrashPoints.effect(`pay ${to}`))
 *
 * const wasPaid = (to: string) =>
 *   Bank.useSync(({ paid }) => paid.has(to) ? Checkpoint.happened(undefined) : Checkpoint.notHappened)
 *
 * const program = Checkpoint.forEach(["ann", "bob"], (to) =>
 *   Checkpoint.step("pay", { effects: "atMostOnce", reconcile: wasPaid(to) }, pay(to)), { concurrency: 2 }).pipe(
 *     Checkpoint.run({ id: "salaries" })
 *   )
 *
 * const checked = await Effect.runPromise(CrashPoints.check({ program, world }).pipe(Effect.provide(TestClock.layer())))
 * checked.stories > 50 // => true
 * ```
 *
 * @category exploring
 * @since 0.1.0
 */
export const check = <A, E, R, W = never, WE = never, WR = never, P = never, PE = never, PR = never>(
  options: Options<A, E, R, W, WE, WR, P, PE, PR>
): Effect.Effect<Report<A, E>, CannotExplore | CrashDifferences | WE | PE, Services<R, W, WR, P, PR>> =>
  Effect.flatMap(explore(options), (report) => {
    const { boundaries, differences, left, stories } = report
    return differences.length === 0
      ? Effect.succeed(report)
      : Effect.fail(new CrashDifferences({ boundaries: boundaries.length, stories, left, differences }))
  })

/**
 * Marks what an effect does to the outside, so that {@link explore} crashes before and after it and keeps a log of it.
 *
 * **When to use**
 *
 * Use it in the layers that stand for the outside in tests, around each call that changes something there. Where nobody
 * explores, it does nothing.
 *
 * **Details**
 *
 * Once begun, the effect goes to its end whatever becomes of the process, as a request that has been sent.
 *
 * `atMostOnce` is whether it must not happen more often than without a crash. Default: not inside an idempotent step
 * (where `Fault.Idempotent` is true) nor in a `reconcile`, and everywhere else. The label together with the run and the
 * step says what is the same effect: name in it whom it is about.
 *
 * **Example** (Marking a payment)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CrashPoints } from "effect-resilience/testing"
 *
 * const pay = (to: string) => Effect.succeed(`receipt of ${to}`).pipe(CrashPoints.effect(`pay ${to}`))
 *
 * await Effect.runPromise(pay("ann")) // => "receipt of ann"
 * ```
 *
 * @category marking
 * @since 0.1.0
 */
export const effect: {
  (
    label: string,
    options?: { readonly atMostOnce?: boolean | undefined }
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    label: string,
    options?: { readonly atMostOnce?: boolean | undefined }
  ): Effect.Effect<A, E, R>
} = dual(
  (args) => Effect.isEffect(args[0]),
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    label: string,
    options: { readonly atMostOnce?: boolean | undefined } = {}
  ): Effect.Effect<A, E, R> => mark(self, config.nonEmpty(module, "label", label), options.atMostOnce)
)

/**
 * Lets every run inside start over, from its journal, after each step that it records, so that a program of ten steps is
 * replayed ten times.
 *
 * **When to use**
 *
 * Use it around a test that passes, to see that it passes as well when everything is resumed all the time. It is the
 * cheapest way to run a whole suite under replay, since it needs no marks and no second world.
 *
 * **Details**
 *
 * The result is that of the last life. A step that is at work when another one is recorded runs to its end first, unless
 * it is an idempotent one around it. What counts lives, or what is done outside of steps, comes to another number.
 *
 * **Example** (Finding what is done outside of a step)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 * import { CrashPoints } from "effect-resilience/testing"
 *
 * const log: Array<string> = []
 * const program = Effect.gen(function*() {
 *   yield* Checkpoint.step("ask", {}, Effect.sync(() => void log.push("asked")))
 *   log.push("noted")
 *   yield* Checkpoint.step("tell", {}, Effect.sync(() => void log.push("told")))
 * }).pipe(Checkpoint.run({ id: "r" }))
 *
 * await Effect.runPromise(CrashPoints.alwaysReplay(program).pipe(Effect.provide(CheckpointStore.layerMemory)))
 * log // => ["asked", "noted", "told", "noted"]
 * ```
 *
 * @category replaying
 * @since 0.1.0
 */
export const alwaysReplay = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(self, Checkpoint.AlwaysReplay, true)

/**
 * Does what {@link alwaysReplay} does for everything that the layer is provided to.
 *
 * @category replaying
 * @since 0.1.0
 */
export const layerAlwaysReplay: Layer.Layer<never> = Layer.succeed(Checkpoint.AlwaysReplay, true)
