import { describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { EscalationQueue, type Idempotency } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlEscalationQueue from "effect-resilience/durable/stores/SqlEscalationQueue"
import * as SqlIdempotency from "effect-resilience/durable/stores/SqlIdempotency"
import { sqliteFile } from "../sqliteFile.ts"

class Store extends Context.Service<Store, Idempotency.Store>()("test/Store") {}

/** Three connections to one file, which wait for no lock: meeting one is a failure. Any turn may end in a write. */
const threeConnections = <A, E, R, ER>(
  layer: Layer.Layer<R, ER, never>,
  write: (worker: string, n: number) => Effect.Effect<A, E, R>
) => {
  const worker = (name: string) =>
    Effect.gen(function*() {
      for (let n = 0; n < 30; n++) {
        yield* Effect.repeat(Effect.void, { times: 1900 + n * 7 })
        yield* write(name, n)
      }
    }).pipe(Effect.provide(layer, { local: true }))
  return Effect.all([worker("a"), worker("b"), worker("c")], { concurrency: "unbounded" })
}

describe("a transaction is not left open while another connection of this process has its turn", () => {
  it.effect("SqlEscalationQueue", () =>
    Effect.flatMap(sqliteFile, (filename) =>
      threeConnections(
        SqlEscalationQueue.layer.pipe(Layer.provide(NodeSqlite.layer({ filename, busyTimeout: 0 }))),
        (worker, n) => EscalationQueue.submit({ reason: "RequiresHuman", task: `${worker}${n}` })
      )))

  it.effect("SqlIdempotency", () =>
    Effect.flatMap(sqliteFile, (filename) => {
      const store = Layer.effect(Store, SqlIdempotency.makeStore)
      return threeConnections(
        store.pipe(Layer.provide(NodeSqlite.layer({ filename, busyTimeout: 0 }))),
        (worker, n) =>
          Store.use(({ put }) => put(worker, String(n), { outcome: "{}", recordedAt: n, expiresAt: n + 1_000 }))
      )
    }))
})
