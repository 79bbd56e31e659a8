import { Effect } from "effect"
import { statfsSync } from "node:fs"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"

/** A folder that is removed at the end of the scope. */
export const temporaryFolder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "effect-resilience-bench-"))),
  (folder) => Effect.promise(() => fs.rm(folder, { recursive: true, force: true }))
)

/** The name of a file in a folder of its own. */
export const temporaryFile = (name: string) => Effect.map(temporaryFolder, (folder) => path.join(folder, name))

/** What all files of a folder take. */
export const folderBytes = (folder: string) =>
  Effect.promise(async () => {
    const entries = await fs.readdir(folder, { recursive: true, withFileTypes: true })
    const files = entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name))
    const sizes = await Promise.all(files.map(async (file) => (await fs.stat(file)).size))
    return sizes.reduce((total, size) => total + size, 0)
  })

/** What a SQLite database takes, once its log has been moved into it. */
export const sqliteBytes = (filename: string) =>
  Effect.promise(async () => {
    const db = new DatabaseSync(filename)
    db.exec("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return (await fs.stat(filename)).size
  })

const tmpfs = 0x01_02_19_94

/** Whether what is synced to a temporary folder reaches a disk. */
export const diskOfTemporaryFolder = (): string =>
  statfsSync(os.tmpdir()).type === tmpfs ? "which is in MEMORY, so that nothing is synced" : "on a disk"
