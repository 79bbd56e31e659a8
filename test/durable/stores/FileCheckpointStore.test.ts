import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem, Layer, Path, Schema } from "effect"
import { Checkpoint } from "effect-resilience"
import * as FileCheckpointStore from "effect-resilience/durable/stores/FileCheckpointStore"
import { Node, temporaryFolder, withTemporaryFolder } from "../../support/temporaryFolder.ts"
import { suite } from "../contracts/CheckpointStoreContract.ts"

suite("files", withTemporaryFolder((directory) => FileCheckpointStore.layer({ directory })))

describe("Checkpoint over damaged files", () => {
  for (const line of [0, 1, -1]) {
    it.effect(`says that the run is corrupt, and clear removes it and no other, with line ${line} damaged`, () =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const directory = yield* temporaryFolder
        const store = Layer.fresh(FileCheckpointStore.layer({ directory }))
        const run = (id: string) =>
          Checkpoint.step("a", { success: Schema.String }, Effect.succeed(id)).pipe(Checkpoint.run({ id }))
        yield* run("damaged").pipe(Effect.provide(store))
        for (const name of yield* fs.readDirectory(directory, { recursive: true })) {
          const file = path.join(directory, name)
          if (!name.endsWith(".log") || (yield* fs.stat(file)).type !== "File") continue
          const lines = (yield* fs.readFileString(file)).split("\n").slice(0, -1)
          const at = line < 0 ? lines.length + line : line
          const text = lines.with(at, (lines[at] ?? "").replace(/.$/, "!")).map((text) => `${text}\n`).join("")
          yield* fs.writeFileString(file, text)
        }
        yield* Effect.gen(function*() {
          yield* run("whole")
          assert.strictEqual((yield* Effect.flip(run("damaged")))._tag, "CheckpointCorrupt")
          yield* Checkpoint.clear("damaged")
          assert.strictEqual(yield* run("damaged"), "damaged")
          assert.deepStrictEqual((yield* Checkpoint.list()).map(({ runId }) => runId).toSorted(), ["damaged", "whole"])
        }).pipe(Effect.provide(store))
      }).pipe(Effect.provide(Node)))
  }
})
