/**
 * Our own stores, each with the same program over it.
 */
import { NodeRedis, NodeServices } from "@effect/platform-node"
import * as PgClient from "@effect/sql-pg/PgClient"
import { Effect, Exit, Layer, Redacted, Schema } from "effect"
import * as FileCheckpointStore from "../../src/durable/stores/FileCheckpointStore.ts"
import * as NodeSqlite from "../../src/durable/stores/NodeSqlite.ts"
import * as RedisCheckpointStore from "../../src/durable/stores/RedisCheckpointStore.ts"
import * as SqlCheckpointStore from "../../src/durable/stores/SqlCheckpointStore.ts"
import { Checkpoint, CheckpointStore } from "../../src/index.ts"
import { folderBytes, sqliteBytes, temporaryFile, temporaryFolder } from "./files.ts"
import type { Implementation, Subject, Task } from "./journal.ts"
import { databaseBytes, temporaryDatabase } from "./postgres.ts"
import { redisBytes, temporaryServer } from "./redis.ts"

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

const file: Implementation = {
  name: "file",
  open: Effect.flatMap(
    temporaryFolder,
    (directory) =>
      subject(Layer.provide(FileCheckpointStore.layer({ directory }), NodeServices.layer), folderBytes(directory))
  )
}

const sqlite: Implementation = {
  name: "sqlite",
  open: Effect.flatMap(
    temporaryFile("runs.db"),
    (filename) =>
      subject(Layer.provide(SqlCheckpointStore.layer, NodeSqlite.layer({ filename })), sqliteBytes(filename))
  )
}

const postgres: Implementation = {
  name: "postgres",
  open: Effect.flatMap(temporaryDatabase, (url) =>
    subject(
      Layer.provide(SqlCheckpointStore.layer, PgClient.layer({ url: Redacted.make(url) })),
      databaseBytes(url)
    ))
}

const redis: Implementation = {
  name: "redis",
  open: Effect.flatMap(temporaryServer, (url) =>
    subject(
      Layer.provide(RedisCheckpointStore.layer(), NodeRedis.layer({ url })),
      redisBytes(url)
    ))
}

export const implementations: ReadonlyArray<Implementation> = [memory, file, sqlite, postgres, redis]
