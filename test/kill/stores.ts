/** The stores that are worked to death, a line each. What a store needs is loaded with the store. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type { Transformer } from "effect/sql/Statement"
import { CheckpointStore } from "effect-resilience/durable/CheckpointStore"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import type { Points } from "./Points.ts"
import { databaseUrl } from "./services.ts"

export interface Store {
  /** A place of its own for a run, which goes with the scope. */
  readonly place: Effect.Effect<string, unknown, Scope.Scope>
  readonly layer: (place: string, points: Points) => Promise<Layer.Layer<CheckpointStore, unknown>>
  /** Whether it knows at once that an owner on this machine was killed. Otherwise the lease has to run out. */
  readonly knowsTheDead: boolean
  readonly service?: "PostgreSQL" | "Redis"
}

export const folder: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "effect-resilience-kill-"))),
  (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
)

/** A schema of its own in PostgreSQL. */
export const schema: Effect.Effect<string, unknown, Scope.Scope> = Effect.gen(function*() {
  const PgClient = yield* Effect.promise(() => import("@effect/sql-pg/PgClient"))
  const Reactivity = yield* Effect.promise(() => import("effect/reactivity/Reactivity"))
  const sql = yield* PgClient.make({ url: Redacted.make(databaseUrl), maxConnections: 1 }).pipe(
    Effect.provide(Reactivity.layer)
  )
  const name = `kill_${randomUUID().replaceAll("-", "")}`
  return yield* Effect.acquireRelease(
    Effect.as(sql`CREATE SCHEMA ${sql(name)}`, name),
    () => Effect.orDie(sql`DROP SCHEMA ${sql(name)} CASCADE`)
  )
})

/** Puts a boundary before every statement that the store sends. */
const statements = async <E>(points: Points, store: Layer.Layer<CheckpointStore, E>) => {
  const { CurrentTransformer } = await import("effect/sql/Statement")
  const watch: Transformer = (statement) => {
    const [text] = statement.compile()
    return Effect.as(points.pass("inside", text.replace(/\s+/g, " ").slice(0, 60)), statement)
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
      const Sqlite = await import("effect-resilience/durable/stores/Sqlite")
      return statements(points, Sqlite.layer({ filename: path.join(place, "runs.db") }))
    },
    knowsTheDead: true
  },
  postgres: {
    place: schema,
    layer: async (place, points) => {
      const PgClient = await import("@effect/sql-pg/PgClient")
      const SqlCheckpointStore = await import("effect-resilience/durable/stores/SqlCheckpointStore")
      return statements(
        points,
        SqlCheckpointStore.layer.pipe(Layer.provide(PgClient.layer({
          url: Redacted.make(databaseUrl),
          startupParameters: { search_path: place },
          maxConnections: 2
        })))
      )
    },
    knowsTheDead: false,
    service: "PostgreSQL"
  }
}
