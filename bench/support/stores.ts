/**
 * Our own stores, each with the same program over it.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as PgTypes from "@effect/sql-pg/PgTypes"
import { Effect, Exit, Layer, Redacted, Result, Schema } from "effect"
import * as NodeSqlite from "../../src/durable/stores/NodeSqlite.ts"
import * as SqlCheckpointStore from "../../src/durable/stores/SqlCheckpointStore.ts"
import { Checkpoint, CheckpointStore } from "../../src/index.ts"
import { sqliteBytes, temporaryFile } from "./files.ts"
import type { Implementation, Subject, Task } from "./journal.ts"
import { databaseBytes, temporaryDatabase } from "./postgres.ts"

const program = Effect.fnUntraced(function*(task: Task, end: Effect.Effect<void>) {
  const messages: Array<string> = []
  for (let index = 0; index < task.steps; index++) {
    const write = Effect.sync(() => task.write(index))
    messages.push(yield* Checkpoint.step("message", { success: Schema.String }, write))
  }
  yield* end
  return messages
})

const subject = Effect.fnUntraced(function*<E>(
  layer: Layer.Layer<CheckpointStore.CheckpointStore, E>,
  bytes?: Effect.Effect<number, unknown>
) {
  const store = yield* Layer.build(Layer.fresh(layer))
  const run = (id: string, task: Task, end: Effect.Effect<void>) =>
    Effect.provideContext(Checkpoint.run(program(task, end), { id }), store)
  const made: Subject = {
    run: (id, task) => run(id, task, Effect.void),
    cut: (id, task) =>
      Effect.flatMap(
        Effect.exit(run(id, task, Effect.interrupt)),
        (exit) =>
          Exit.hasInterrupts(exit)
            ? Effect.succeed(run(id, task, Effect.void))
            : Effect.die(new Error(`run ${id} was not cut`))
      ),
    ...(bytes === undefined ? {} : { bytes })
  }
  return made
})

const memory: Implementation = {
  name: "memory",
  open: subject(CheckpointStore.layerMemory)
}

const sqlite: Implementation = {
  name: "sqlite",
  open: Effect.flatMap(
    temporaryFile("runs.db"),
    (filename) =>
      subject(Layer.provide(SqlCheckpointStore.layer, NodeSqlite.layer({ filename })), sqliteBytes(filename))
  )
}

// The store takes numbers and texts for a BIGINT, and this driver would give a bigint.
const types = PgTypes.makeRegistry()
types.register<bigint | number>(20, {
  decode: (bytes) => Result.succeed(Number(Buffer.from(bytes).readBigInt64BE())),
  encode: (value) => {
    const bytes = Buffer.alloc(8)
    bytes.writeBigInt64BE(BigInt(value))
    return Result.succeed(bytes)
  }
})

const postgres: Implementation = {
  name: "postgres",
  open: Effect.flatMap(temporaryDatabase, (url) =>
    subject(
      Layer.provide(SqlCheckpointStore.layer, PgClient.layer({ url: Redacted.make(url), types })),
      databaseBytes(url)
    ))
}

export const implementations: ReadonlyArray<Implementation> = [memory, sqlite, postgres]
