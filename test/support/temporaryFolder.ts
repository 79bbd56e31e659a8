import { NodeFileSystem, NodePath } from "@effect/platform-node"
import { Effect, FileSystem, Layer, type Path } from "effect"

/** The file system of Node. */
export const Node: Layer.Layer<FileSystem.FileSystem | Path.Path> = Layer.mergeAll(NodeFileSystem.layer, NodePath.layer)

/** A folder that goes when the scope does. */
export const temporaryFolder = Effect.orDie(
  Effect.flatMap(FileSystem.FileSystem, (fs) => fs.makeTempDirectoryScoped({ prefix: "effect-resilience-" }))
).pipe(Effect.provide(NodeFileSystem.layer))

/** What is built over a folder of its own, which is empty each time. */
export const withTemporaryFolder = <A, E>(
  layer: (directory: string) => Layer.Layer<A, E, FileSystem.FileSystem | Path.Path>
): Layer.Layer<A, E> => Layer.unwrap(Effect.map(temporaryFolder, layer)).pipe(Layer.provide(Node))
