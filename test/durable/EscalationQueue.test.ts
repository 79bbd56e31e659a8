import { NodeServices } from "@effect/platform-node"
import { Effect, FileSystem, Layer, Path } from "effect"
import { CheckpointStore, EscalationQueue } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import * as SqlEscalationQueue from "effect-resilience/durable/stores/SqlEscalationQueue"
import { escalationQueueContract } from "./contracts/EscalationQueueContract.ts"

const file = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  return path.join(yield* fs.makeTempDirectoryScoped(), "runs.db")
}).pipe(Effect.provide(NodeServices.layer))

escalationQueueContract(
  "EscalationQueue in memory",
  Effect.succeed(Layer.mergeAll(EscalationQueue.layerMemory, CheckpointStore.layerMemory)),
  { shared: false }
)

escalationQueueContract(
  "EscalationQueue in SQLite",
  Effect.map(file, (filename) =>
    Layer.provide(
      Layer.mergeAll(SqlEscalationQueue.layer, SqlCheckpointStore.layer),
      NodeSqlite.layer({ filename })
    )),
  { shared: true }
)
