/**
 * Keeps retries from becoming the load that keeps a dependency down.
 *
 * One budget per key. Each first attempt puts a share of a retry into it, each retry takes a whole one out, and where
 * nothing is left there is no retry: the caller gets its own error at once. While all is well the few retries there are
 * go through; in an outage, when every call fails, the dependency sees a fifth more calls and not five times as many.
 *
 * **Details**
 *
 * First attempts are never held up and never pay. `Retry` with the option `budget`, and `Hedge` likewise, pay here; all
 * that name the same key share what is in it. What a guard of ours refused (`Rejected`) was never sent: to `Retry` it is
 * neither a first attempt nor a retry. Each of them counts its own first attempts: where one stands inside the
 * other, give each a key of its own, or one call counts twice. Time is measured with the monotonic clock.
 *
 * The rule is that of Finagle's `RetryBudget` (https://finagle.github.io/blog/2016/02/08/retry-budgets) and of
 * Linkerd, whose defaults for `ratio` and `window` these are: among what happened within one window, retries are at most
 * `ratio` times the first attempts, plus a floor. A window is kept in 20 slots of time, so that what happened is forgotten
 * when it is between 95 % and 100 % of the window old, and neither cost nor memory grow with the traffic.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as config from "../internal/config.ts"
import { millisIn } from "../internal/monotonic.ts"
import * as budgets from "./internal/retryBudget.ts"

/**
 * What one budget allows.
 *
 * **Details**
 *
 * - `ratio`: the share of first attempts that may be retried, from 0 to 1; default 0.2.
 * - `window`: how long a first attempt, and a retry, counts; default 10 seconds.
 * - `minPerSecond`: the floor: how many retries a second are allowed however few first attempts there are; default 0.5,
 *   which is 5 within the default window, in any order: a lone call can make all its retries. 0 for none. Finagle and
 *   Linkerd have 10, for servers that see thousands of calls a second; an agent's dependency sees a few, and a floor that
 *   high would be the whole budget. Also with this one, below some three calls a second it is most of what there is.
 *
 * @category models
 * @since 0.1.0
 */
export interface BudgetOptions {
  readonly ratio?: number | undefined
  readonly window?: Duration.Input | undefined
  readonly minPerSecond?: number | undefined
}

/**
 * Options of {@link make} and {@link layer}: what every budget allows, and what single keys do differently.
 *
 * **Details**
 *
 * - `keys`: options that replace those above for the keys named.
 * - `maxKeys`: how many budgets are remembered; default 10,000. Those unused for longest make room, a tenth at a time.
 *
 * A budget that nobody has used for its window holds nothing any more, and is forgotten.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends BudgetOptions {
  readonly keys?: Readonly<Record<string, BudgetOptions>> | undefined
  readonly maxKeys?: number | undefined
}

/**
 * What is known about one budget: how many first attempts and retries there were within its window, and how many
 * retries it would allow at this moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly key: string
  readonly firstAttempts: number
  readonly retries: number
  readonly available: number
}

/**
 * One first attempt counted. Where it turns out that a guard refused it, so that nothing was sent, `takeBack` undoes that;
 * doing so twice does nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Deposit {
  readonly takeBack: Effect.Effect<void>
}

/**
 * One retry paid for. Where it never begins, because its delay was interrupted, `giveBack` puts it back; doing so twice
 * does nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Withdrawal {
  readonly giveBack: Effect.Effect<void>
}

/**
 * Holds one retry budget per key.
 *
 * **When to use**
 *
 * Name its keys in `Retry.policy({ budget })` and `Hedge.policy({ budget })`; call its methods from a guard of your own.
 *
 * **Details**
 *
 * - `deposit(key)`: a first attempt begins. A budget of your own that gives back no `Deposit` counts refused ones, too.
 * - `withdraw(key)`: pays for a retry; `undefined`, at once, where the budget is empty.
 * - `state(key)` reads a budget, `states` all that are remembered. Neither changes anything.
 *
 * Guards look past the methods of a service made here and decide in one step, so they do not see a method that is replaced
 * in place (`vi.spyOn`): to change one, provide a copy (`{ ...budget, withdraw }`), which is asked by its methods.
 *
 * **Example** (Paying for retries by hand)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { RetryBudget } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const budget = yield* RetryBudget.RetryBudget
 *   for (let i = 0; i < 5; i++) yield* budget.deposit("search")
 *   const first = yield* budget.withdraw("search")
 *   const second = yield* budget.withdraw("search")
 *   return [first !== undefined, second !== undefined]
 * }).pipe(Effect.provide(RetryBudget.layer({ ratio: 0.2, minPerSecond: 0 })))
 *
 * await Effect.runPromise(program) // => [true, false]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class RetryBudget extends Context.Service<RetryBudget, {
  readonly deposit: (key: string) => Effect.Effect<Deposit | void>
  readonly withdraw: (key: string) => Effect.Effect<Withdrawal | undefined>
  readonly state: (key: string) => Effect.Effect<State>
  readonly states: Effect.Effect<ReadonlyArray<State>>
}>()("effect-resilience/policy/RetryBudget") {}

const at = <A>(step: (now: number) => A): Effect.Effect<A> =>
  Effect.contextWith((context: Context.Context<never>) => Effect.succeed(step(millisIn(context))))

/** Does nothing the second time. */
const once = (step: () => void): Effect.Effect<void> => {
  let isDone = false
  return Effect.sync(() => {
    if (isDone) return
    isDone = true
    step()
  })
}

