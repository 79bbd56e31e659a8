/**
 * What every store has to do, as cases that any test framework can run: for whoever brings a store.
 *
 * **When to use**
 *
 * Use it in the tests of a store of your own.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import { format } from "effect/Formatter"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Struct from "effect/Struct"
import * as TestClock from "effect/testing/TestClock"
import { CheckpointStore, type CheckpointStoreError, type Entry } from "../durable/CheckpointStore.ts"
import * as EscalationQueue from "../durable/EscalationQueue.ts"
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

type Asked = EscalationQueue.Escalation

const at = (millis: number) => DateTime.makeUnsafe(millis)

/**
 * The contract of an `EscalationQueue.Store`, as cases to run one by one, each on a store that `open` makes and that holds
 * nothing.
 *
 * **Details**
 *
 * A store gets its times from the queue, so that no time has to go by. `listen` is not part of it: what it misses is found
 * by asking, and that is.
 *
 * **Example** (Proving a store of escalations)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { EscalationQueue } from "effect-resilience"
 * import { StoreContract } from "effect-resilience/testing"
 *
 * const cases = StoreContract.escalationStore(EscalationQueue.makeStoreMemory())
 * const [, broken] = await Effect.runPromise(Effect.partition(cases, ({ effect }) => effect))
 * broken // => []
 * ```
 *
 * @category contracts
 * @since 0.1.0
 */
