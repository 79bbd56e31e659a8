/** The stores that are worked to death, a line each. What a store needs is loaded with the store. */
import type { PgClient } from "@effect/sql-pg/PgClient"
import { CheckpointStore } from "effect-resilience/durable/CheckpointStore"
import * as EscalationQueue from "effect-resilience/durable/EscalationQueue"
import * as Idempotency from "effect-resilience/durable/Idempotency"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { Transformer } from "effect/sql/Statement"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { redisUrl } from "../support/servers.ts"
import * as Points from "./Points.ts"
import { connection, missing, type Service } from "./services.ts"

export type Everything = CheckpointStore | EscalationQueue.EscalationQueue | Idempotency.Idempotency

export interface Store {
  /** A place of its own for a run, which goes with the scope. */
  readonly place: Effect.Effect<string, unknown, Scope.Scope>
  readonly layer: (place: string, points: Points.Points) => Promise<Layer.Layer<CheckpointStore, unknown>>
  /** The same with questions to people and results of calls, for programs that have them. */
  readonly everything: (place: string, points: Points.Points) => Promise<Layer.Layer<Everything, unknown>>
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

/** Sees every statement that is sent, and puts a boundary before it. */
const watcher = async (points: Points.Points) => {
  const { CurrentTransformer } = await import("effect/sql/Statement")
  const watch: Transformer = (statement) => {
    const [text] = statement.compile()
    return Effect.as(points.within(text.trim().replace(/\s+/g, " ").slice(0, 50), Effect.void), statement)
  }
  return { watched: Effect.provideService(CurrentTransformer, watch), layer: Layer.succeed(CurrentTransformer, watch) }
}

/** Puts a boundary before every statement that the store sends. */
const statements = async <E>(points: Points.Points, store: Layer.Layer<CheckpointStore, E>) => {
  const { layer, watched } = await watcher(points)
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
  ).pipe(Layer.provide(store), Layer.provide(layer))
}

/** Questions and results, with a boundary before and after everything that writes. */
const beside = <E1, R1, E2, R2>(
  points: Points.Points,
  questions: Effect.Effect<EscalationQueue.Store, E1, R1>,
  results: Effect.Effect<Idempotency.Store, E2, R2>
) =>
  Layer.merge(
    Layer.effect(
      EscalationQueue.EscalationQueue,
      Effect.flatMap(
        questions,
        (store) => EscalationQueue.make({ store: Points.aroundQuestions(points, store) })
      )
    ),
    Layer.effect(
      Idempotency.Idempotency,
      Effect.flatMap(results, (store) => Idempotency.make({ store: Points.aroundResults(points, store) }))
    )
  )

/** The questions and results of a database, with a boundary before every statement as well. */
const inSql = async (points: Points.Points) => {
  const { makeStore: questions } = await import("effect-resilience/durable/stores/SqlEscalationQueue")
  const { makeStore: results } = await import("effect-resilience/durable/stores/SqlIdempotency")
  const { watched } = await watcher(points)
  return beside(
    points,
    Effect.map(questions, (store): EscalationQueue.Store => ({
      ...store,
      insert: (record) => watched(store.insert(record)),
      replace: (record) => watched(store.replace(record))
    })),
    Effect.map(results, (store): Idempotency.Store => ({
      ...store,
      put: (...args) => watched(store.put(...args))
    }))
  )
}

export const stores: Readonly<Record<string, Store>> = {
  sqlite: {
    place: folder,
    layer: async (place, points) => {
      const { layer } = await import("effect-resilience/durable/stores/Sqlite")
      return statements(points, layer({ filename: path.join(place, "runs.db") }))
    },
    everything: async (place, points) => {
      const { layer } = await import("effect-resilience/durable/stores/Sqlite")
      const filename = path.join(place, "runs.db")
      const sqlite = layer({ filename })
      return Layer.mergeAll(await statements(points, sqlite), Layer.provide(await inSql(points), sqlite))
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
    // People need a place where their questions are found. Files have none, so it is a database beside them.
    everything: async (directory, points) => {
      const [runs, NodeSqlite, SqlEscalationQueue, FileIdempotency, NodeFileSystem, NodePath] = await Promise.all([
        stores["file"]?.layer(path.join(directory, "runs"), points) ?? Promise.reject(new Error("no files")),
        import("effect-resilience/durable/stores/NodeSqlite"),
        import("effect-resilience/durable/stores/SqlEscalationQueue"),
        import("effect-resilience/durable/stores/FileIdempotency"),
        import("@effect/platform-node/NodeFileSystem"),
        import("@effect/platform-node/NodePath")
      ])
      const results = FileIdempotency.makeStore({ directory: path.join(directory, "results") })
      return Layer.merge(runs, beside(points, SqlEscalationQueue.makeStore, results)).pipe(
        Layer.provide([
          NodeSqlite.layer({ filename: path.join(directory, "questions.db") }),
          NodeFileSystem.layer,
          NodePath.layer
        ])
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
    everything: async (place, points) => {
      const { layer } = await import("effect-resilience/durable/stores/Postgres")
      const postgres = layer({ ...connection, startupParameters: { search_path: place } })
      return Layer.merge(await statements(points, postgres), Layer.provide(await inSql(points), postgres))
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
    everything: async (prefix, points) => {
      const [{ layer }, questions, results, NodeRedis] = await Promise.all([
        import("effect-resilience/durable/stores/RedisCheckpointStore"),
        import("effect-resilience/durable/stores/RedisEscalationQueue"),
        import("effect-resilience/durable/stores/RedisIdempotency"),
        import("@effect/platform-node/NodeRedis")
      ])
      return Layer.merge(
        layer({ prefix }),
        beside(
          points,
          questions.makeStore({ prefix: `${prefix}questions:` }),
          results.makeStore({ prefix: `${prefix}results:` })
        )
      ).pipe(Layer.provide(NodeRedis.layer({ url: redisUrl })))
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
