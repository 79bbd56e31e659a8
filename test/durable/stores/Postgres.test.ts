import type { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Clock, Context, Deferred, Duration, Effect, Fiber, Layer, Redacted, Schema } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import * as Postgres from "effect-resilience/durable/stores/Postgres"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import { SqlClient } from "effect/sql"
import { describeWithPostgres, suiteSchema } from "../../support/postgres.ts"
import { connectPostgres, postgresSchema } from "../../support/postgresServer.ts"
import { suite } from "../contracts/CheckpointStoreContract.ts"

const minute = Duration.minutes(1)

/** Lets time go by for a store that measures it by the database's clock: sets back what it has stored. */
const elapse = (duration: Duration.Duration) =>
  SqlClient.SqlClient.use((sql) => {
    const millis = Duration.toMillis(duration)
    return Effect.orDie(sql`UPDATE effect_resilience_runs SET created_at = created_at - ${millis},
      updated_at = updated_at - ${millis}, lease_expires_at = lease_expires_at - ${millis}`)
  })

describeWithPostgres("Postgres", () => {
  const schema = suiteSchema()
  suite("all services over one PostgreSQL database", Layer.unwrap(Effect.map(schema, Postgres.layer)), { elapse })

  it.effect("five processes that start at once on an empty database all come up", () =>
    Effect.gen(function*() {
      const options = yield* postgresSchema
      const processes = yield* Effect.forEach(
        Array.from({ length: 5 }),
        () => Layer.build(Layer.fresh(Postgres.layer(options))),
        { concurrency: "unbounded" }
      )
      for (const [index, process] of processes.entries()) {
        const { acquire } = Context.get(process, CheckpointStore.CheckpointStore)
        yield* acquire(`run ${index}`, minute)
      }
    }))

  it.effect("a server that is not there is Unavailable", () =>
    Effect.gen(function*() {
      const nobody = Postgres.layer({ url: Redacted.make("postgres://nobody@127.0.0.1:1/none") })
      const error = yield* Effect.flip(Layer.build(nobody))
      const reason = error._tag === "SqlError" ? error.reason._tag : error.reason
      assert.strictEqual(typeof reason === "string" ? reason : reason._tag, "Unavailable")
    }))
})

/** A process on a host whose clock is ahead by some time. */
const host = (options: PgClient.PgPoolConfig, ahead: Duration.Duration, clock?: "database" | "process") =>
  Effect.gen(function*() {
    const context = yield* Layer.build(Layer.fresh(Layer.provide(
      SqlCheckpointStore.layerWith({
        clock,
        owner: { id: `ahead by ${Duration.format(ahead)}`, isGone: () => Effect.succeed(false) }
      }),
      Layer.effect(SqlClient.SqlClient, connectPostgres(options))
    )))
    const { acquire, ...store } = Context.get(context, CheckpointStore.CheckpointStore)
    const time = yield* Clock.Clock
    const millis = Duration.toMillis(ahead)
    const skewed: Clock.Clock = {
      currentTimeMillisUnsafe: () => time.currentTimeMillisUnsafe() + millis,
      currentTimeMillis: Effect.map(time.currentTimeMillis, (now) => now + millis),
      currentTimeNanosUnsafe: () => time.currentTimeNanosUnsafe() + BigInt(millis * 1_000_000),
      currentTimeNanos: Effect.map(time.currentTimeNanos, (now) => now + BigInt(millis * 1_000_000)),
      monotonicTimeNanosUnsafe: () => time.monotonicTimeNanosUnsafe(),
      monotonicTimeNanos: time.monotonicTimeNanos,
      sleep: (duration) => time.sleep(duration)
    }
    return {
      ...store,
      acquire: (runId: string) => Effect.provideService(acquire(runId, minute), Clock.Clock, skewed)
    }
  })

describeWithPostgres("Postgres: hosts whose clocks differ", () => {
  const schema = suiteSchema()

  it.effect("agree on who holds a run, for how long, and from when on it is free", () =>
    Effect.gen(function*() {
      const options = yield* schema
      const late = yield* host(options, Duration.hours(-1))
      const early = yield* host(options, Duration.hours(1))
      for (const [holder, other] of [[late, early], [early, late]] as const) {
        const lease = yield* holder.acquire("r")
        const { reason } = yield* Effect.flip(other.acquire("r"))
        assert.strictEqual(reason._tag, "LeaseHeld")
        if (reason._tag === "LeaseHeld") {
          assert.isAtMost(Duration.toMillis(reason.remaining), 60_000)
          assert.isAtLeast(Duration.toMillis(reason.remaining), 30_000)
        }
        const sql = yield* connectPostgres(options)
        yield* Effect.provideService(elapse(minute), SqlClient.SqlClient, sql)
        const next = yield* other.acquire("r")
        const late = yield* Effect.flip(holder.append(lease, [{ position: 0, step: "", body: "{}" }]))
        assert.strictEqual(late.reason._tag, "Fenced")
        yield* other.release(next)
      }
    }))

  it.effect("do not where each goes by its own clock", () =>
    Effect.gen(function*() {
      const options = yield* schema
      const late = yield* host(options, Duration.hours(-1), "process")
      const early = yield* host(options, Duration.hours(1), "process")
      yield* late.acquire("r")
      const lease = yield* early.acquire("r")
      assert.strictEqual(lease.abandoned, 1)
    }))
})

