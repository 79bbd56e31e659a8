import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Queue,
  Schema,
  type Scope
} from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import { SqlClient, type SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import * as path from "node:path"
import { describeWithPostgres, suiteSchema } from "../support/postgres.ts"
import * as Process from "../support/process.ts"
import { sqliteFile } from "./sqliteFile.ts"

type Connect = (
  owner: string,
  gone?: ReadonlySet<string>
) => Effect.Effect<Context.Context<CheckpointStore.CheckpointStore>, unknown, Scope.Scope>

/** Connects to the database as a process does: with a connection of its own. Leases go by Effect's `Clock`. */
const connecting =
  (database: Layer.Layer<SqlClient.SqlClient, SqlError.SqlError>): Connect => (owner, gone = new Set()) =>
    Layer.build(Layer.fresh(
      SqlCheckpointStore.layerWith({
        clock: "process",
        owner: { id: owner, isGone: (other) => Effect.sync(() => gone.has(other)) }
      }).pipe(Layer.provide(database))
    ))

const within = (context: Context.Context<CheckpointStore.CheckpointStore>) => Effect.provideContext(context)

const step = (name: string, log: Array<string>, after: Effect.Effect<void> = Effect.void) =>
  Checkpoint.step(name, { effects: "atMostOnce" }, Effect.andThen(Effect.sync(() => void log.push(name)), after))

const shared = (open: Effect.Effect<Connect, never, Scope.Scope>) => {
  it.effect("a run that another process works on is RunLeased, with the time its lease lasts", () =>
    Effect.gen(function*() {
      const connect = yield* open
      const one = yield* connect("one")
      const two = yield* connect("two")
      const log: Array<string> = []
      const reached = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const gate = Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(go))
      const program = Effect.andThen(step("a", log, gate), step("b", log)).pipe(Checkpoint.run({ id: "r" }))
      const first = yield* program.pipe(within(one), Effect.forkChild)
      yield* Deferred.await(reached)
      yield* TestClock.adjust("5 seconds")
      const locked = yield* program.pipe(within(two), Effect.flip)
      assert.isTrue(
        locked._tag === "RunLeased" && locked.holder === "one" && Duration.toMillis(locked.remaining) === 25_000
      )
      // Far longer than the lease: it is renewed as long as its owner lives.
      const { get } = Context.get(one, CheckpointStore.CheckpointStore)
      for (let renewals = 1; renewals <= 12; renewals++) {
        yield* TestClock.adjust(renewals === 1 ? "5 seconds" : "10 seconds")
        const end = (yield* Clock.currentTimeMillis) + 30_000
        yield* Effect.repeat(get("r"), { until: Option.exists(({ lease }) => lease?.expiresAt === end) })
      }
      assert.strictEqual((yield* program.pipe(within(two), Effect.flip))._tag, "RunLeased")
      assert.strictEqual((yield* Checkpoint.clear("r").pipe(within(two), Effect.flip))._tag, "RunLeased")
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.join(first)
      yield* program.pipe(within(two))
      assert.deepStrictEqual(log, ["a", "b"])
    }))

  it.effect("an owner that was followed can write nothing more, and is stopped", () =>
    Effect.gen(function*() {
      const connect = yield* open
      const one = yield* connect("one")
      // It takes the living owner for dead, which is the worst that can happen.
      const two = yield* connect("two", new Set(["one"]))
      const log: Array<string> = []
      const reached = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      let gate = Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(go))
      const program = Effect.gen(function*() {
        yield* Checkpoint.step(
          "a",
          {},
          Effect.andThen(Effect.sync(() => void log.push("a")), Effect.suspend(() => gate))
        )
        yield* Effect.ignore(step("b", log))
      }).pipe(Checkpoint.run({ id: "r" }))
      const first = yield* program.pipe(within(one), Effect.flip, Effect.forkChild)
      yield* Deferred.await(reached)
      gate = Effect.void
      yield* program.pipe(within(two))
      assert.deepStrictEqual(log, ["a", "a", "b"])
      yield* Deferred.succeed(go, undefined)
      const error = yield* Fiber.join(first)
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Fenced")
      assert.deepStrictEqual(log, ["a", "a", "b"])
      assert.strictEqual((yield* Checkpoint.inspect("r").pipe(within(one))).status, "completed")
    }))

  for (const what of ["finished", "removed"] as const) {
    it.effect(`an owner that stood still while it read a run that another one ${what} is Fenced: nothing is corrupt`, () =>
      Effect.gen(function*() {
        const connect = yield* open
        const one = yield* connect("one")
        const two = yield* connect("two", new Set(["one"]))
        const log: Array<string> = []
        const program = Effect.andThen(step("a", log), step("b", log)).pipe(Checkpoint.run({ id: "r" }))
        if (what === "removed") yield* program.pipe(within(one))
        const followed = what === "removed" ? Checkpoint.clear("r") : program
        const store = Context.get(one, CheckpointStore.CheckpointStore)
        let isAwake = false
        const sleepy = CheckpointStore.CheckpointStore.of({
          ...store,
          get: (runId) =>
            Effect.suspend(() => {
              if (isAwake) return store.get(runId)
              isAwake = true
              return Effect.andThen(Effect.orDie(within(two)(followed)), store.get(runId))
            })
        })
        const error = yield* program.pipe(
          Effect.provideService(CheckpointStore.CheckpointStore, sleepy),
          Effect.flip
        )
        assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Fenced", String(error))
        assert.deepStrictEqual(log, ["a", "b"])
      }))
  }

  it.effect("an owner that slept while it wrote an intent, and was followed, does not do what it had intended", () =>
    Effect.gen(function*() {
      const connect = yield* open
      const one = yield* connect("one")
      const two = yield* connect("two", new Set(["one"]))
      const log: Array<string> = []
      const asleep = yield* Deferred.make<void>()
      const awake = yield* Deferred.make<void>()
      let isAsleep = false
      const sleep = Effect.suspend(() => {
        isAsleep = true
        return Effect.andThen(Deferred.succeed(asleep, undefined), Deferred.await(awake))
      })
      const store = Context.get(one, CheckpointStore.CheckpointStore)
      const sleepy = CheckpointStore.CheckpointStore.of({
        ...store,
        append: (lease, entries, status) =>
          Effect.andThen(
            store.append(lease, entries, status),
            entries.some(({ body }) => body.includes("\"StepIntended\"")) ? sleep : Effect.void
          ),
        renew: (...args) => Effect.suspend(() => isAsleep ? Effect.never : store.renew(...args))
      })
      const program = Checkpoint.step(
        "pay",
        {
          effects: "atMostOnce",
          reconcile: Effect.sync(() => log.length === 0 ? Checkpoint.notHappened : Checkpoint.happened(undefined))
        },
        Effect.sync(() => void log.push("pay"))
      ).pipe(Checkpoint.run({ id: "r" }))
      const first = yield* program.pipe(
        Effect.provideService(CheckpointStore.CheckpointStore, sleepy),
        Effect.flip,
        Effect.forkChild
      )
      yield* Deferred.await(asleep)
      yield* TestClock.adjust("15 seconds")
      yield* program.pipe(within(two))
      assert.deepStrictEqual(log, ["pay"])
      isAsleep = false
      yield* Deferred.succeed(awake, undefined)
      const error = yield* Fiber.join(first)
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Fenced")
      assert.deepStrictEqual(log, ["pay"])
    }))

  it.effect("an owner that was followed hears of it at the next renewal, whatever it is doing", () =>
    Effect.gen(function*() {
      const connect = yield* open
      const one = yield* connect("one")
      const two = yield* connect("two", new Set(["one"]))
      const reached = yield* Deferred.make<void>()
      const stopped = yield* Deferred.make<void>()
      const hanging = Effect.andThen(Deferred.succeed(reached, undefined), Effect.never).pipe(
        Effect.onInterrupt(() => Deferred.succeed(stopped, undefined))
      )
      const first = yield* step("pay", [], hanging).pipe(
        Checkpoint.run({ id: "r" }),
        within(one),
        Effect.exit,
        Effect.forkChild
      )
      yield* Deferred.await(reached)
      const second = yield* step("pay", []).pipe(Checkpoint.run({ id: "r" }), within(two), Effect.flip)
      assert.strictEqual(second._tag, "AmbiguousStep")
      yield* TestClock.adjust("10 seconds")
      yield* Deferred.await(stopped)
      const exit = yield* Fiber.join(first)
      const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.isTrue(error instanceof CheckpointStore.CheckpointStoreError && error.reason._tag === "Fenced")
    }))

  it.effect("a run whose owner fell silent is free when its lease is over, and not before", () =>
    Effect.gen(function*() {
      const connect = yield* open
      const one = yield* connect("one")
      const two = yield* connect("two")
      const store = yield* CheckpointStore.CheckpointStore.pipe(within(one))
      yield* store.acquire("r", Duration.seconds(30))
      const program = Checkpoint.run(Effect.succeed("mine"), { id: "r" }).pipe(within(two))
      yield* TestClock.adjust("29 seconds")
      const locked = yield* Effect.flip(program)
      assert.isTrue(locked._tag === "RunLeased" && Duration.toMillis(locked.remaining) === 1000)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* program, "mine")
    }))
}

