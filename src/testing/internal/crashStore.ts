import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { type CheckpointStore, CheckpointStoreError, type Entry, type Lease } from "../../durable/CheckpointStore.ts"
import type { Life, Operation } from "./crashLife.ts"
import type { Story } from "./crashStory.ts"

type Store = CheckpointStore["Service"]

// The kinds of records are those that `Checkpoint.inspect` shows.
const read = Schema.decodeUnknownOption(
  Schema.fromJsonString(Schema.Struct({ _tag: Schema.String, error: Schema.optionalKey(Schema.Unknown) }))
)

/** @internal */
export const describe = ({ body, step }: Entry): string => {
  const kind = Option.match(read(body), { onNone: () => "a record", onSome: ({ _tag }) => _tag })
  return step === "" ? kind : `${kind} of step "${step}"`
}

/**
 * The steps that have their results in a journal.
 *
 * @internal
 */
export const concluded = (entries: ReadonlyArray<Entry>): ReadonlySet<string> => {
  const steps = new Set<string>()
  for (const { body, step } of entries) {
    const record = Option.getOrUndefined(read(body))
    switch (record?._tag) {
      case "StepSucceeded":
        steps.add(step)
        break
      case "StepFailed":
        if (record.error !== undefined) steps.add(step)
        break
      // What still counts of what came before is in the records that follow, or not to be told from here.
      case "RunMigrated":
      case "RunRolledBack":
        steps.clear()
    }
  }
  return steps
}

/**
 * A store as one process of a story sees it: every write is two boundaries, and when the process has crashed nothing
 * gets through any more, in either direction.
 *
 * @internal
 */
export const observed = <A, E>(store: Store, life: Life<A, E>, story: Story): Store => {
  const lost = (operation: string, runId?: string): Effect.Effect<never, CheckpointStoreError> =>
    life.lost === "silent" ? Effect.never : Effect.fail(
      new CheckpointStoreError({
        operation,
        reason: { _tag: "Unavailable", cause: new Error("CrashPoints has cut the store off") },
        ...(runId === undefined ? {} : { runId })
      })
    )

  const reading = <B>(operation: string, effect: Effect.Effect<B, CheckpointStoreError>, runId?: string) =>
    Effect.suspend(() => {
      if (life.isDead) return life.gone
      if (life.lost !== undefined) return lost(operation, runId)
      return Effect.flatMap(
        life.outside(effect, true),
        (value) => life.lost === undefined ? Effect.succeed(value) : lost(operation, runId)
      )
    })

  const writing = <B>(options: {
    readonly operation: Operation
    readonly runId: string
    readonly what?: string
    readonly effect: Effect.Effect<B, CheckpointStoreError>
    /** The store has done it. */
    readonly done: () => void
    /** The process knows that the store has done it. */
    readonly acknowledged?: () => void
  }) => {
    const { acknowledged, done, effect, operation, runId } = options
    const what = () => `${operation} ${options.what === undefined ? "" : `${options.what} `}in run "${runId}"`
    return Effect.gen(function*() {
      yield* life.cross(operation, "before", what)
      if (life.lost !== undefined) return yield* lost(operation, runId)
      const value = yield* life.outside(Effect.tap(effect, () => Effect.sync(done)), true)
      yield* life.cross(operation, "after", what)
      if (life.lost !== undefined) return yield* lost(operation, runId)
      acknowledged?.()
      return value
    })
  }

  const forget = ({ runId }: Lease) => () => {
    story.held.delete(runId)
  }

  return {
    acquire: (runId, ttl, options) =>
      Effect.suspend(() => {
        // Whoever held it before is dead, and everybody may know.
        const holder = story.held.get(runId)
        const takeOver = options?.takeOver === true || (holder !== undefined && holder < life.number)
        return writing({
          operation: "acquire",
          runId,
          effect: store.acquire(runId, ttl, { ...options, takeOver }),
          done: () => {
            story.runs.add(runId)
            story.held.set(runId, life.number)
          }
        })
      }),
    renew: (lease, ttl, options) =>
      writing({ operation: "renew", runId: lease.runId, effect: store.renew(lease, ttl, options), done: () => {} }),
    release: (lease) =>
      writing({ operation: "release", runId: lease.runId, effect: store.release(lease), done: forget(lease) }),
    append: (lease, entries, status) => {
      const { runId } = lease
      const what = entries.map(describe).join(", ")
      return writing({
        operation: "append",
        runId,
        what,
        effect: store.append(lease, entries, status),
        done: () => {},
        acknowledged: () => {
          const known = story.acknowledged.get(runId) ?? new Map<number, Entry>()
          for (const entry of entries) known.set(entry.position, entry)
          story.acknowledged.set(runId, known)
          story.tell(life.number, `record ${what} in run "${runId}"`)
        }
      })
    },
    remove: (lease) =>
      writing({
        operation: "remove",
        runId: lease.runId,
        effect: store.remove(lease),
        done: () => {
          forget(lease)()
          story.acknowledged.delete(lease.runId)
        }
      }),
    read: (runId) => reading("read", store.read(runId), runId),
    get: (runId) => reading("get", store.get(runId), runId),
    list: (options) => reading("list", store.list(options))
  }
}