const record = (position: number, step: string) => ({ position, step, body: "{}" })

/** A store whose statements stop at a gate until they are let through, in a schema of its own. */
const gated = Effect.gen(function*() {
  const options = yield* postgresSchema
  const name = options.startupParameters?.["search_path"] ?? ""
  const admin = yield* connectPostgres(options)
  const context = yield* Layer.build(Layer.fresh(Postgres.layer({ ...options, applicationName: name })))
  const store = Context.get(context, CheckpointStore.CheckpointStore)
  yield* admin.unsafe(`CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('${name}')); RETURN NEW; END $$`)
  yield* admin`CREATE TRIGGER gate BEFORE INSERT ON effect_resilience_journal FOR EACH ROW
    WHEN (NEW.step = 'slow') EXECUTE FUNCTION gate()`
  yield* admin`CREATE TRIGGER gate AFTER UPDATE ON effect_resilience_runs FOR EACH ROW
    WHEN (NEW.token <> OLD.token) EXECUTE FUNCTION gate()`

  /** Shuts the gate, and gives what opens it. */
  const shut = Effect.gen(function*() {
    const isShut = yield* Deferred.make<void>()
    const opened = yield* Deferred.make<void>()
    const keeper = yield* admin`SELECT pg_advisory_xact_lock(hashtext(${name}))`.pipe(
      Effect.andThen(Deferred.succeed(isShut, undefined)),
      Effect.andThen(Deferred.await(opened)),
      admin.withTransaction,
      Effect.forkScoped
    )
    yield* Deferred.await(isShut)
    return Effect.andThen(Deferred.succeed(opened, undefined), Fiber.join(keeper))
  })

  /** Waits until a statement of the store waits at the gate, or for another one. */
  const waiting = (what: "at the gate" | "for another") =>
    Effect.repeat(
      admin<{ readonly event: string }>`SELECT wait_event AS event FROM pg_stat_activity
        WHERE application_name = ${name} AND wait_event_type = 'Lock'`,
      { until: (rows) => rows.some(({ event }) => (event === "advisory") === (what === "at the gate")) }
    )
  const terminate = admin`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ${name}`
  return { admin, context, shut, store, terminate, waiting }
})

describeWithPostgres("Postgres: what an old owner was writing when it was followed", () => {
  it.effect("is read by the next one, which waits for it", () =>
    Effect.gen(function*() {
      const { shut, store, waiting } = yield* gated
      const old = yield* store.acquire("r", minute)
      yield* store.append(old, [record(0, "")])
      const open = yield* shut
      const append = yield* Effect.forkChild(store.append(old, [record(1, "slow")]))
      yield* waiting("at the gate")
      const follow = yield* Effect.forkChild(
        Effect.tap(store.acquire("r", minute, { takeOver: true }), () => store.read("r"))
      )
      yield* waiting("for another")
      yield* open
      yield* Fiber.join(append)
      const next = yield* Fiber.join(follow)
      assert.deepStrictEqual(yield* store.read("r"), [record(0, ""), record(1, "slow")])
      assert.strictEqual((yield* Effect.flip(store.append(old, [record(2, "late")]))).reason._tag, "Fenced")
      yield* store.append(next, [record(2, "next")])
    }))

  it.effect("is Fenced, with or without a status, if the take-over came first", () =>
    Effect.gen(function*() {
      const { shut, store, waiting } = yield* gated
      let lease = yield* store.acquire("r", minute)
      yield* store.append(lease, [record(0, "")])
      const writes = [
        (lease: CheckpointStore.Lease) => store.append(lease, [record(1, "late")]),
        (lease: CheckpointStore.Lease) => store.append(lease, [record(1, "late")], "completed"),
        (lease: CheckpointStore.Lease) => store.append(lease, [record(1, "late"), record(2, "late")]),
        (lease: CheckpointStore.Lease) => store.renew(lease, minute),
        (lease: CheckpointStore.Lease) => store.release(lease),
        (lease: CheckpointStore.Lease) => store.remove(lease)
      ]
      for (const write of writes) {
        const open = yield* shut
        const follow = yield* Effect.forkChild(store.acquire("r", minute, { takeOver: true }))
        yield* waiting("at the gate")
        // Begun while the take-over is on its way: what it sees first is that the lease is its own.
        const late = yield* Effect.forkChild(Effect.flip(write(lease)))
        yield* Effect.raceFirst(
          waiting("for another"),
          Effect.andThen(Fiber.await(late), Effect.die("it did not wait"))
        )
        yield* open
        assert.strictEqual((yield* Fiber.join(late)).reason._tag, "Fenced")
        lease = yield* Fiber.join(follow)
        assert.deepStrictEqual(yield* store.read("r"), [record(0, "")])
      }
      assert.deepStrictEqual((yield* store.list()).map(({ status }) => status), ["running"])
    }))
})

