/**
 * Where the journals of runs are kept: a small contract that memory, files and databases can fulfil.
 *
 * **When to use**
 *
 * Use it to choose where runs are kept: in memory for tests ({@link layerMemory}), else one of
 * `effect-resilience/durable/stores`; or to write a store of your own, which `StoreContract` proves.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Fault from "../Fault.ts"

/**
 * Schema of {@link RunStatus}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const RunStatus = Schema.Literals([
  "running",
  "suspended",
  "completed",
  "failed",
  "escalated",
  "cancelled",
  "deadLettered"
])

/**
 * The state of a run: `running` (or cut off by a crash), `suspended` and `escalated` (ended on purpose, to be resumed;
 * escalated when a person's decision is awaited), `completed`, and `failed` (which may be resumed too). `cancelled` and
 * `deadLettered` (it ended its process too often) stay as they are until somebody revives the run.
 *
 * @category models
 * @since 0.1.0
 */
export type RunStatus = typeof RunStatus.Type

/**
 * Why a store could not do what it was asked.
 *
 * **Details**
 *
 * - `Unavailable`: the store is down, busy, full or slow; the same request may work later.
 * - `LeaseHeld`: another owner holds the run, for the time that remains.
 * - `Fenced`: the lease was lost to another owner, whose token is newer; nothing was written.
 * - `PositionTaken`: the journal is longer than the writer believed; nothing was written.
 * - `SchemaTooNew`: the stored tables are of a newer release than this code.
 * - `InTransaction`: the caller has a transaction open on the same client, which could roll the record back later.
 * - `Corrupt`: what is stored of the run cannot be read, and is left as it is.
 * - `Rejected`: the store refused for another reason, and will again.
 *
 * @category errors
 * @since 0.1.0
 */
export const CheckpointStoreReason = Schema.TaggedUnion({
  Unavailable: { cause: Schema.optionalKey(Schema.Defect()) },
  LeaseHeld: { owner: Schema.String, expiresAt: Schema.Finite, remaining: Schema.DurationFromMillis },
  Fenced: { token: Schema.Finite },
  PositionTaken: { position: Schema.Finite, length: Schema.Finite },
  SchemaTooNew: { found: Schema.Finite, known: Schema.Finite },
  InTransaction: {},
  Corrupt: { detail: Schema.String },
  Rejected: { cause: Schema.optionalKey(Schema.Defect()) }
})

const because = (cause: unknown): string =>
  cause instanceof Error && cause.message !== "" ? `, because of ${cause.name}: ${cause.message.slice(0, 500)}` : ""

/**
 * Failure of a {@link CheckpointStore}.
 *
 * **Details**
 *
 * Whatever the reason, a record that was not acknowledged counts as not written: the run stops, and resuming it reads
 * what the journal really has.
 *
 * @category errors
 * @since 0.1.0
 */
export class CheckpointStoreError
  extends Schema.TaggedError<CheckpointStoreError>("effect-resilience/durable/CheckpointStore/CheckpointStoreError")(
    "CheckpointStoreError",
    {
      operation: Schema.String,
      runId: Schema.optionalKey(Schema.String),
      reason: CheckpointStoreReason
    }
  )
{
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Transient" | "Rejected" | "Permanent" }> {
    switch (this.reason._tag) {
      case "Unavailable":
        return Fault.transient
      case "LeaseHeld":
        return Fault.rejected(this.reason.remaining)
      default:
        return Fault.permanent
    }
  }
  override get message() {
    const where = this.runId === undefined
      ? `checkpoint store, ${this.operation}`
      : `checkpoint store, ${this.operation} of run "${this.runId}"`
    const reason = this.reason
    switch (reason._tag) {
      case "Unavailable":
        return `${where}: the store is unavailable${because(reason.cause)}; ` +
          "nothing unacknowledged counts, resume the run when it is back"
      case "LeaseHeld":
        return `${where}: held by ${reason.owner} for another ${Duration.format(reason.remaining)}`
      case "Fenced":
        return `${where}: the lease with token ${reason.token} was taken over by another owner; nothing was written`
      case "PositionTaken":
        return `${where}: expected to write record ${reason.position}, the journal has ${reason.length}; nothing was written`
      case "SchemaTooNew":
        return `${where}: the tables are at version ${reason.found}, this release knows ${reason.known}; upgrade effect-resilience`
      case "InTransaction":
        return `${where}: called inside a transaction of the same SqlClient; move the step out of the transaction`
      case "Corrupt":
        return `${where}: ${reason.detail}; nothing was changed, restore what is stored of the run or clear the run`
      case "Rejected":
        return `${where}: the store refused it, and will again${because(reason.cause)}; ` +
          "remove the cause and resume the run, nothing unacknowledged counts"
    }
  }
}

