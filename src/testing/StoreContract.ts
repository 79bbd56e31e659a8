/**
 * What every store has to do, as cases that any test framework can run: for whoever brings a store.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import { format } from "effect/Formatter"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import { CheckpointStore, type CheckpointStoreError, type Entry } from "../durable/CheckpointStore.ts"
import type * as Idempotency from "../durable/Idempotency.ts"
import * as Fault from "../Fault.ts"

/**
 * A promise of the contract that the store did not keep.
 *
 * @category errors
 * @since 0.1.0
 */
export class ContractBroken extends Schema.TaggedError<ContractBroken>("effect-resilience/testing/ContractBroken")(
  "ContractBroken",
  { promise: Schema.String, expected: Schema.String, found: Schema.String }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `the store breaks its contract, ${this.promise}: expected ${this.expected}, found ${this.found}`
  }
}

/**
 * One case of a contract. `effect` wants a store that holds nothing, and fails where the store breaks its contract.
 *
 * @category models
 * @since 0.1.0
 */
export interface Case<E, R> {
  readonly name: string
  readonly effect: Effect.Effect<void, E | ContractBroken, R>
}

/**
 * Options of {@link checkpointStore} and {@link idempotencyStore}.
 *
 * **Details**
 *
 * `elapse` makes time go by for the store. Default: `TestClock.adjust`, which fits a store that measures time by
 * Effect's `Clock`. A store with a clock of its own may set back what it has stored instead.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<R = never> {
  readonly elapse?: ((duration: Duration.Duration) => Effect.Effect<void, never, R>) | undefined
}

const same = <A>(promise: string, found: A, expected: A): Effect.Effect<void, ContractBroken> =>
  Equal.equals(found, expected)
    ? Effect.void
    : Effect.fail(new ContractBroken({ promise, expected: format(expected), found: format(found) }))

const holds = (promise: string, found: boolean): Effect.Effect<void, ContractBroken> => same(promise, found, true)

const refused = <A>(
  promise: string,
  effect: Effect.Effect<A, CheckpointStoreError>,
  expected: CheckpointStoreError["reason"]["_tag"]
): Effect.Effect<CheckpointStoreError["reason"], ContractBroken> =>
  Effect.matchEffect(effect, {
    onSuccess: (value) => Effect.fail(new ContractBroken({ promise, expected, found: `success, ${format(value)}` })),
    onFailure: ({ reason }) => Effect.as(same(promise, reason._tag, expected), reason)
  })

const minute = Duration.minutes(1)

const entry = (position: number, body = `{"n":${position}}`): Entry => ({
  position,
  step: position === 0 ? "" : `step#${position}`,
  body
})

const one = (position: number, body?: string): NonEmptyReadonlyArray<Entry> => [entry(position, body)]

type Store = CheckpointStore["Service"]

// Text that a store may change on its way to the disk and back, if it is not careful.
const texts = [
  "\"\\u0000 ☃ 'quoted' \\\\ \\n\"",
  "\"line\u2028separators\u2029and $1 ${2} ?\"",
  `"${"long ".repeat(20_000)}"`,
  "\"🦉\"",
  "\"\u001f\u007f\u0085\"",
  "\" \"",
  "{\"b\": 1.0, \"a\":1e2 }"
]

const steps = ["A b", "a b", " a b ", "\u00e9", "e\u0301", "each[x y]/\ud83e\udd89#2"]

const ids = [
  "../x",
  "..",
  ".",
  "/etc/passwd",
  "a/b",
  "a\\b",
  "__proto__",
  "constructor",
  "%2e%2e",
  "a:b",
  "*",
  "?",
  "[a-z]",
  " ",
  "a ",
  "A",
  "a",
  "å",
  "a\u030a",
  "🦉",
  "NUL",
  "a\nb",
  "ab",
  "{x}",
  "x".repeat(1000),
  `${"x".repeat(999)}y`,
  `y${"x".repeat(999)}`
]

/**
 * The contract of a `CheckpointStore`, as cases to run one by one, each on a store that holds nothing.
 *
 * **Example** (Proving a store of one's own)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CheckpointStore } from "effect-resilience"
 * import { StoreContract } from "effect-resilience/testing"
 * import { TestClock } from "effect/testing"
 *
 * // With @effect/vitest: for (const { effect, name } of cases) it.effect(name, () => Effect.provide(effect, MyStore))
 * const cases = StoreContract.checkpointStore()
 * const [, broken] = await Effect.runPromise(
 *   Effect.partition(cases, ({ effect }) =>
 *     effect.pipe(Effect.provide(CheckpointStore.layerMemory), Effect.provide(TestClock.layer())))
 * )
 * broken // => []
 * ```
 *
 * @category contracts
 * @since 0.1.0
 */
