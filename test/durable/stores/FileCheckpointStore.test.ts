import { NodeFileSystem, NodePath } from "@effect/platform-node"
import { Effect, FileSystem, Layer } from "effect"
import * as FileCheckpointStore from "effect-resilience/durable/stores/FileCheckpointStore"
import { suite } from "../contracts/CheckpointStoreContract.ts"

const Node = Layer.mergeAll(NodeFileSystem.layer, NodePath.layer)

const folder = Effect.flatMap(FileSystem.FileSystem, (fs) => fs.makeTempDirectoryScoped())

suite(
  "files",
  Layer.unwrap(Effect.map(folder, (directory) => FileCheckpointStore.layer({ directory }))).pipe(Layer.provide(Node))
)