describeWithPostgres("Postgres: a server that goes away", () => {
  it.effect("while it writes leaves nothing, and the record can be written when it is back", () =>
    Effect.gen(function*() {
      const { shut, store, terminate, waiting } = yield* gated
      const lease = yield* store.acquire("r", minute)
      yield* store.append(lease, [record(0, "")])
      const open = yield* shut
      const append = yield* Effect.forkChild(Effect.flip(store.append(lease, [record(1, "slow")])))
      yield* waiting("at the gate")
      yield* terminate
      assert.strictEqual((yield* Fiber.join(append)).reason._tag, "Unavailable")
      yield* open
      assert.deepStrictEqual(yield* store.read("r"), [record(0, "")])
      yield* store.append(lease, [record(1, "slow")])
    }))

  // On the real clock: what a step came to is offered again until the server is back.
  it.live("between and during the steps of a run loses nothing that was acknowledged", () =>
    Effect.gen(function*() {
      const { admin, context, store, terminate } = yield* gated
      const executed: Array<string> = []
      const lost = new Set(["2", "5", "6", "9"])
      const program = Effect.forEach(Array.from({ length: 12 }, (_, n) => String(n)), (n) =>
        Checkpoint.step(
          n,
          { success: Schema.String },
          Effect.gen(function*() {
            executed.push(n)
            if (lost.delete(n)) yield* terminate
            return n
          })
        )).pipe(Checkpoint.run({ id: "r" }))
      let failures = 0
      for (;;) {
        const before = executed.length
        const acknowledged = new Set((yield* store.read("r")).map(({ step }) => step))
        const result = yield* Effect.result(Effect.provideContext(program, context))
        for (const step of executed.slice(before)) assert.isFalse(acknowledged.has(step), step)
        if (result._tag === "Success") {
          assert.deepStrictEqual(result.success, Array.from({ length: 12 }, (_, n) => String(n)))
          break
        }
        failures++
        assert.isTrue(result.failure._tag === "CheckpointStoreError" && result.failure.reason._tag === "Unavailable")
        // Whoever could not give its lease back holds it until it is over.
        yield* Effect.provideService(elapse(minute), SqlClient.SqlClient, admin)
      }
      assert.isAtMost(failures, 4)
      assert.strictEqual(lost.size, 0)
    }))

  it.effect("says that it is full, stopping, failing or reading only is Unavailable, and anything else Rejected", () =>
    Effect.gen(function*() {
      const { admin, store } = yield* gated
      yield* admin.unsafe(`CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'no room for %', NEW.step USING ERRCODE = NEW.step; END $$`)
      yield* admin`CREATE TRIGGER trouble BEFORE INSERT ON effect_resilience_journal FOR EACH ROW
        WHEN (NEW.step <> '') EXECUTE FUNCTION trouble()`
      const lease = yield* store.acquire("r", minute)
      yield* store.append(lease, [record(0, "")], "running")
      for (const code of ["53100", "53200", "53300", "57P01", "57P03", "58030", "25006", "40001", "55P03"]) {
        const error = yield* Effect.flip(store.append(lease, [record(1, code)], "failed"))
        assert.strictEqual(error.reason._tag, "Unavailable", code)
        assert.include(error.message, `no room for ${code}`)
      }
      for (const code of ["P0001", "22001", "23514"]) {
        const error = yield* Effect.flip(store.append(lease, [record(1, code)]))
        assert.strictEqual(error.reason._tag, "Rejected", code)
        assert.include(error.message, `no room for ${code}`)
      }
      assert.deepStrictEqual((yield* store.list()).map(({ entries, status }) => [entries, status]), [[1, "running"]])
      yield* admin`DROP TRIGGER trouble ON effect_resilience_journal`
      yield* store.append(lease, [record(1, "53100")], "failed")
    }))
})