export const checkpointStore = <R = never>(
  options: Options<R> = {}
): ReadonlyArray<Case<CheckpointStoreError, CheckpointStore | R>> => {
  const elapse: (duration: Duration.Duration) => Effect.Effect<void, never, R> = options.elapse ?? TestClock.adjust
  const test = (
    name: string,
    use: (store: Store) => Generator<
      Effect.Effect<unknown, CheckpointStoreError | ContractBroken, R>,
      void,
      never
    >
  ): Case<CheckpointStoreError, CheckpointStore | R> => ({
    name,
    effect: CheckpointStore.use((store) => Effect.gen(() => use(store)))
  })
  return [
    test("gives back the records of a run in order, and of no other run", function*(store) {
      const a = yield* store.acquire("a", minute)
      const b = yield* store.acquire("b", minute)
      yield* store.append(a, one(0))
      yield* store.append(b, one(0, "\"other\""))
      yield* store.append(a, one(1))
      yield* store.append(a, one(2))
      yield* same("read gives all records", yield* store.read("a"), [entry(0), entry(1), entry(2)])
      yield* same("read gives the records of one run", yield* store.read("b"), [entry(0, "\"other\"")])
      yield* same("read of a run that is not there is empty", yield* store.read("nobody"), [])
    }),
    test("gives back text as it went in", function*(store) {
      const lease = yield* store.acquire("a", minute)
      for (const [position, text] of texts.entries()) yield* store.append(lease, one(position, text))
      yield* same(
        "read gives the text that was appended",
        yield* store.read("a"),
        texts.map((text, n) => entry(n, text))
      )
      const other = yield* store.acquire("b", minute)
      const named = steps.map((step, position) => ({ position, step, body: "{}" }))
      for (const one of named) yield* store.append(other, [one])
      yield* same("read gives the steps that were appended", yield* store.read("b"), named)
    }),
    test("keeps runs apart whatever their ids are", function*(store) {
      for (const id of ids) {
        const lease = yield* store.acquire(id, minute)
        yield* store.append(lease, one(0, JSON.stringify(id)))
        yield* store.release(lease)
      }
      for (const id of ids) {
        yield* same(`run ${JSON.stringify(id)} is kept`, yield* store.read(id), [entry(0, JSON.stringify(id))])
      }
      const listed = yield* store.list()
      yield* same("list gives every run", new Set(listed.map(({ runId }) => runId)), new Set(ids))
      for (const id of ids) yield* store.remove(yield* store.acquire(id, minute))
      yield* same("remove removes every run", yield* store.list(), [])
    }),
    test("writes several records as one", function*(store) {
      const lease = yield* store.acquire("a", minute)
      yield* store.append(lease, [entry(0), entry(1), entry(2)], "suspended")
      yield* same("append writes all records", yield* store.read("a"), [entry(0), entry(1), entry(2)])
      const run = Option.getOrUndefined(yield* store.get("a"))
      yield* same("append writes the status with them", [run?.status, run?.entries], ["suspended", 3])
      const many = Array.from({ length: 2_000 }, (_, index) => entry(3 + index))
      yield* store.append(lease, [entry(3), ...many.slice(1)])
      const all = yield* store.read("a")
      yield* same("append writes many records", all.length, 2_003)
      yield* holds("read gives many records in order", all.every(({ position }, index) => position === index))
    }),
    test("refuses a record at any position but the next, and writes nothing", function*(store) {
      const taken = (records: NonEmptyReadonlyArray<Entry>, status?: "failed") =>
        refused(`append at ${records[0].position} is refused`, store.append(lease, records, status), "PositionTaken")
      const lease = yield* store.acquire("a", minute)
      yield* taken(one(1))
      yield* store.append(lease, one(0))
      yield* store.append(lease, one(1))
      yield* taken(one(0))
      yield* taken(one(1, "{}"), "failed")
      yield* taken([entry(1), entry(2)])
      yield* taken(one(3))
      yield* same("a refused append writes nothing", yield* store.read("a"), [entry(0), entry(1)])
      const run = Option.getOrUndefined(yield* store.get("a"))
      yield* same("a refused append leaves the status", run?.status, "running")
    }),
    test("takes the last records once more when their acknowledgement was lost", function*(store) {
      const lease = yield* store.acquire("a", minute)
      yield* store.append(lease, one(0), "running")
      yield* store.append(lease, one(0), "running")
      yield* store.append(lease, [entry(1), entry(2)])
      yield* store.append(lease, [entry(1), entry(2)])
      yield* same("what is appended again is there once", yield* store.read("a"), [entry(0), entry(1), entry(2)])
      yield* store.release(lease)
      const next = yield* store.acquire("a", minute)
      yield* refused("another lease may not append it again", store.append(next, [entry(1), entry(2)]), "PositionTaken")
    }),
    test("grants a run to one owner at a time, and says for how long", function*(store) {
      yield* store.acquire("a", minute)
      yield* elapse(Duration.seconds(15))
      const reason = yield* refused("a held run is refused", store.acquire("a", minute), "LeaseHeld")
      if (reason._tag === "LeaseHeld") {
        const remaining = Duration.toMillis(reason.remaining)
        // A clock that nobody stops has gone on a little.
        yield* holds(`the lease lasts for 45 seconds, not ${remaining} ms`, remaining <= 45_000 && remaining > 35_000)
        const run = yield* store.acquire("b", minute)
        yield* store.append(run, one(0))
        const lease = Option.getOrUndefined(yield* store.get("b"))?.lease
        yield* same("the holder is named as get names it", reason.owner, lease?.owner)
      }
    }),
    test("grants a lease with a newer token when the old one ran out, and fences the old owner", function*(store) {
      const old = yield* store.acquire("a", minute)
      yield* store.append(old, one(0))
      yield* elapse(minute)
      const next = yield* store.acquire("a", minute)
      yield* holds("the new token is greater", next.token > old.token)
      yield* refused("append of an old owner is refused", store.append(old, one(1)), "Fenced")
      yield* refused("append of what it wrote itself, too", store.append(old, one(0)), "Fenced")
      yield* refused("append with a status, too", store.append(old, one(1), "completed"), "Fenced")
      yield* refused("renew of an old owner is refused", store.renew(old, minute), "Fenced")
      yield* refused("release of an old owner is refused", store.release(old), "Fenced")
      yield* refused("remove of an old owner is refused", store.remove(old), "Fenced")
      yield* store.append(next, one(1))
      yield* same("the old owner wrote nothing", yield* store.read("a"), [entry(0), entry(1)])
    }),
    test("lets a lease be taken over where that is asked for", function*(store) {
      const old = yield* store.acquire("a", minute)
      yield* store.append(old, one(0))
      const next = yield* store.acquire("a", minute, { takeOver: true })
      yield* holds("the new token is greater", next.token > old.token)
      yield* refused("the old owner is fenced", store.append(old, one(1)), "Fenced")
      yield* refused("the new owner holds the run", store.acquire("a", minute), "LeaseHeld")
      yield* store.append(next, one(1))
    }),
    test("lets an owner whose lease ran out go on as long as nobody took it over", function*(store) {
      const lease = yield* store.acquire("a", minute)
      yield* elapse(Duration.minutes(2))
      yield* store.append(lease, one(0))
      yield* store.renew(lease, minute)
      yield* refused("the renewed lease holds", store.acquire("a", minute), "LeaseHeld")
    }),
    test("keeps a renewed lease", function*(store) {
      const lease = yield* store.acquire("a", minute)
      yield* elapse(Duration.seconds(40))
      yield* store.renew(lease, minute)
      yield* elapse(Duration.seconds(40))
      yield* refused("the renewed lease holds", store.acquire("a", minute), "LeaseHeld")
    }),
    test("grants a released run at once", function*(store) {
      const lease = yield* store.acquire("a", minute)
      yield* store.append(lease, one(0))
      yield* store.release(lease)
      const next = yield* store.acquire("a", minute)
      yield* holds("the new token is greater", next.token > lease.token)
      yield* refused("the old owner is fenced", store.append(lease, one(1)), "Fenced")
    }),
    test("counts the leases that ended without being released", function*(store) {
      const abandoned = (lease: { readonly abandoned: number }, expected: number) =>
        same("abandoned counts the leases that were not released", lease.abandoned, expected)
      const first = yield* store.acquire("a", minute)
      yield* abandoned(first, 0)
      yield* store.append(first, one(0))
      yield* elapse(minute)
      yield* abandoned(yield* store.acquire("a", minute), 1)
      yield* elapse(minute)
      const third = yield* store.acquire("a", minute)
      yield* abandoned(third, 2)
      yield* store.renew(third, minute)
      yield* abandoned(yield* store.acquire("a", minute, { takeOver: true }), 3)
      yield* elapse(minute)
      const fifth = yield* store.acquire("a", minute)
      yield* store.renew(fifth, minute, { recovered: true })
      yield* elapse(minute)
      const sixth = yield* store.acquire("a", minute)
      yield* abandoned(sixth, 1)
      yield* store.release(sixth)
      yield* abandoned(yield* store.acquire("a", minute), 0)
    }),
    test("tells the status of runs, and lists those that have a record, oldest first", function*(store) {
      yield* store.acquire("no record yet", minute)
      const b = yield* store.acquire("b", minute)
      yield* store.append(b, one(0), "running")
      yield* elapse(Duration.seconds(1))
      const a = yield* store.acquire("a", minute)
      yield* store.append(a, one(0), "running")
      yield* elapse(Duration.seconds(1))
      yield* store.append(a, one(1), "suspended")
      yield* store.append(a, one(2))
      yield* store.release(a)
      const listed = (options?: Parameters<Store["list"]>[0]) =>
        Effect.map(store.list(options), (runs) => runs.map(({ runId }) => runId))
      yield* same("list gives the oldest run first", yield* listed(), ["b", "a"])
      yield* same("list gives as many as were asked for", yield* listed({ limit: 1 }), ["b"])
      yield* same("list gives the runs of a status", yield* listed({ status: "suspended" }), ["a"])
      const first = yield* listed({ status: "suspended", limit: 1 })
      yield* same("list gives as many as were asked for of those of a status", first, ["a"])
      yield* same("list of a status that no run has is empty", yield* listed({ status: "failed" }), [])
      const told = Option.getOrUndefined(yield* store.get("a"))
      yield* same(
        "get tells id, status, length and lease",
        [told?.runId, told?.status, told?.entries, told?.lease],
        ["a", "suspended", 3, undefined]
      )
      const held = Option.getOrUndefined(yield* store.get("b"))
      yield* holds("the older run was created first", (held?.createdAt ?? NaN) < (told?.createdAt ?? NaN))
      yield* holds("its status changed after it was created", (told?.updatedAt ?? NaN) > (told?.createdAt ?? NaN))
      yield* holds("the lease of the other one lives", (held?.lease?.expiresAt ?? NaN) > (told?.updatedAt ?? NaN))
      yield* elapse(Duration.seconds(1))
      const before = Option.getOrUndefined(yield* store.get("b"))?.updatedAt
      yield* store.append(b, [entry(1)])
      const after = Option.getOrUndefined(yield* store.get("b"))?.updatedAt
      yield* same("a record without a status changes neither status nor lease", after, before)
      const now = Option.getOrUndefined(yield* store.get("a"))?.updatedAt
      const untilThen = yield* listed({ updatedBefore: now ?? NaN })
      yield* same("list gives the runs that did not change since", untilThen, ["b"])
      yield* same("a run without a record is not there", yield* store.get("no record yet"), Option.none())
    }),
    test("removes a run with its journal, and never grants an old token again", function*(store) {
      const old = yield* store.acquire("a", minute)
      yield* store.append(old, [entry(0), entry(1)])
      yield* store.remove(old)
      yield* same("remove removes the journal", yield* store.read("a"), [])
      yield* same("remove removes the run", yield* store.list(), [])
      yield* same("get finds it no more", yield* store.get("a"), Option.none())
      const next = yield* store.acquire("a", minute)
      yield* holds("the new token is greater", next.token > old.token)
      yield* same("a run that was removed has no history", next.abandoned, 0)
      yield* store.append(next, one(0, "\"new\""))
      yield* refused("the owner of the old run is fenced", store.append(old, one(1)), "Fenced")
      yield* same("the old owner wrote nothing", yield* store.read("a"), [entry(0, "\"new\"")])
    }),
    test("grants one of many that ask at the same time", function*(store) {
      const results = yield* Effect.forEach(
        Array.from({ length: 10 }),
        () => Effect.result(store.acquire("a", minute)),
        { concurrency: "unbounded" }
      )
      yield* same("one lease is granted", results.filter(({ _tag }) => _tag === "Success").length, 1)
      const refusals = results.flatMap((result) => result._tag === "Failure" ? [result.failure.reason._tag] : [])
      yield* same("the others are told that it is held", new Set(refusals), new Set(["LeaseHeld"]))
    }),
    test("writes one of the records that are appended at the same place at the same time", function*(store) {
      const lease = yield* store.acquire("a", minute)
      yield* store.append(lease, one(0))
      const bodies = Array.from({ length: 5 }, (_, n) => JSON.stringify(`writer ${n}`))
      const results = yield* Effect.forEach(
        bodies,
        (body) => Effect.result(store.append(lease, one(1, body))),
        { concurrency: "unbounded" }
      )
      const acknowledged = bodies.filter((_, n) => results[n]?._tag === "Success")
      yield* same("one record is acknowledged", acknowledged.length, 1)
      const found = (yield* store.read("a")).slice(1).map(({ body }) => body)
      yield* same("the record that was acknowledged is the one that is there", found, acknowledged)
    }),
    test("writes the journals of many runs at the same time", function*(store) {
      yield* Effect.forEach(
        Array.from({ length: 20 }, (_, run) => `run ${run}`),
        (id) =>
          Effect.gen(function*() {
            const lease = yield* store.acquire(id, minute)
            for (let n = 0; n < 5; n++) yield* store.append(lease, one(n, JSON.stringify([id, n])))
            yield* store.release(lease)
          }),
        { concurrency: "unbounded" }
      )
      for (let run = 0; run < 20; run++) {
        const found = (yield* store.read(`run ${run}`)).map(({ body }) => body)
        const expected = Array.from({ length: 5 }, (_, n) => JSON.stringify([`run ${run}`, n]))
        yield* same("every run has its own records", found, expected)
      }
    })
  ]
}