describeWithPostgres("Checkpoint over one PostgreSQL database", () => {
  shared(Effect.map(suiteSchema(), (options) => connecting(PgClient.layer(options))))
})

describe("Checkpoint over one SQLite file", () => {
  shared(Effect.map(sqliteFile, (filename) => connecting(NodeSqlite.layer({ filename }))))

  it.effect("a store that is away for a while costs nothing as long as nothing is to be written", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      let renewals = 0
      const away = CheckpointStore.CheckpointStore.of({
        ...store,
        renew: () =>
          Effect.suspend(() => {
            renewals++
            return new CheckpointStore.CheckpointStoreError({ operation: "renew", reason: { _tag: "Unavailable" } })
          })
      })
      const fiber = yield* Checkpoint.step("a", {}, Effect.sleep("5 minutes")).pipe(
        Checkpoint.run({ id: "r" }),
        Effect.provideService(CheckpointStore.CheckpointStore, away),
        Effect.forkChild
      )
      yield* TestClock.adjust("5 minutes")
      yield* Fiber.join(fiber)
      assert.isAtLeast(renewals, 25)
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("a run inside a transaction of its own database is refused before anything happens", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const context = yield* Layer.build(Sqlite.layer({ filename }))
      const log: Array<string> = []
      const error = yield* SqlClient.SqlClient.use((sql) =>
        sql.withTransaction(step("a", log).pipe(Checkpoint.run({ id: "r" })))
      ).pipe(Effect.provideContext(context), Effect.flip)
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "InTransaction")
      assert.deepStrictEqual(log, [])
    }))

  it.live("a run whose process was killed is taken over at once, and what it left open is ambiguous", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const child = yield* Process.start(path.join(import.meta.dirname, "fixtures/killedRun.ts"), [filename])
      assert.deepStrictEqual([yield* Queue.take(child.lines), yield* Queue.take(child.lines)], ["plan", "pay"])

      const program = Effect.gen(function*() {
        const plan = yield* Checkpoint.step("plan", { success: Schema.String }, Effect.succeed("another plan"))
        assert.strictEqual(plan, "the plan")
        yield* Checkpoint.step("pay", { effects: "atMostOnce" }, Effect.die("paid twice"))
      }).pipe(Checkpoint.run({ id: "r" }), Effect.flip, Effect.provide(Sqlite.layer({ filename })))

      assert.strictEqual((yield* program)._tag, "RunLeased")
      yield* child.signal("SIGKILL")
      assert.strictEqual((yield* child.ended).signal, "SIGKILL")
      const error = yield* program
      assert.isTrue(error._tag === "AmbiguousStep" && error.reason === "Unfinished")
    }))
})