export const escalationStore = <E, R>(
  open: Effect.Effect<EscalationQueue.Store, E, R>
): ReadonlyArray<Case<E | EscalationQueue.EscalationError, R>> => {
  const test = (
    name: string,
    use: (store: EscalationQueue.Store) => Generator<
      Effect.Effect<unknown, EscalationQueue.EscalationError | ContractBroken>,
      void,
      never
    >
  ): Case<E | EscalationQueue.EscalationError, R> => ({
    name,
    effect: Effect.flatMap(open, (store) => Effect.gen(() => use(store)))
  })

  const question = (id: string, fields: Partial<ConstructorParameters<typeof EscalationQueue.Escalation>[0]> = {}) =>
    new EscalationQueue.Escalation({
      id,
      revision: 0,
      reason: "RequiresHuman",
      task: `task ${id}`,
      decisions: ["Approve", "Reject"],
      submittedAt: at(1_000),
      status: "open",
      ...fields
    })
  type Fields = Partial<Pick<Asked, "revision" | "status" | "claim" | "resolution" | "closed" | "delivered" | "task">>
  const withFields = (record: Asked, fields: Fields) => {
    const { revision, status, task } = record
    return new EscalationQueue.Escalation(Struct.assign(record, { revision, status, task, ...fields }))
  }
  const claimed = (record: Asked, until: number) =>
    withFields(record, { status: "claimed", claim: { by: "ann", until: at(until) } })
  const decided = (record: Asked, when: number) =>
    withFields(record, { status: "resolved", resolution: { decision: { _tag: "Approve" }, by: "ann", at: at(when) } })
  const expired = (record: Asked, when: number) =>
    withFields(record, { status: "expired", closed: { as: "expired", at: at(when) } })
  const withdrawn = (record: Asked, when: number) =>
    withFields(record, { status: "withdrawn", closed: { as: "withdrawn", at: at(when), reason: "enough" } })

  const insert = (store: EscalationQueue.Store, record: Asked) =>
    Effect.map(store.insert(record), ({ record }) => record)
  const write = (store: EscalationQueue.Store, record: Asked) =>
    Effect.flatMap(
      store.replace(record),
      (written) =>
        written === undefined
          ? Effect.fail(
            new ContractBroken({
              promise: "replace writes a record that nobody has changed",
              expected: "the record",
              found: "undefined"
            })
          )
          : Effect.succeed(written)
    )
  const idsOf = (records: ReadonlyArray<Asked>) => records.map(({ id }) => id)
  const selected = (store: EscalationQueue.Store, filter: EscalationQueue.Filter, now = 10_000) =>
    Effect.map(store.select({ ...filter, limit: filter.limit ?? 1_000, now }), idsOf)
  const changes = (
    store: EscalationQueue.Store,
    only: EscalationQueue.Changed,
    since = -1,
    limit = 1_000
  ) => Effect.map(store.changedSince(since, { only, limit }), ({ records }) => idsOf(records))

  return [
    test("gives back what was written, and nothing for another id", function*(store) {
      const whole = question("a", {
        runId: "run",
        step: "pay",
        error: { tag: "Declined", message: "no" },
        checkpoint: "run@7",
        state: { messages: ["hello", null, 1.5] },
        context: [true, {}],
        accepts: { type: "integer" },
        edits: {},
        expiresAt: at(5_000),
        claim: { by: "ann", until: at(3_000) },
        status: "claimed"
      })
      const { inserted, record } = yield* store.insert(whole)
      yield* same("insert says that the record is new", inserted, true)
      yield* same("insert gives the record that it keeps", withFields(record, { revision: 0 }), whole)
      yield* same("find gives the record that was inserted", yield* store.find("a"), record)
      yield* same("find of another id gives nothing", yield* store.find("b"), undefined)
      const next = yield* write(store, decided(record, 2_000))
      yield* same("find gives the record that replaced it", yield* store.find("a"), next)
      const last = yield* write(store, withFields(next, { delivered: true }))
      yield* same("find gives all fields of a record", yield* store.find("a"), last)
    }),
    test("gives back text as it went in", function*(store) {
      for (const [index, text] of texts.entries()) {
        yield* store.insert(question(`${index}`, { task: text, context: { [text.slice(0, 100)]: text } }))
      }
      for (const [index, text] of texts.entries()) {
        const found = yield* store.find(`${index}`)
        yield* same("find gives the text", [found?.task, found?.context], [text, { [text.slice(0, 100)]: text }])
      }
    }),
    test("keeps runs apart whatever their ids are", function*(store) {
      for (const [index, runId] of ids.entries()) yield* store.insert(question(`${index}`, { runId }))
      yield* store.insert(question("of no run"))
      for (const [index, runId] of ids.entries()) {
        yield* same(`those of run ${JSON.stringify(runId)} are its own`, yield* selected(store, { runId }), [
          `${index}`
        ])
      }
    }),
    test("keeps the record of an id that was there first", function*(store) {
      const first = yield* insert(store, question("a"))
      const again = yield* store.insert(question("a", { task: "another" }))
      yield* same("insert says that the record is not new", again.inserted, false)
      yield* same("insert gives the record that is there", again.record, first)
      const done = yield* write(store, decided(first, 2_000))
      yield* same("insert gives it when it is decided, too", (yield* store.insert(question("a"))).record, done)
      yield* same("insert leaves the record that is there", yield* store.find("a"), done)
    }),
    test("keeps one of those that are inserted under one id at the same time", function*(store) {
      const all = yield* Effect.forEach(
        Array.from({ length: 10 }, (_, n) => question("a", { task: `task ${n}` })),
        (record) => store.insert(record),
        { concurrency: "unbounded" }
      )
      yield* same("insert says of one that it is new", all.filter(({ inserted }) => inserted).length, 1)
      yield* same("insert gives all the same record", new Set(all.map(({ record }) => record.task)).size, 1)
      yield* same("find gives the record that all were given", yield* store.find("a"), all[0]?.record)
    }),
    test("replaces a record that nobody has changed since it was read, and no other", function*(store) {
      const first = yield* insert(store, question("a"))
      yield* store.insert(question("b"))
      const second = yield* write(store, claimed(first, 3_000))
      yield* holds("replace gives a newer revision", second.revision > first.revision)
      yield* same("replace of an older reading is refused", yield* store.replace(decided(first, 2_000)), undefined)
      yield* same("a refused replace changes nothing", yield* store.find("a"), second)
      yield* same("a refused replace leaves what waits", (yield* store.waiting(2_000)).count, 2)
      yield* same("replace of an id that is not there is refused", yield* store.replace(question("c")), undefined)
      yield* same("replace inserts nothing", yield* store.find("c"), undefined)
      yield* write(store, decided(second, 2_000))
    }),
    test("writes one of those that replace one reading at the same time", function*(store) {
      const record = yield* insert(store, question("a"))
      const all = yield* Effect.forEach(
        Array.from({ length: 10 }, (_, n) => withFields(decided(record, 2_000), { task: `task ${n}` })),
        (next) => store.replace(next),
        { concurrency: "unbounded" }
      )
      const won = all.filter((one) => one !== undefined)
      yield* same("one is written", won.length, 1)
      yield* same("find gives the one that was written", yield* store.find("a"), won[0])
    }),
    test("gives every write a greater revision than all before", function*(store) {
      const revisions: Array<number> = []
      yield* holds("an empty store has a revision that is less", (yield* store.revision) >= 0)
      for (const id of ["a", "b", "c"]) revisions.push((yield* insert(store, question(id))).revision)
      for (const id of ["b", "a"]) {
        const record = yield* store.find(id)
        if (record !== undefined) revisions.push((yield* write(store, claimed(record, 3_000))).revision)
      }
      yield* holds(
        "revisions grow, also from one record to the next",
        revisions.every((revision, index) => index === 0 || revision > (revisions[index - 1] ?? 0))
      )
      yield* same("revision is that of the last write", yield* store.revision, revisions.at(-1))
    }),
    test("selects by status as of a time, by reason and by run, the oldest first", function*(store) {
      const submit = (id: string, submittedAt: number, fields: Parameters<typeof question>[1] = {}) =>
        insert(store, question(id, { submittedAt: at(submittedAt), ...fields }))
      yield* submit("second", 2_000, { runId: "r1", reason: "LoopDetected" })
      yield* submit("first", 1_000, { runId: "r1" })
      yield* write(store, claimed(yield* submit("held", 3_000, { runId: "r2" }), 9_000))
      yield* submit("out of time", 4_000, { expiresAt: at(8_000), reason: "LoopDetected" })
      yield* write(store, expired(yield* submit("expired", 5_000, { expiresAt: at(6_000), runId: "r1" }), 6_500))
      yield* write(store, decided(yield* submit("decided", 6_000, { expiresAt: at(7_000), runId: "r1" }), 6_500))
      yield* write(store, withdrawn(yield* submit("withdrawn", 7_000, { runId: "r2", expiresAt: at(8_000) }), 7_500))
      const everything = ["first", "second", "held", "out of time", "expired", "decided", "withdrawn"]
      yield* same("the oldest come first", yield* selected(store, {}), everything)
      yield* same("as many as were asked for", yield* selected(store, { limit: 3 }), everything.slice(0, 3))
      const early = (status: EscalationQueue.Status) => selected(store, { status }, 7_900)
      const late = (status: EscalationQueue.Status) => selected(store, { status }, 9_000)
      yield* same("open before", yield* early("open"), ["first", "second", "out of time"])
      yield* same("claimed before", yield* early("claimed"), ["held"])
      yield* same("expired before", yield* early("expired"), ["expired"])
      yield* same("open after a lease and a time to live are over", yield* late("open"), ["first", "second", "held"])
      yield* same("claimed after that", yield* late("claimed"), [])
      yield* same("expired after that", yield* late("expired"), ["out of time", "expired"])
      yield* same("resolved", yield* late("resolved"), ["decided"])
      yield* same("withdrawn", yield* late("withdrawn"), ["withdrawn"])
      yield* same("of a reason", yield* selected(store, { reason: "LoopDetected" }), ["second", "out of time"])
      yield* same("of a run", yield* selected(store, { runId: "r1" }), ["first", "second", "expired", "decided"])
      yield* same("of a run that has none", yield* selected(store, { runId: "r" }), [])
      yield* same("of a run and a status", yield* selected(store, { runId: "r1", status: "resolved" }), ["decided"])
      const both = yield* selected(store, { runId: "r1", reason: "LoopDetected", status: "open", limit: 1 })
      yield* same("of all of these", both, ["second"])
    }),
    test("selects from many, also of one time", function*(store) {
      const many = Array.from({ length: 250 }, (_, n) => `${1_000 + n}`)
      yield* Effect.forEach(
        many,
        (id, n) =>
          store.insert(question(id, {
            submittedAt: at(n < 220 ? 1_000 : 1_001),
            reason: n % 50 === 49 ? "LoopDetected" : "RequiresHuman"
          })),
        { concurrency: 10 }
      )
      const every = yield* selected(store, {})
      yield* same("all are there", new Set(every), new Set(many))
      yield* same("each is there once", every.length, many.length)
      yield* same("the oldest come first", new Set(every.slice(0, 220)), new Set(many.slice(0, 220)))
      const rare = yield* selected(store, { reason: "LoopDetected", status: "open" })
      yield* same("few among many are found", new Set(rare), new Set(["1049", "1099", "1149", "1199", "1249"]))
      yield* same("as many as were asked for", (yield* selected(store, { limit: 120 })).length, 120)
    }),
    test("counts what waits, claimed or not, and tells since when", function*(store) {
      yield* same("nothing waits", yield* store.waiting(0), { count: 0, oldest: undefined })
      const submit = (id: string, submittedAt: number, expiresAt?: number) =>
        insert(
          store,
          question(id, {
            submittedAt: at(submittedAt),
            ...(expiresAt === undefined ? {} : { expiresAt: at(expiresAt) })
          })
        )
      const third = yield* submit("c", 3_000)
      yield* submit("b", 2_000)
      yield* submit("a", 1_000, 5_000)
      yield* write(store, claimed(third, 9_000))
      yield* same("all wait", yield* store.waiting(4_999), { count: 3, oldest: 1_000 })
      yield* same("what is out of time does not", yield* store.waiting(5_000), { count: 2, oldest: 2_000 })
      const first = yield* store.find("a")
      if (first !== undefined) yield* write(store, expired(first, 5_000))
      yield* same("nor by a clock that is late", yield* store.waiting(4_000), { count: 2, oldest: 2_000 })
      const second = yield* store.find("b")
      const back = second && (yield* write(store, decided(second, 5_000)))
      yield* same("nor does what is decided", yield* store.waiting(6_000), { count: 1, oldest: 3_000 })
      if (back !== undefined) yield* write(store, question("b", { revision: back.revision, submittedAt: at(2_000) }))
      yield* same("what was decided waits when it is open again", (yield* store.waiting(6_000)).count, 2)
      const held = yield* store.find("c")
      if (held !== undefined) yield* write(store, withdrawn(held, 6_000))
      yield* same("what was withdrawn does not", yield* store.waiting(6_000), { count: 1, oldest: 2_000 })
    }),
    test("tells what is out of time and not recorded as expired, the earliest first", function*(store) {
      const submit = (id: string, expiresAt: number) => insert(store, question(id, { expiresAt: at(expiresAt) }))
      yield* store.insert(question("for ever"))
      yield* submit("late", 4_000)
      yield* submit("early", 2_000)
      yield* write(store, claimed(yield* submit("held", 3_000), 9_000))
      yield* write(store, decided(yield* submit("decided", 2_000), 1_500))
      yield* write(store, withdrawn(yield* submit("withdrawn", 2_000), 1_500))
      yield* write(store, expired(yield* submit("recorded", 2_000), 2_500))
      const overdue = (now: number, limit = 1_000) => Effect.map(store.overdue(now, { limit }), idsOf)
      yield* same("none before its time", yield* overdue(1_999), [])
      yield* same("those whose time is over", yield* overdue(3_000), ["early", "held"])
      yield* same("all of them, the earliest first", yield* overdue(9_000), ["early", "held", "late"])
      yield* same("as many as were asked for", yield* overdue(9_000, 2), ["early", "held"])
      const [first] = yield* store.overdue(9_000, { limit: 1 })
      yield* same("a record can be replaced as it is told", first, yield* store.find("early"))
    }),
    test("tells what was written after a revision, in that order", function*(store) {
      for (const id of ["a", "b", "c"]) yield* store.insert(question(id))
      const b = yield* store.find("b")
      const middle = yield* store.revision
      const held = b && (yield* write(store, claimed(b, 3_000)))
      const d = yield* insert(store, question("d"))
      yield* same("all, in the order of their last writes", yield* changes(store, "all"), ["a", "c", "b", "d"])
      yield* same("those after a revision", yield* changes(store, "all", middle), ["b", "d"])
      const page = yield* store.changedSince(-1, { only: "all", limit: 2 })
      yield* same("as many as were asked for", idsOf(page.records), ["a", "c"])
      yield* same("and the revision of the last", page.revision, page.records.at(-1)?.revision)
      yield* same("from which it goes on", yield* changes(store, "all", page.revision), ["b", "d"])
      const end = yield* store.changedSince(yield* store.revision, { only: "all", limit: 2 })
      yield* same("nothing after the last", [end.records, end.revision], [[], yield* store.revision])
      const now = yield* store.changedSince(page.revision, { only: "all", limit: 9 })
      yield* same("records as they stand", now.records, held === undefined ? [] : [held, d])
    }),
    test("tells what is undecided, and what a run is still to hear of", function*(store) {
      const submit = (id: string, runId?: string) =>
        insert(store, question(id, { expiresAt: at(5_000), ...(runId === undefined ? {} : { runId }) }))
      const open = yield* submit("open", "r")
      yield* write(store, claimed(yield* submit("held", "r"), 9_000))
      yield* write(store, decided(yield* submit("of no run"), 2_000))
      yield* write(store, withdrawn(yield* submit("withdrawn", "r"), 2_000))
      const told = yield* write(store, decided(yield* submit("told", "r"), 2_000))
      yield* write(store, decided(yield* submit("decided", "r"), 2_000))
      yield* write(store, expired(yield* submit("expired", "r"), 5_000))
      yield* same("undecided", yield* changes(store, "undecided"), ["open", "held"])
      yield* same("undelivered", yield* changes(store, "undelivered"), ["told", "decided", "expired"])
      yield* write(store, withFields(told, { delivered: true }))
      yield* same("not what is delivered", yield* changes(store, "undelivered"), ["decided", "expired"])
      yield* same("as many as were asked for", yield* changes(store, "undelivered", -1, 1), ["decided"])
      const done = yield* write(store, decided(open, 2_000))
      yield* same("what was decided last comes last", yield* changes(store, "undelivered"), [
        "decided",
        "expired",
        "open"
      ])
      yield* write(store, question("open", { revision: done.revision, runId: "r" }))
      yield* same("not what is open again", yield* changes(store, "undelivered"), ["decided", "expired"])
      yield* same("which is undecided then", yield* changes(store, "undecided"), ["held", "open"])
    }),
    test("removes what has been over for long enough, and nothing else", function*(store) {
      const submit = (id: string, expiresAt?: number) =>
        insert(store, question(id, { runId: "r", ...(expiresAt === undefined ? {} : { expiresAt: at(expiresAt) }) }))
      yield* submit("waits")
      yield* submit("still has time", 5_001)
      yield* submit("out of time", 4_000)
      yield* write(store, claimed(yield* submit("held"), 2_000))
      yield* write(store, decided(yield* submit("decided", 3_000), 2_000))
      yield* write(store, decided(yield* submit("decided later", 3_000), 5_001))
      yield* write(store, withdrawn(yield* submit("withdrawn"), 5_000))
      yield* write(store, expired(yield* submit("expired", 4_000), 4_500))
      for (let n = 0; n < 250; n++) yield* write(store, decided(yield* submit(`old ${n}`), 2_000))
      const last = yield* submit("last")
      yield* same("prune tells how many it has removed", yield* store.prune(5_000), 254)
      const left = ["waits", "still has time", "held", "decided later", "last"]
      yield* same("select finds the others", new Set(yield* selected(store, {})), new Set(left))
      yield* same("by run, too", new Set(yield* selected(store, { runId: "r" })), new Set(left))
      yield* same("find finds it no more", yield* store.find("decided"), undefined)
      yield* same("nobody hears of it any more", yield* changes(store, "undelivered"), ["decided later"])
      yield* same("it is not told as changed", new Set(yield* changes(store, "all")), new Set(left))
      yield* same("it is not out of time", (yield* store.overdue(4_500, { limit: 10 })).length, 0)
      yield* same("nothing is left to be removed", yield* store.prune(5_000), 0)
      const anew = yield* store.insert(question("decided"))
      yield* same("its id can be used anew", anew.inserted, true)
      yield* holds("with a greater revision than all before", anew.record.revision > last.revision)
    })
  ]
}