const serviceOf = (all: budgets.Budgets): RetryBudget["Service"] =>
  RetryBudget.of({
    deposit: (key) =>
      at((now) => {
        all.deposit(key, now)
        return { takeBack: once(() => all.takeBack(key, now)) }
      }),
    withdraw: (key) =>
      at((now) => all.tryWithdraw(key, now) ? { giveBack: once(() => all.giveBack(key, now)) } : undefined),
    state: (key) => at((now) => all.snapshot(key, now)),
    states: at((now) => all.snapshots(now))
  })

/**
 * Creates a `RetryBudget` that keeps its budgets in this process.
 *
 * **When to use**
 *
 * Use {@link layer} for the one of a program, and this for a set of budgets of your own.
 *
 * **Details**
 *
 * Dies with `InvalidConfig` when an option is out of range.
 *
 * **Example** (A floor for the calls that come rarely)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { RetryBudget } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const budget = yield* RetryBudget.make({ window: "10 seconds", minPerSecond: 0.5 })
 *   yield* budget.withdraw("nightly report")
 *   return (yield* budget.state("nightly report")).available
 * })
 *
 * await Effect.runPromise(program) // => 4
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Effect.Effect<RetryBudget["Service"]> =>
  Effect.sync(() => {
    const base = budgets.settings(options)
    const byKey = new Map(
      Object.entries(options.keys ?? {}).map(([key, own]) => [
        key,
        budgets.settings({ ...options, ...own }, `keys[${JSON.stringify(key)}].`)
      ])
    )
    const longestWindow = Array.from(byKey.values()).reduce(
      (longest, { windowMillis }) => Math.max(longest, windowMillis),
      base.windowMillis
    )
    const maxKeys = config.integer("RetryBudget", "maxKeys", options.maxKeys ?? budgets.defaults.maxKeys, 1)
    const engine = new budgets.Budgets((key) => byKey.get(key) ?? base, maxKeys, longestWindow)
    return budgets.withEngine(serviceOf(engine), engine)
  })

/**
 * Provides a `RetryBudget` that keeps its budgets in this process.
 *
 * **Details**
 *
 * By default a fifth of the first attempts of the last 10 seconds may be retried, and 10 more. Building the layer dies
 * with `InvalidConfig` when an option is out of range.
 *
 * **Example** (Allowing one key less than the others)
 *
 * ```ts import.meta.vitest
 * import { RetryBudget } from "effect-resilience"
 *
 * export const Live = RetryBudget.layer({
 *   ratio: 0.2,
 *   keys: { billing: { ratio: 0.05, minPerSecond: 0.1 } }
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<RetryBudget> => Layer.effect(RetryBudget, make(options))

/**
 * Provides a `RetryBudget` that is never empty and remembers nothing.
 *
 * **Example** (Testing without budgets)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { RetryBudget } from "effect-resilience"
 *
 * const program = RetryBudget.RetryBudget.use((budget) => budget.state("search")).pipe(
 *   Effect.map(({ available }) => available),
 *   Effect.provide(RetryBudget.layerNoop)
 * )
 *
 * await Effect.runPromise(program) // => Infinity
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<RetryBudget> = Layer.succeed(
  RetryBudget,
  budgets.withEngine(
    RetryBudget.of({
      deposit: () => Effect.void,
      withdraw: () => Effect.succeed({ giveBack: Effect.void }),
      state: (key) => Effect.succeed({ key, firstAttempts: 0, retries: 0, available: Infinity }),
      states: Effect.succeed([])
    }),
    budgets.unlimited
  )
)
