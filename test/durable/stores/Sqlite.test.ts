import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Layer, Option } from "effect"
import { CheckpointStore } from "effect-resilience"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import { SqlClient } from "effect/sql"
import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import * as path from "node:path"
import { runs } from "../../support/runs.ts"
import { suite } from "../contracts/CheckpointStoreContract.ts"
import { sqliteFile, withSqliteFile } from "../sqliteFile.ts"

suite("all services over one SQLite file", withSqliteFile((filename) => Sqlite.layer({ filename })))

/** Runs an effect over the file, with the run held by an owner whose name is made from this process's own. */
const heldBy = (rename: (name: ReadonlyArray<string>) => ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const filename = yield* sqliteFile
    const store = yield* CheckpointStore.CheckpointStore.pipe(
      Effect.provide(yield* Layer.build(Sqlite.layer({ filename })))
    )
    const lease = yield* store.acquire("r", Duration.minutes(1))
    yield* store.append(lease, [{ position: 0, step: "", body: "{}" }])
    const name = Option.getOrThrow(yield* store.get("r")).lease?.owner.split(":") ?? []
    const context = yield* Layer.build(Sqlite.layer({ filename }))
    return yield* Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql`UPDATE effect_resilience_runs SET lease_owner = ${rename(name).join(":")}`
      const other = yield* CheckpointStore.CheckpointStore
      return yield* other.acquire("r", Duration.minutes(1)).pipe(
        Effect.as("taken over"),
        Effect.catchTag("CheckpointStoreError", (error) => Effect.succeed(error.reason._tag))
      )
    }).pipe(Effect.provideContext(context))
  })

describe("Sqlite", () => {
  it.live("processes that open a new file at once all come up", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const start = Effect.acquireRelease(
        Effect.sync(() =>
          spawn(
            process.execPath,
            [
              "--conditions=effect-resilience-source",
              path.join(import.meta.dirname, "../fixtures/firstStart.ts"),
              filename
            ],
            { stdio: ["pipe", "pipe", "inherit"] }
          )
        ),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      const children = yield* Effect.all(Array.from({ length: runs(2, 5) }, () => start))
      yield* Effect.promise(() => Promise.all(children.map((child) => once(child.stdout, "data"))))
      const codes = Promise.all(children.map(async (child) => (await once(child, "exit"))[0]))
      for (const child of children) child.stdin.write("go\n")
      assert.deepStrictEqual(yield* Effect.promise(() => codes), children.map(() => 0))
    }))
})

const dead = String(spawnSync(process.execPath, ["--version"]).pid)

describe("Sqlite: who is gone", () => {
  it.effect("a process of this host that lives is not", () =>
    Effect.map(heldBy((name) => name), (result) => assert.strictEqual(result, "LeaseHeld")))

  it.effect("a process of this host that ended is", () =>
    Effect.map(
      heldBy(([host = "", boot = "", namespace = ""]) => [host, boot, namespace, dead, "1", "x"]),
      (result) => assert.strictEqual(result, "taken over")
    ))

  it.effect("a process of this host whose pid was given to another one is", () =>
    Effect.map(
      heldBy(([host = "", boot = "", namespace = "", pid = ""]) => [host, boot, namespace, pid, "1", "x"]),
      (result) => assert.strictEqual(result, "taken over")
    ))

  it.effect("a process of another boot, which may be one of another machine of this name, is never held to be", () =>
    Effect.gen(function*() {
      for (const boot of ["another-boot", ""]) {
        assert.strictEqual(yield* heldBy(([host = "", , ns = ""]) => [host, boot, ns, dead, "1", "x"]), "LeaseHeld")
      }
    }))

  it.effect("a process of another host or another container is never held to be", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* heldBy(([, boot = "", ns = ""]) => ["elsewhere", boot, ns, dead, "1", "x"]),
        "LeaseHeld"
      )
      assert.strictEqual(yield* heldBy(([host = "", boot = ""]) => [host, boot, "1", dead, "1", "x"]), "LeaseHeld")
      assert.strictEqual(yield* heldBy(() => ["somebody"]), "LeaseHeld")
    }))
})
