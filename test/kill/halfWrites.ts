/** A file system with a boundary in the middle of everything that changes it. */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type { Points } from "./Points.ts"

const half = (bytes: Uint8Array): Uint8Array => bytes.subarray(0, Math.ceil(bytes.length / 2))

const file = (points: Points, file: FileSystem.File): FileSystem.File => ({
  [FileSystem.FileTypeId]: FileSystem.FileTypeId,
  stat: file.stat,
  seek: (offset, from) => file.seek(offset, from),
  read: (buffer, options) => file.read(buffer, options),
  readAlloc: (size, options) => file.readAlloc(size, options),
  sync: Effect.andThen(points.within("sync", Effect.void), file.sync),
  truncate: (length) => Effect.andThen(points.within("truncate", Effect.void), file.truncate(length)),
  write: (bytes) => Effect.andThen(points.within("write", file.write(half(bytes))), file.write(bytes)),
  writeAll: (bytes) => Effect.andThen(points.within("write", file.writeAll(half(bytes))), file.writeAll(bytes))
})

/** What is written in one call may be there in part after a kill, all else is there or not. */
export const layer = (
  points: Points
): Layer.Layer<FileSystem.FileSystem, never, FileSystem.FileSystem> =>
  Layer.effect(
    FileSystem.FileSystem,
    Effect.map(FileSystem.FileSystem, (fs) => {
      const before = <Args extends ReadonlyArray<unknown>, A, E, R>(
        what: string,
        change: (...args: Args) => Effect.Effect<A, E, R>
      ) =>
      (...args: Args) => Effect.andThen(points.within(what, Effect.void), change(...args))
      return {
        ...fs,
        open: (path, options) => Effect.map(fs.open(path, options), (opened) => file(points, opened)),
        writeFile: (path, bytes, options) =>
          Effect.andThen(
            points.within("writeFile", fs.writeFile(path, half(bytes), options)),
            fs.writeFile(path, bytes, options)
          ),
        link: before("link", fs.link),
        remove: before("remove", fs.remove),
        rename: before("rename", fs.rename),
        makeDirectory: before("makeDirectory", fs.makeDirectory)
      }
    })
  )