/**
 * The right to write one run's journal. Of two leases on one run the one with the greater `token` is valid.
 *
 * **Details**
 *
 * `abandoned` is how many leases before this one ended, one after the other, without being released, as the lease of a
 * process does that was killed.
 *
 * @category models
 * @since 0.1.0
 */
export interface Lease {
  readonly runId: string
  readonly token: number
  readonly abandoned: number
}

/**
 * One record of a journal: where it stands, which step it is about (empty for the run itself), and its JSON text.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry {
  readonly position: number
  readonly step: string
  readonly body: string
}

/**
 * What a store tells about a run without reading its journal. Times are in milliseconds since the epoch.
 *
 * **Details**
 *
 * `updatedAt` is when the status or the lease of the run last changed. The lease of a run that is at work is renewed
 * at every third of its time.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunSummary {
  readonly runId: string
  readonly status: RunStatus
  readonly entries: number
  readonly createdAt: number
  readonly updatedAt: number
  readonly lease: { readonly owner: string; readonly expiresAt: number } | undefined
}

/**
 * Who takes leases, and who is known to be gone.
 *
 * **Details**
 *
 * A lease whose owner `isGone` is taken over at once instead of when its time is over. The default owner is a random
 * name that never knows of another one being gone; `stores/Sqlite` names the host and the process, so that a process
 * killed on this host blocks nobody.
 *
 * @category models
 * @since 0.1.0
 */
export interface LeaseOwner {
  readonly id: string
  readonly isGone: (owner: string) => Effect.Effect<boolean>
}

/**
 * Creates the owner that a store uses when it is given none.
 *
 * @category constructors
 * @since 0.1.0
 */
export const anonymousOwner: Effect.Effect<LeaseOwner> = Effect.map(
  Random.nextIntBetween(0, Number.MAX_SAFE_INTEGER),
  (n) => ({ id: `owner-${n.toString(36)}`, isGone: () => Effect.succeed(false) })
)

/**
 * Which runs to list.
 *
 * **Details**
 *
 * `status` is the state that they are in. `updatedBefore` is in milliseconds since the epoch. `limit` is how many at most, the oldest first; default: all.
 *
 * @category models
 * @since 0.1.0
 */
export interface ListOptions {
  readonly status?: RunStatus | undefined
  readonly updatedBefore?: number | undefined
  readonly limit?: number | undefined
}

