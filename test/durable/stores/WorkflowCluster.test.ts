import { assert, it, layer } from "@effect/vitest"
import {
  Clock,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Queue,
  Result,
  Schedule,
  type Scope
} from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import * as WorkflowCheckpoint from "effect-resilience/durable/stores/WorkflowCheckpoint"
import { StoreContract } from "effect-resilience/testing"
import { SqlClient } from "effect/sql"
import { spawn } from "node:child_process"
import { createServer } from "node:net"
import * as path from "node:path"
import { describeWithPostgres } from "../../support/postgres.ts"
import { connectPostgres, inSchema, makeSchema } from "../../support/postgresServer.ts"
import { memberIn, runner, runnerIn } from "../../support/workflowCluster.ts"
import { byHand, implemented, report, result } from "../fixtures/report.ts"

type Store = CheckpointStore.CheckpointStore["Service"]

/** A part of a store that looks empty, so that each case needs no engine of its own. */
const partOf = (store: Store, prefix: string): Store => {
  const inner = (lease: CheckpointStore.Lease): CheckpointStore.Lease => ({ ...lease, runId: prefix + lease.runId })
  const outer = <A extends { readonly runId: string }>(run: A): A => ({ ...run, runId: run.runId.slice(prefix.length) })
  return CheckpointStore.CheckpointStore.of({
    acquire: (runId, ttl, options) => Effect.map(store.acquire(prefix + runId, ttl, options), outer),
    renew: (lease, ttl, options) => store.renew(inner(lease), ttl, options),
    release: (lease) => store.release(inner(lease)),
    append: (lease, entries, status) => store.append(inner(lease), entries, status),
    read: (runId) => store.read(prefix + runId),
    get: (runId) => Effect.map(store.get(prefix + runId), Option.map(outer)),
    list: ({ limit, ...options } = {}) =>
      Effect.map(
        store.list(options),
        (runs) => runs.filter(({ runId }) => runId.startsWith(prefix)).map(outer).slice(0, limit)
      ),
    remove: (lease) => store.remove(inner(lease))
  })
}

/** A clock that goes as it does, and can be put forward. The engine has the real one. */
const movable = Effect.map(Effect.service(Clock.Clock), (clock) => {
  let ahead = 0
  const currentTimeMillisUnsafe = () => clock.currentTimeMillisUnsafe() + ahead
  const currentTimeNanosUnsafe = () => clock.currentTimeNanosUnsafe() + BigInt(ahead) * 1_000_000n
  const moved: Clock.Clock = {
    currentTimeMillisUnsafe,
    currentTimeMillis: Effect.sync(currentTimeMillisUnsafe),
    currentTimeNanosUnsafe,
    currentTimeNanos: Effect.sync(currentTimeNanosUnsafe),
    monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
    monotonicTimeNanos: clock.monotonicTimeNanos,
    sleep: (duration) => clock.sleep(duration)
  }
  return { moved, elapse: (millis: number) => Effect.sync(() => void (ahead += millis)) }
})

/** Waits until both of two members hold shards: before, one of them would get all that is asked for. */
const untilShared = (schema: string) =>
  Effect.scoped(Effect.gen(function*() {
    const sql = yield* connectPostgres(inSchema(schema))
    const holders = sql<{ holders: number }>`SELECT count(DISTINCT address)::int AS holders FROM cluster_locks`
    yield* Effect.repeat(holders, { until: ([row]) => row?.holders === 2, schedule: Schedule.spaced("100 millis") })
  }))

/** A process of the cluster, and what it says. It is killed with the scope. */
const member = (...args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const said = yield* Queue.unbounded<string>()
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(
          process.execPath,
          [
            "--conditions=effect-resilience-source",
            path.join(import.meta.dirname, "../fixtures/clusterMember.ts"),
            ...args
          ],
          { stdio: ["ignore", "pipe", "inherit"] }
        )
      ),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    let text = ""
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk
      const lines = text.split("\n")
      text = lines.pop() ?? ""
      for (const line of lines) Queue.offerUnsafe(said, line)
    })
    const dead = yield* Deferred.make<void>()
    child.on("exit", () => Deferred.doneUnsafe(dead, Exit.void))
    return {
      said,
      next: Effect.timeout(Queue.take(said), "60 seconds"),
      kill: Effect.andThen(Effect.sync(() => child.kill("SIGKILL")), Deferred.await(dead))
    }
  })