/**
 * The contract of an `Idempotency.Store`, as cases to run one by one, each on a store that `open` makes and that holds
 * nothing.
 *
 * **Example** (Proving a store of results)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Idempotency } from "effect-resilience"
 * import { StoreContract } from "effect-resilience/testing"
 * import { TestClock } from "effect/testing"
 *
 * const cases = StoreContract.idempotencyStore(Idempotency.makeStoreMemory())
 * const [, broken] = await Effect.runPromise(
 *   Effect.partition(cases, ({ effect }) => Effect.provide(effect, TestClock.layer()))
 * )
 * broken // => []
 * ```
 *
 * @category contracts
 * @since 0.1.0
 */
export const idempotencyStore = <E, R, R2 = never>(
  open: Effect.Effect<Idempotency.Store, E, R>,
  options: Options<R2> = {}
): ReadonlyArray<Case<E | Idempotency.IdempotencyStoreError, R | R2>> => {
  const elapse: (duration: Duration.Duration) => Effect.Effect<void, never, R2> = options.elapse ?? TestClock.adjust
  const test = (
    name: string,
    use: (store: Idempotency.Store) => Generator<
      Effect.Effect<unknown, Idempotency.IdempotencyStoreError | ContractBroken, R2>,
      void,
      never
    >
  ): Case<E | Idempotency.IdempotencyStoreError, R | R2> => ({
    name,
    effect: Effect.flatMap(open, (store) => Effect.gen(() => use(store)))
  })
  const recorded = (outcome: string, timeToLive = minute): Effect.Effect<Idempotency.Entry> =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      const recordedAt = Math.floor(now)
      return { outcome, recordedAt, expiresAt: recordedAt + Duration.toMillis(timeToLive) }
    })
  const record = (
    store: Idempotency.Store,
    scope: string,
    key: string,
    outcome: string,
    timeToLive?: Duration.Duration
  ) =>
    Effect.map(
      Effect.flatMap(recorded(outcome, timeToLive), (entry) => store.put(scope, key, entry)),
      (kept) => kept.outcome
    )
  const outcomeOf = (store: Idempotency.Store, scope: string, key: string) =>
    Effect.map(store.get(scope, key), (entry) => entry?.outcome)

  return [
    test("gives back what was recorded, and nothing for another call", function*(store) {
      // A time that nothing else has by chance, such as zero.
      yield* elapse(Duration.seconds(1))
      const entry = yield* recorded("1")
      yield* same("put gives the entry that it keeps", yield* store.put("s", "a", entry), entry)
      yield* same("get gives the entry that was kept", yield* store.get("s", "a"), entry)
      yield* same("get of another key gives nothing", yield* store.get("s", "b"), undefined)
      yield* same("get of another scope gives nothing", yield* store.get("t", "a"), undefined)
    }),
    test("gives back text as it went in", function*(store) {
      for (const [index, text] of texts.entries()) {
        yield* same("put gives the text", yield* record(store, "s", `k${index}`, text), text)
      }
      for (const [index, text] of texts.entries()) {
        yield* same("get gives the text", yield* outcomeOf(store, "s", `k${index}`), text)
      }
    }),
    test("keeps calls apart whatever their scopes are", function*(store) {
      for (const scope of ids) yield* record(store, scope, "k", JSON.stringify(scope))
      for (const scope of ids) {
        const found = yield* outcomeOf(store, scope, "k")
        yield* same(`scope ${JSON.stringify(scope)} is kept`, found, JSON.stringify(scope))
      }
    }),
    test("keeps calls apart that would be alike if scope and key were joined", function*(store) {
      const calls = [["a b", "c"], ["a", "b c"], ["a:b", "c"], ["a", "b:c"], ["a/b", "c"], ["a", "b/c"]] as const
      for (const [scope, key] of calls) yield* record(store, scope, key, `${scope}|${key}`)
      for (const [scope, key] of calls) {
        yield* same(`"${key}" of "${scope}" is kept`, yield* outcomeOf(store, scope, key), `${scope}|${key}`)
      }
    }),
    test("keeps the outcome that was recorded first", function*(store) {
      yield* record(store, "s", "a", "first")
      yield* elapse(Duration.seconds(1))
      yield* same("put gives the outcome that is there", yield* record(store, "s", "a", "second"), "first")
      yield* same("put leaves the outcome that is there", yield* outcomeOf(store, "s", "a"), "first")
    }),
    test("gives everybody one outcome of those that are recorded at the same time", function*(store) {
      const outcomes = Array.from({ length: 10 }, (_, n) => `outcome ${n}`)
      const kept = yield* Effect.forEach(outcomes, (outcome) => record(store, "s", "a", outcome), {
        concurrency: "unbounded"
      })
      yield* same("put gives all the same outcome", new Set(kept).size, 1)
      yield* same("get gives the outcome that all were given", yield* outcomeOf(store, "s", "a"), kept[0])
    }),
    test("replaces an outcome that has expired, and no sooner", function*(store) {
      yield* record(store, "s", "a", "old", minute)
      yield* elapse(Duration.seconds(50))
      yield* same("put keeps what lasts another ten seconds", yield* record(store, "s", "a", "early"), "old")
      yield* elapse(Duration.seconds(20))
      yield* same("put replaces what has expired", yield* record(store, "s", "a", "new"), "new")
      yield* same("get gives what has replaced it", yield* outcomeOf(store, "s", "a"), "new")
    }),
    test("keeps for ever what does not expire", function*(store) {
      const recordedAt = Math.floor(yield* Clock.currentTimeMillis)
      yield* store.put("s", "a", { outcome: "ever", recordedAt, expiresAt: Number.MAX_SAFE_INTEGER })
      yield* elapse(Duration.days(1_000))
      yield* same("get gives it after years", yield* outcomeOf(store, "s", "a"), "ever")
      yield* same("put keeps it after years", yield* record(store, "s", "a", "new"), "ever")
    }),
    test("forgets one scope and no other", function*(store) {
      const keys = Array.from({ length: 200 }, (_, n) => `k${n}`)
      for (const key of keys) yield* record(store, "s", key, key)
      for (const scope of ["t", "s2", "S", "%", "s%", "_"]) yield* record(store, scope, "k0", scope)
      yield* same("get gives each of many", yield* Effect.forEach(keys, (key) => outcomeOf(store, "s", key)), keys)
      yield* store.clear("s")
      const left = (yield* Effect.forEach(keys, (key) => outcomeOf(store, "s", key))).filter((one) => one !== undefined)
      yield* same("clear forgets all of a scope", left, [])
      for (const scope of ["t", "s2", "S", "%", "s%", "_"]) {
        yield* same("clear forgets nothing of another scope", yield* outcomeOf(store, scope, "k0"), scope)
      }
      yield* same("put records anew what was forgotten", yield* record(store, "s", "k0", "anew"), "anew")
      yield* store.clear("%")
      yield* same("clear takes a scope for a name and not for a pattern", yield* outcomeOf(store, "s", "k0"), "anew")
      yield* store.clear("nobody")
    })
  ]
}