/**
 * Keeps the journals of runs. Programs use `Checkpoint`; this is the contract for whoever brings a store.
 *
 * **Details**
 *
 * - `acquire` grants the lease of a run, new or old, with a token greater than any that this store ever granted for
 *   it. It fails with `LeaseHeld` while another lease lives, even one of the same owner, unless asked to `takeOver`.
 * - `renew` and `release` fail with `Fenced` when the lease was taken over. A lease that ran out and that nobody took
 *   over is still good. With `recovered` the leases that were abandoned before count no more.
 * - `append` writes the records, one after the other, and the run's status if given, in one atomic step: acknowledged
 *   means durable. It fails with `Fenced`, or with `PositionTaken` if the first `position` is not the journal's length.
 *   Appending once more exactly what the same lease appended last succeeds and changes nothing, so that a lost
 *   acknowledgement can be asked for again.
 * - `read` gives all records in order, `get` and `list` the runs that have at least one, oldest first. What is stored
 *   and cannot be read is `Corrupt`, and touched by nobody; `list` leaves such a run out and logs it.
 * - `remove` deletes the run and its journal, and ends the lease. Cut off in the middle, it leaves either the whole run
 *   or none.
 *
 * Nobody waits for ever for a store: one that is silent for the time of a run's lease (30 seconds, unless the run says
 * otherwise) is `Unavailable`, whatever it was asked.
 *
 * Text comes back as it went in; run ids are any well-formed text that is not empty, also `../x` and `__proto__`.
 *
 * `StoreContract.checkpointStore` in `effect-resilience/testing` is the suite that a store has to pass.
 *
 * @category services
 * @since 0.1.0
 */
export class CheckpointStore extends Context.Service<CheckpointStore, {
  readonly acquire: (
    runId: string,
    ttl: Duration.Duration,
    options?: { readonly takeOver?: boolean | undefined }
  ) => Effect.Effect<Lease, CheckpointStoreError>
  readonly renew: (
    lease: Lease,
    ttl: Duration.Duration,
    options?: { readonly recovered?: boolean | undefined }
  ) => Effect.Effect<void, CheckpointStoreError>
  readonly release: (lease: Lease) => Effect.Effect<void, CheckpointStoreError>
  readonly append: (
    lease: Lease,
    entries: NonEmptyReadonlyArray<Entry>,
    status?: RunStatus
  ) => Effect.Effect<void, CheckpointStoreError>
  readonly read: (runId: string) => Effect.Effect<ReadonlyArray<Entry>, CheckpointStoreError>
  readonly get: (runId: string) => Effect.Effect<Option.Option<RunSummary>, CheckpointStoreError>
  readonly list: (options?: ListOptions) => Effect.Effect<ReadonlyArray<RunSummary>, CheckpointStoreError>
  readonly remove: (lease: Lease) => Effect.Effect<void, CheckpointStoreError>
}>()("effect-resilience/durable/CheckpointStore") {}

interface MemoryRun {
  status: RunStatus
  readonly entries: Array<Entry>
  readonly createdAt: number
  updatedAt: number
  token: number
  abandoned: number
  appended: { readonly token: number; readonly from: number } | undefined
  lease: { readonly owner: string; readonly expiresAt: number } | undefined
}

const isSame = (one: ReadonlyArray<Entry>, other: ReadonlyArray<Entry>): boolean =>
  one.length === other.length &&
  one.every(({ body, position, step }, index) => {
    const there = other[index]
    return there !== undefined && there.position === position && there.step === step && there.body === body
  })

