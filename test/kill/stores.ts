/** The stores that are worked to death, a line each. What a store needs is loaded with the store. */
import type { PgClient } from "@effect/sql-pg/PgClient"
import { CheckpointStore } from "effect-resilience/durable/CheckpointStore"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { Transformer } from "effect/sql/Statement"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { redisUrl } from "../support/servers.ts"
import type { Points } from "./Points.ts"
import { connection, missing, type Service } from "./services.ts"

export interface Store {
  /** A place of its own for a run, which goes with the scope. */
  readonly place: Effect.Effect<string, unknown, Scope.Scope>
  readonly layer: (place: string, points: Points) => Promise<Layer.Layer<CheckpointStore, unknown>>
  /** Whether it knows at once that an owner on this machine was killed. Otherwise the lease has to run out. */
  readonly knowsTheDead: boolean
  /** Whether a process that is paused in the middle of a write holds up all others for as long. */
  readonly locks: boolean
  readonly service?: Service
}

export const folder: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "effect-resilience-kill-"))),
  (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
)

/** A schema of its own in PostgreSQL. */
export const schema: Effect.Effect<string, unknown, Scope.Scope> = Effect.gen(function*() {
  const PgClient = yield* Effect.promise(() => import("@effect/sql-pg/PgClient"))
  const Reactivity = yield* Effect.promise(() => import("effect/reactivity/Reactivity"))
  const name = `kill_${randomUUID().replaceAll("-", "")}`
  // A connection each: a pool that has let an idle one go cannot open another one while its scope closes.
  const using = <A, E>(use: (sql: PgClient) => Effect.Effect<A, E>) =>
    Effect.flatMap(PgClient.make(connection), use).pipe(
      Effect.scoped,
      Effect.provide(Reactivity.layer)
    )
  return yield* Effect.acquireRelease(
    Effect.as(using((sql) => sql`CREATE SCHEMA ${sql(name)}`), name),
    () => Effect.orDie(using((sql) => sql`DROP SCHEMA ${sql(name)} CASCADE`))
  )
})

/** A prefix of its own in Redis. */
const redisPrefix: Effect.Effect<string, unknown, Scope.Scope> = Effect.suspend(() =>
  Effect.flatMap(Effect.promise(() => import("../support/redis.ts")), ({ redisPrefix }) => redisPrefix)
)

/** Puts a boundary before every statement that the store sends. */
const statements = async <E>(points: Points, store: Layer.Layer<CheckpointStore, E>) => {
  const { CurrentTransformer } = await import("effect/sql/Statement")
  const watch: Transformer = (statement) => {
    const [text] = statement.compile()
    return Effect.as(points.within(text.trim().replace(/\s+/g, " ").slice(0, 50), Effect.void), statement)
  }
  const watched = Effect.provideService(CurrentTransformer, watch)
  return Layer.effect(
    CheckpointStore,
    Effect.map(CheckpointStore, (store): CheckpointStore["Service"] => ({
      acquire: (...args) => watched(store.acquire(...args)),
      renew: (...args) => watched(store.renew(...args)),
      release: (...args) => watched(store.release(...args)),
      append: (...args) => watched(store.append(...args)),
      read: (...args) => watched(store.read(...args)),
      get: (...args) => watched(store.get(...args)),
      list: (...args) => watched(store.list(...args)),
      remove: (...args) => watched(store.remove(...args))
    }))
  ).pipe(Layer.provide(store), Layer.provide(Layer.succeed(CurrentTransformer, watch)))
}

export const stores: Readonly<Record<string, Store>> = {
  sqlite: {
    place: folder,
    layer: async (place, points) => {
      const { layer } = await import("effect-resilience/durable/stores/Sqlite")
      return statements(points, layer({ filename: path.join(place, "runs.db") }))
    },
    knowsTheDead: true,
    // A transaction of SQLite is on the whole file, and ends with its process.
    locks: true
  },
  file: {
    place: folder,
    layer: async (directory, points) => {
      const { layer } = await import("effect-resilience/durable/stores/FileCheckpointStore")
      const NodeFileSystem = await import("@effect/platform-node/NodeFileSystem")
      const NodePath = await import("@effect/platform-node/NodePath")
      const halfWrites = await import("./halfWrites.ts")
      return layer({ directory }).pipe(
        Layer.provide([halfWrites.layer(points).pipe(Layer.provide(NodeFileSystem.layer)), NodePath.layer])
      )
    },
    knowsTheDead: false,
    locks: false
  },
  postgres: {
    place: schema,
    layer: async (place, points) => {
      const { layer } = await import("effect-resilience/durable/stores/Postgres")
      return statements(points, layer({ ...connection, startupParameters: { search_path: place } }))
    },
    knowsTheDead: true,
    locks: false,
    service: "PostgreSQL"
  },
  redis: {
    place: redisPrefix,
    layer: async (prefix) => {
      const { layer } = await import("effect-resilience/durable/stores/RedisCheckpointStore")
      const NodeRedis = await import("@effect/platform-node/NodeRedis")
      return layer({ prefix }).pipe(Layer.provide(NodeRedis.layer({ url: redisUrl })))
    },
    knowsTheDead: false,
    locks: false,
    service: "Redis"
  }
}

/** Which of these stores can be worked here, and a schema for what is done outside, if there is PostgreSQL. */
export const available = Effect.fnUntraced(function*(names: ReadonlyArray<string>) {
  const absent = yield* missing
  const able = names.filter((name) => {
    const service = stores[name]?.service
    const why = service === undefined ? undefined : absent[service]
    if (why !== undefined) process.stderr.write(`SKIPPED, NOT TESTED: kills over ${name}. ${why}\n`)
    return why === undefined
  })
  if (absent.PostgreSQL !== undefined) return { able, schema: undefined }
  const outside = yield* schema
  const { create } = yield* Effect.promise(() => import("./PostgresLog.ts"))
  yield* create(outside)
  return { able, schema: outside }
})
