import { type Context, Effect } from "effect"

/** A guarded call that works on promises, as the peers outside of Effect do. */
export type PromiseCall = (work: () => Promise<number>, key: string) => Promise<unknown>

/** What is put around an effect, anew for every call, as programs do. */
export type Guard<R> = <A, E>(self: Effect.Effect<A, E>, key: string) => Effect.Effect<unknown, unknown, R>

/** How a call is made: by a fiber that runs anyway, or by a run of its own; its work is synchronous or asynchronous. */
export type Mode = "fiber/sync" | "fiber/async" | "run/async"

/** Makes so many calls one after the other, going round the keys. */
export type Calls = (times: number) => Promise<void>

let count = 0
const work = async () => ++count

export const works: Readonly<Record<Mode, () => Effect.Effect<number>>> = {
  "fiber/sync": () => Effect.sync(() => ++count),
  "fiber/async": () => Effect.promise(work),
  "run/async": () => Effect.promise(work)
}

/** The keys of the calls, in turn. */
const around = (keys: ReadonlyArray<string>) => {
  let next = 0
  return () => {
    const key = keys[next] ?? ""
    next = next + 1 === keys.length ? 0 : next + 1
    return key
  }
}

/** Calls that a fiber makes. */
const inFiber = <R>(context: Context.Context<R>, one: () => Effect.Effect<unknown, unknown, R>): Calls => {
  let left = 0
  const program = Effect.whileLoop({ while: () => left-- > 0, body: one, step: () => {} })
  const run = Effect.runPromiseWith(context)
  return async (times) => {
    left = times
    await run(program)
  }
}

/** Calls of an effect behind a guard. */
export const effectCalls = <R>(options: {
  readonly mode: Mode
  readonly context: Context.Context<R>
  readonly guard: Guard<R>
  readonly keys: ReadonlyArray<string>
}): Calls => {
  const { context, guard, keys, mode } = options
  const key = around(keys)
  const make = works[mode]
  if (mode !== "run/async") return inFiber(context, () => guard(make(), key()))
  const run = Effect.runPromiseWith(context)
  return async (times) => {
    for (let left = times; left > 0; left--) await run(guard(make(), key()))
  }
}

/** Calls of a function behind a guard that works on promises; a program on Effect reaches it by `Effect.promise`. */
export const promiseCalls = <R>(options: {
  readonly mode: "fiber/async" | "run/async"
  readonly context: Context.Context<R>
  readonly call: PromiseCall
  readonly keys: ReadonlyArray<string>
}): Calls => {
  const { call, context, keys, mode } = options
  const key = around(keys)
  if (mode === "fiber/async") return inFiber(context, () => Effect.promise(() => call(work, key())))
  return async (times) => {
    for (let left = times; left > 0; left--) await call(work, key())
  }
}