const freePort: Effect.Effect<number> = Effect.callback((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    const port = address === null || typeof address === "string" ? 0 : address.port
    server.close(() => resume(Effect.succeed(port)))
  })
})

const makeLog = () => {
  const log: Array<string> = []
  return { log, say: (what: string) => Effect.sync(() => void log.push(what)) }
}

describeWithPostgres("layerWorkflow on a cluster's engine on PostgreSQL", () => {
  layer(WorkflowCheckpoint.layerWorkflow.pipe(Layer.provideMerge(runner)), {
    excludeTestServices: true,
    timeout: "60 seconds"
  })((it) => {
    const elapsing = { elapse: () => Effect.void }
    for (const [index, { name }] of StoreContract.checkpointStore(elapsing).entries()) {
      it.effect(`CheckpointStore contract: ${name}`, () =>
        Effect.gen(function*() {
          const { elapse, moved } = yield* movable
          const cases = StoreContract.checkpointStore({ elapse: (duration) => elapse(Duration.toMillis(duration)) })
          const store = partOf(yield* CheckpointStore.CheckpointStore, `case ${index}: `)
          yield* (cases[index]?.effect ?? Effect.die("no case")).pipe(
            Effect.provideService(CheckpointStore.CheckpointStore, store),
            Effect.provideService(Clock.Clock, moved)
          )
        }), 120_000)
    }

    it.effect("has one activity per step in its tables, named after the step", () =>
      Effect.gen(function*() {
        const { say } = makeLog()
        yield* byHand(say, Effect.void)
        const sql = yield* SqlClient.SqlClient
        const rows = yield* sql<{ name: string; run: string }>`
          SELECT a.payload::json->>'name' AS name, r.payload::json->>'run' AS run
          FROM cluster_messages a JOIN cluster_messages r ON r.entity_id = a.entity_id AND r.tag = 'run'
          WHERE a.tag = 'activity' AND a.entity_id LIKE 'r-run-%' ORDER BY a.rowid`
        assert.deepStrictEqual(rows.map(({ name, run }) => [run, name]), [
          ["r", "~run"],
          ["r", "plan"],
          ["r", "pay"],
          ["r", "pay~2"],
          ["r", "draft"],
          ["r", "send"],
          ["r", "send~2"],
          ["r", "~run~2"]
        ])
      }))

    it.effect("keeps a record although the transaction around its step is rolled back", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const { log, say } = makeLog()
        yield* sql.withTransaction(
          Effect.andThen(
            Checkpoint.step("pay", { effects: "atMostOnce" }, say("pay")).pipe(Checkpoint.run({ id: "transaction" })),
            Effect.fail("rolled back")
          )
        ).pipe(Effect.flip)
        assert.deepStrictEqual(yield* Checkpoint.status("transaction"), Option.some("completed"))
        assert.deepStrictEqual(log, ["pay"])
      }))
  })

  const test = (name: string, body: (schema: string) => Effect.Effect<void, unknown, Scope.Scope>) =>
    it.live(name, () => Effect.flatMap(makeSchema, body), 240_000)

  test("a run whose process is killed in the middle of a step is finished by another one, and repeats no other step", (schema) =>
    Effect.gen(function*() {
      const first = yield* member(schema, "run by hand")
      assert.deepStrictEqual([yield* first.next, yield* first.next, yield* first.next], ["plan", "pay", "draft"])
      yield* first.kill
      const { log, say } = makeLog()
      const value = yield* byHand(say, Effect.void).pipe(
        // The shards of the first one are free some seconds after its death.
        Effect.retry({ while: (error) => error._tag === "RunLeased", schedule: Schedule.spaced("500 millis") }),
        Effect.provide(WorkflowCheckpoint.layerWorkflow.pipe(Layer.provide(runnerIn(schema))))
      )
      assert.strictEqual(value, result)
      assert.deepStrictEqual(log, ["draft", "send"])
    }))

  test("a program whose process is killed in the middle of a step is gone on with by the engine, unasked", (schema) =>
    Effect.gen(function*() {
      const first = yield* member(schema, "run a program")
      assert.deepStrictEqual([yield* first.next, yield* first.next, yield* first.next], ["r plan", "r pay", "r draft"])
      yield* first.kill
      const said = yield* Queue.unbounded<string>()
      const programs = [implemented((what) => Effect.asVoid(Queue.offer(said, what)), Effect.void)]
      yield* Effect.gen(function*() {
        assert.deepStrictEqual([yield* Queue.take(said), yield* Queue.take(said)], ["r draft", "r send"])
        assert.strictEqual(yield* WorkflowCheckpoint.run(report, { id: "r", input: "r" }), result)
        assert.strictEqual((yield* Checkpoint.inspect("r")).status, "completed")
      }).pipe(
        Effect.provide(
          WorkflowCheckpoint.layerWorkflowWith({ programs }).pipe(Layer.provide(runnerIn(schema)))
        )
      )
    }))

  test("programs are spread over the runners, and those of a killed runner go on on another one", (schema) =>
    Effect.gen(function*() {
      const one = yield* member(schema, "work", String(yield* freePort))
      const two = yield* member(schema, "work", String(yield* freePort))
      assert.deepStrictEqual([yield* one.next, yield* two.next], ["ready", "ready"])
      yield* untilShared(schema)
      const ids = Array.from({ length: 16 }, (_, n) => `report ${n}`)
      const store = WorkflowCheckpoint.layerWorkflow.pipe(Layer.provide(memberIn(schema, undefined)))
      yield* Effect.gen(function*() {
        const running = yield* Effect.forkChild(
          Effect.forEach(
            ids,
            (id) => Effect.result(WorkflowCheckpoint.run(report, { id, input: id })),
            { concurrency: "unbounded" }
          )
        )
        const saidByOne: Array<string> = []
        while (!saidByOne.some((line) => line.endsWith("draft"))) saidByOne.push(yield* one.next)
        yield* one.kill
        saidByOne.push(...yield* Queue.clear(one.said))
        const results = yield* Fiber.join(running)
        const begun = new Set(saidByOne.map((line) => line.replace(/ \w+$/, "")))
        const saidByTwo: Array<string> = []
        // A run may be over before the last line of who ended it has come.
        const isHeard = (id: string, index: number) => {
          const outcome = results[index]
          return outcome === undefined || Result.isFailure(outcome) ||
            [...saidByOne, ...saidByTwo].includes(`${id} send`)
        }
        while (!ids.every(isHeard)) saidByTwo.push(yield* two.next)
        saidByTwo.push(...yield* Queue.clear(two.said))

        assert.isTrue(begun.size > 0 && begun.size < ids.length, `one began ${begun.size}`)
        const ended = ids.filter((id) => saidByTwo.includes(`${id} send`))
        assert.isTrue(ended.some((id) => begun.has(id)), "two ended what one had begun")
        for (const [index, id] of ids.entries()) {
          const count = (what: string) => [...saidByOne, ...saidByTwo].filter((line) => line === `${id} ${what}`).length
          assert.isAtMost(count("pay"), 1)
          assert.isAtMost(count("send"), 1)
          const outcome = results[index]
          if (outcome !== undefined && Result.isSuccess(outcome)) assert.strictEqual(outcome.success, result)
          // Killed between what it intended to do and the record of it.
          else assert.strictEqual(outcome?.failure._tag, "AmbiguousStep", String(outcome?.failure))
        }

        // A client has no execution of its own, and does without.
        const { log, say } = makeLog()
        assert.strictEqual(yield* byHand(say, Effect.void), result)
        assert.strictEqual(yield* byHand(say, Effect.void), result)
        assert.deepStrictEqual(log, ["plan", "pay", "draft", "send"])
        assert.strictEqual((yield* Checkpoint.list()).length, ids.length + 1)
      }).pipe(Effect.provide(store))
    }))
})
