/** The stores that are worked to death, a line each. What a store needs is loaded with the store. */
import type { PgClient } from "@effect/sql-pg/PgClient"
import type * as PgTypes from "@effect/sql-pg/PgTypes"
import { CheckpointStore } from "effect-resilience/durable/CheckpointStore"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { Transformer } from "effect/sql/Statement"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import type { Points } from "./Points.ts"
import { databaseUrl, missing, type Service } from "./services.ts"

export interface Store {
  /** A place of its own for a run, which goes with the scope. */
  readonly place: Effect.Effect<string, unknown, Scope.Scope>
  readonly layer: (place: string, points: Points) => Promise<Layer.Layer<CheckpointStore, unknown>>
  /** Whether it knows at once that an owner on this machine was killed. Otherwise the lease has to run out. */
  readonly knowsTheDead: boolean
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
    Effect.flatMap(PgClient.make({ url: Redacted.make(databaseUrl), maxConnections: 1 }), use).pipe(
      Effect.scoped,
      Effect.provide(Reactivity.layer)
    )
  return yield* Effect.acquireRelease(
    Effect.as(using((sql) => sql`CREATE SCHEMA ${sql(name)}`), name),
    () => Effect.orDie(using((sql) => sql`DROP SCHEMA ${sql(name)} CASCADE`))
  )
})

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

const numbers = ({ makeRegistry, OID }: typeof PgTypes) => {
  const registry = makeRegistry()
  registry.register<number>(OID.int8, {
    encode: (value) => {
      const bytes = Buffer.alloc(8)
      bytes.writeBigInt64BE(BigInt(value))
      return Result.succeed(bytes)
    },
    decode: (bytes) => Result.succeed(Number(Buffer.from(bytes).readBigInt64BE()))
  })
  return registry
}

export const stores: Readonly<Record<string, Store>> = {
  sqlite: {
    place: folder,
    layer: async (place, points) => {
      const Sqlite = await import("effect-resilience/durable/stores/Sqlite")
      return statements(points, Sqlite.layer({ filename: path.join(place, "runs.db") }))
    },
    knowsTheDead: true
  },
  postgres: {
    place: schema,
    layer: async (place, points) => {
      const PgClient = await import("@effect/sql-pg/PgClient")
      const PgTypes = await import("@effect/sql-pg/PgTypes")
      const SqlCheckpointStore = await import("effect-resilience/durable/stores/SqlCheckpointStore")
      return statements(
        points,
        SqlCheckpointStore.layer.pipe(Layer.provide(PgClient.layer({
          url: Redacted.make(databaseUrl),
          startupParameters: { search_path: place },
          types: numbers(PgTypes),
          maxConnections: 2
        })))
      )
    },
    knowsTheDead: false,
    service: "PostgreSQL"
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
  return { able, schema: absent.PostgreSQL === undefined ? yield* schema : undefined }
})