/**
 * Creates a store that lives as long as the process. `owner` is who takes its leases; default: an anonymous one.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeMemory = Effect.fnUntraced(function*(options: { readonly owner?: LeaseOwner | undefined } = {}) {
  const owner = options.owner ?? (yield* anonymousOwner)
  const runs = new Map<string, MemoryRun>()
  let tokens = 0

  // A run without a record is only a lease: it is not a run yet for those who look.
  const summary = (runId: string, run: MemoryRun): RunSummary => ({
    runId,
    status: run.status,
    entries: run.entries.length,
    createdAt: run.createdAt,
    updatedAt: run.updatedAt,
    lease: run.lease
  })

  const holding = <A>(
    operation: string,
    lease: Lease,
    use: (run: MemoryRun, now: number) => Effect.Effect<A, CheckpointStoreError>
  ) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const { runId, token } = lease
      const run = runs.get(runId)
      return run === undefined || run.token !== token
        ? Effect.fail(new CheckpointStoreError({ operation, runId, reason: { _tag: "Fenced", token } }))
        : use(run, now)
    })

  return CheckpointStore.of({
    acquire: Effect.fnUntraced(function*(runId, ttl, { takeOver = false } = {}) {
      const holder = runs.get(runId)?.lease
      const gone = holder !== undefined && (yield* owner.isGone(holder.owner))
      const now = yield* Clock.currentTimeMillis
      const existing = runs.get(runId)
      const held = existing?.lease
      if (held !== undefined && held.expiresAt > now && !takeOver && !(gone && held === holder)) {
        return yield* new CheckpointStoreError({
          operation: "acquire",
          runId,
          reason: { _tag: "LeaseHeld", ...held, remaining: Duration.millis(held.expiresAt - now) }
        })
      }
      const run: MemoryRun = existing ?? {
        status: "running",
        entries: [],
        createdAt: now,
        updatedAt: now,
        token: 0,
        abandoned: 0,
        appended: undefined,
        lease: undefined
      }
      run.token = ++tokens
      run.abandoned = held === undefined ? 0 : run.abandoned + 1
      run.lease = { owner: owner.id, expiresAt: now + Duration.toMillis(ttl) }
      run.updatedAt = now
      runs.set(runId, run)
      return { runId, token: run.token, abandoned: run.abandoned }
    }),
    renew: (lease, ttl, { recovered = false } = {}) =>
      holding("renew", lease, (run, now) => {
        run.lease = { owner: owner.id, expiresAt: now + Duration.toMillis(ttl) }
        run.updatedAt = now
        if (recovered) run.abandoned = 0
        return Effect.void
      }),
    release: (lease) =>
      holding("release", lease, (run, now) => {
        run.lease = undefined
        run.updatedAt = now
        if (run.entries.length === 0) runs.delete(lease.runId)
        return Effect.void
      }),
    append: (lease, entries, status) =>
      holding("append", lease, (run, now) => {
        const { runId, token } = lease
        const { length } = run.entries
        const { position } = entries[0]
        if (position !== length) {
          const repeated = run.appended?.token === token && run.appended.from === position &&
            isSame(run.entries.slice(position), entries)
          return repeated ? Effect.void : Effect.fail(
            new CheckpointStoreError({
              operation: "append",
              runId,
              reason: { _tag: "PositionTaken", position, length }
            })
          )
        }
        run.entries.push(...entries)
        run.appended = { token, from: position }
        if (status !== undefined) {
          run.status = status
          run.updatedAt = now
        }
        return Effect.void
      }),
    read: (runId) => Effect.sync(() => runs.get(runId)?.entries.slice() ?? []),
    get: (runId) =>
      Effect.sync(() => {
        const run = runs.get(runId)
        return run === undefined || run.entries.length === 0 ? Option.none() : Option.some(summary(runId, run))
      }),
    list: ({ limit, status, updatedBefore = Infinity } = {}) =>
      Effect.sync(() =>
        Array.from(runs, ([runId, run]) => summary(runId, run)).filter((run) =>
          run.entries > 0 && (status === undefined || run.status === status) && run.updatedAt < updatedBefore
        ).slice(0, limit)
      ),
    remove: (lease) =>
      holding("remove", lease, () => {
        runs.delete(lease.runId)
        return Effect.void
      })
  })
})

/**
 * Keeps journals in memory, for tests and for programs that need no more than to resume in the same process.
 *
 * **Example** (Testing a durable program)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const program = Effect.succeed("done").pipe(Checkpoint.run({ id: "r" }), Effect.andThen(Checkpoint.list()))
 *
 * const runs = await Effect.runPromise(Effect.provide(program, CheckpointStore.layerMemory))
 * runs.map((run) => [run.runId, run.status]) // => [["r", "completed"]]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory: Layer.Layer<CheckpointStore> = Layer.effect(CheckpointStore, makeMemory())
