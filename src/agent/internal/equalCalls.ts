import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Semaphore from "effect/Semaphore"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as Waits from "../../internal/waits.ts"

/** What the calls of one key share. */
interface Shared extends Waits.Awaited {
  readonly lock: Semaphore.Semaphore
  /** The call of which nobody knows whether it took effect, and what its run waits for. */
  open: { readonly call: Equal; readonly suspended?: Checkpoint.RunSuspended } | undefined
}

/**
 * A call that must not happen twice, among all calls of its run that are the same call.
 *
 * @internal
 */
export interface Equal {
  readonly runId: string
  readonly place: string
  readonly shared: Shared
}

// By the journal and not by the run's id: what is known here is known as long as this process has the run open.
const runs = new WeakMap<Checkpoint.Run["Service"]["journal"], Map<string, Shared>>()

/** A name as the ids of steps spell it. Only a scope of that name can tell. */
const spelled = (name: string) =>
  Effect.map(
    Checkpoint.within(name)(Checkpoint.current),
    ({ scope }) => scope.slice(scope.lastIndexOf("[") + 1, scope.lastIndexOf("]"))
  )

/**
 * Finds what a call shares with its equals, and whether an earlier process left it open in one of these groups.
 *
 * @internal
 */
export const find = Effect.fnUntraced(function*(
  key: string,
  tool: string,
  groups: ReadonlyArray<string>,
  branch: string
) {
  const { journal, runId, scope } = yield* Checkpoint.Run
  const calls = runs.get(journal) ?? new Map<string, Shared>()
  runs.set(journal, calls)
  const shared: Shared = calls.get(key) ?? { ...Waits.make(), lock: Semaphore.makeUnsafe(1), open: undefined }
  calls.set(key, shared)
  const call: Equal = { runId, place: scope, shared }
  const name = yield* spelled(tool)
  // The second one of its name, where the question before it has the name of the tool.
  const steps = groups.flatMap((group) => [name, `${name}#2`].map((name) => `${scope}/${group}[${branch}]/${name}`))
  if (steps.some((step) => journal.outcome(step)?._tag === "Intended")) shared.open ??= { call }
  return call
})

/**
 * Whether it is this call of which nobody knows whether it took effect.
 *
 * @internal
 */
export const isOpen = (call: Equal): boolean => call.shared.open?.call === call

/**
 * Runs the calls of one key one after the other, and none of them as long as another one is open: it would do a second
 * time what may have happened.
 *
 * @internal
 */
export const run = <A, E, R>(
  call: Equal,
  tool: string,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | Checkpoint.RunSuspended, R> => {
  const { place, runId, shared } = call
  const work = Effect.suspend((): Effect.Effect<A, E | Checkpoint.RunSuspended, R> => {
    const { open } = shared
    if (open !== undefined && !isOpen(call)) {
      const reason =
        `the same call of tool "${tool}" in ${open.call.place} may have taken effect; that is found out first`
      return Effect.fail(open.suspended ?? new Checkpoint.RunSuspended({ runId, step: place, reason }))
    }
    return Effect.onExit(effect, (exit) =>
      Effect.sync(() => {
        if (Exit.isSuccess(exit)) {
          shared.open = undefined
          return
        }
        const error = Option.getOrUndefined(Exit.findErrorOption(exit))
        shared.open = error instanceof Checkpoint.RunSuspended ? { call, suspended: error } : { call }
      }))
  })
  const alone = shared.lock.withPermit(Waits.inside(shared)(work))
  return Waits.waiting(shared, `tool "${tool}"`, alone)
}
