/**
 * A disk in memory that behaves as POSIX says and no better: what was not synced may be lost with the power, in any
 * mixture, and what processes do to it can be stopped, refused or put in any order, system call by system call.
 *
 * ```ts
 * const disk = new Disk()
 * const fs = disk.fileSystem((call, run) => call.method === "sync" ? Effect.fail(refusal("EIO", call)) : run)
 * disk.losePower(uniform) // keeps what was synced, and of the rest what chance wants
 * ```
 */
import { ByteSize, Effect, FileSystem, Layer, Option, Path, PlatformError } from "effect"

interface Inode {
  readonly id: number
  readonly folder: boolean
  /** What processes see. */
  bytes: Uint8Array
  names: Map<string, Inode>
  /** What is on the disk for certain. */
  syncedBytes: Uint8Array
  syncedNames: Map<string, Inode>
}

export interface Call {
  readonly method: string
  readonly path: string
  /** Does a write only in part; nothing for what is done at once or not at all. */
  readonly half: Effect.Effect<void>
}

export type Around = <A>(
  call: Call,
  run: Effect.Effect<A, PlatformError.PlatformError>
) => Effect.Effect<A, PlatformError.PlatformError>

const tags: Record<string, PlatformError.SystemErrorTag> = {
  ENOENT: "NotFound",
  EEXIST: "AlreadyExists",
  EACCES: "PermissionDenied",
  EPERM: "PermissionDenied",
  EISDIR: "BadResource",
  ENOTDIR: "BadResource"
}

/** A refusal as Node's file system reports it. */
export const refusal = (code: string, call: { readonly method: string; readonly path: string }) =>
  PlatformError.systemError({
    _tag: tags[code] ?? "Unknown",
    module: "FileSystem",
    method: call.method,
    pathOrDescriptor: call.path,
    cause: Object.assign(new Error(`${code}: ${call.method} ${call.path}`), { code })
  })

const joined = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => new Uint8Array(Buffer.concat(parts))

/** Half of all names, as a folder keeps them in an order of its own. */
const isEarly = (name: string): boolean => Array.from(name).reduce((sum, char) => sum + char.charCodeAt(0), 0) % 2 === 0

export class Disk {
  private ids = 0
  private root = this.inode(true)
  /** How many files are open, and how many have been at once. */
  open = 0
  most = 0
  /** How many bytes were read, and how many calls were made. */
  readBytes = 0
  calls = 0

  private inode(folder: boolean): Inode {
    return {
      id: ++this.ids,
      folder,
      bytes: new Uint8Array(),
      names: new Map(),
      syncedBytes: new Uint8Array(),
      syncedNames: new Map()
    }
  }

  private find(path: string): Inode | undefined {
    let at: Inode | undefined = this.root
    for (const name of path.split("/")) {
      if (name !== "" && name !== ".") at = at?.names.get(name)
    }
    return at
  }

  private place(path: string): readonly [Inode | undefined, string] {
    const cut = path.lastIndexOf("/")
    return [this.find(path.slice(0, cut)), path.slice(cut + 1)]
  }

  /** The paths of all files, and of no folders. */
  files(folder = ""): ReadonlyArray<string> {
    const found: Array<string> = []
    const walk = (inode: Inode, path: string) => {
      for (const [name, child] of inode.names) {
        if (child.folder) walk(child, `${path}/${name}`)
        else found.push(`${path}/${name}`)
      }
    }
    const start = this.find(folder)
    if (start !== undefined) walk(start, folder)
    return found.toSorted()
  }

  bytes(path: string): Uint8Array {
    const inode = this.find(path)
    if (inode === undefined || inode.folder) throw new Error(`no file ${path}`)
    return inode.bytes
  }

  /** Changes a file behind everybody's back, as a bad disk does. */
  overwrite(path: string, bytes: Uint8Array) {
    const inode = this.find(path)
    if (inode === undefined || inode.folder) throw new Error(`no file ${path}`)
    inode.bytes = inode.syncedBytes = bytes
  }

  remove(path: string) {
    const [folder, name] = this.place(path)
    folder?.names.delete(name)
    folder?.syncedNames.delete(name)
  }

  /** The whole disk, to be put back. */
  snapshot(): () => void {
    const copies = new Map<Inode, Inode>()
    const copy = (inode: Inode): Inode => {
      const known = copies.get(inode)
      if (known !== undefined) return known
      const made: Inode = { ...inode, names: new Map(), syncedNames: new Map() }
      copies.set(inode, made)
      for (const [name, child] of inode.names) made.names.set(name, copy(child))
      for (const [name, child] of inode.syncedNames) made.syncedNames.set(name, copy(child))
      return made
    }
    const kept = copy(this.root)
    return () => {
      copies.clear()
      this.root = copy(kept)
    }
  }

  /**
   * Loses the power. Names that were made or deleted since their folder was synced are there or not, each as chance has
   * it, and so is what was appended to a file since it was synced: none of it, a part, all, or zeros in its place.
   */
  losePower(chance: (index: number) => number) {
    let draws = 0
    const draw = () => chance(draws++)
    const seen = new Set<Inode>()
    const lose = (inode: Inode) => {
      if (seen.has(inode)) return
      seen.add(inode)
      const unsynced = inode.bytes.subarray(inode.syncedBytes.length)
      let length = Math.floor(draw() * (unsynced.length + 1))
      // Not just without its newline: nobody can tell that from a newline that was damaged.
      while (length > 0 && unsynced[length] === 10) length--
      const part = unsynced.subarray(0, length)
      const kind = draw()
      inode.bytes = kind < 0.25
        ? inode.syncedBytes
        : kind < 0.5
        ? joined(inode.syncedBytes, part)
        : kind < 0.75
        ? joined(inode.syncedBytes, part, new Uint8Array(unsynced.length - part.length))
        : inode.bytes
      inode.syncedBytes = inode.bytes
      const names = new Map(inode.syncedNames)
      for (const [name, child] of inode.names) if (!names.has(name) && draw() < 0.5) names.set(name, child)
      for (const name of inode.syncedNames.keys()) if (!inode.names.has(name) && draw() < 0.5) names.delete(name)
      inode.names = names
      inode.syncedNames = new Map(names)
      for (const child of names.values()) lose(child)
    }
    lose(this.root)
    this.open = 0
  }

  /** The disk as one process sees it, which `around` may stop at every call. */
  fileSystem(around: Around = (_, run) => run): FileSystem.FileSystem {
    const call = <A>(
      method: string,
      path: string,
      run: (fail: (code: string) => PlatformError.PlatformError) => A,
      half: () => void = () => {}
    ): Effect.Effect<A, PlatformError.PlatformError> => {
      const made = { method, path, half: Effect.sync(half) }
      const fail = (code: string) => refusal(code, made)
      return around(
        made,
        Effect.suspend(() => {
          this.calls++
          try {
            return Effect.succeed(run(fail))
          } catch (error) {
            return PlatformError.isPlatformError(error) ? Effect.fail(error) : Effect.die(error)
          }
        })
      )
    }

    const fileAt = (path: string, fail: (code: string) => PlatformError.PlatformError) => {
      const inode = this.find(path)
      if (inode === undefined) throw fail("ENOENT")
      return inode
    }

    const make = (path: string, fail: (code: string) => PlatformError.PlatformError, folder: boolean) => {
      const [parent, name] = this.place(path)
      if (parent === undefined) throw fail("ENOENT")
      if (parent.names.has(name)) throw fail("EEXIST")
      const inode = this.inode(folder)
      parent.names.set(name, inode)
      return inode
    }

    const info = (inode: Inode): FileSystem.File.Info => ({
      type: inode.folder ? "Directory" : "File",
      mtime: Option.none(),
      atime: Option.none(),
      birthtime: Option.none(),
      dev: BigInt(1),
      ino: Option.some(BigInt(inode.id)),
      mode: 0o644,
      nlink: Option.none(),
      uid: Option.none(),
      gid: Option.none(),
      rdev: Option.none(),
      size: ByteSize.bytes(inode.bytes.length),
      blksize: Option.none(),
      blocks: Option.none()
    })

    const putAt = (inode: Inode, at: number, bytes: Uint8Array) => {
      const gap = new Uint8Array(Math.max(0, at - inode.bytes.length))
      inode.bytes = joined(inode.bytes.subarray(0, at), gap, bytes, inode.bytes.subarray(at + bytes.length))
    }

    const file = (path: string, inode: Inode): FileSystem.File => {
      let at = 0
      return {
        [FileSystem.FileTypeId]: FileSystem.FileTypeId,
        stat: call("fstat", path, () => info(inode)),
        seek: (offset) =>
          Effect.sync(() => {
            at = Number(offset)
            return offset
          }),
        sync: call("sync", path, () => {
          inode.syncedBytes = inode.bytes
          inode.syncedNames = new Map(inode.names)
        }),
        read: (buffer, options) =>
          call("read", path, () => {
            const from = Number(options?.position ?? at)
            const bytes = inode.bytes.subarray(from, from + buffer.length)
            buffer.set(bytes)
            this.readBytes += bytes.length
            return bytes.length
          }),
        readAlloc: () => Effect.die("not there"),
        truncate: () => Effect.die("not there"),
        write: () => Effect.die("not there"),
        writeAll: (buffer) =>
          call(
            "write",
            path,
            () => putAt(inode, at, buffer),
            () => putAt(inode, at, buffer.subarray(0, buffer.length >> 1))
          )
      }
    }

    return FileSystem.makeNoop({
      stat: (path) => call("stat", path, (fail) => info(fileAt(path, fail))),
      // In two calls, between which names come and go.
      readDirectory: (path) =>
        Effect.flatMap(
          call("openDirectory", path, (fail) => {
            const inode = fileAt(path, fail)
            if (!inode.folder) throw fail("ENOTDIR")
            return [inode, Array.from(inode.names.keys()).filter(isEarly)] as const
          }),
          ([inode, early]) =>
            call("readDirectory", path, () => [
              ...early,
              ...Array.from(inode.names.keys()).filter((name) => !isEarly(name))
            ])
        ),
      makeDirectory: (path) => call("makeDirectory", path, (fail) => void make(path, fail, true)),
      readFile: (path) =>
        call("readFile", path, (fail) => {
          const { bytes } = fileAt(path, fail)
          this.readBytes += bytes.length
          return bytes.slice()
        }),
      writeFile: (path, bytes, options) =>
        call("writeFile", path, (fail) => {
          if (options?.flag !== "wx") throw new Error(`flag ${options?.flag} is not there`)
          make(path, fail, false).bytes = bytes.slice()
        }, () => {
          make(path, (code) => refusal(code, { method: "writeFile", path }), false).bytes = bytes.slice(
            0,
            bytes.length >> 1
          )
        }),
      link: (from, to) =>
        call("link", to, (fail) => {
          const inode = fileAt(from, fail)
          const [folder, name] = this.place(to)
          if (folder === undefined) throw fail("ENOENT")
          if (folder.names.has(name)) throw fail("EEXIST")
          folder.names.set(name, inode)
        }),
      remove: (path, options) =>
        call("remove", path, (fail) => {
          const [folder, name] = this.place(path)
          if (folder?.names.delete(name) !== true && options?.force !== true) throw fail("ENOENT")
        }),
      open: (path, options) =>
        Effect.acquireRelease(
          call("open", path, (fail) => {
            if (options?.flag !== "r" && options?.flag !== "r+") throw new Error(`flag ${options?.flag} is not there`)
            const inode = fileAt(path, fail)
            this.most = Math.max(this.most, ++this.open)
            return file(path, inode)
          }),
          () => Effect.sync(() => this.open--)
        )
    })
  }

  /** `FileSystem` and `Path` of one process. */
  layer(around?: Around): Layer.Layer<FileSystem.FileSystem | Path.Path> {
    return Layer.merge(Layer.succeed(FileSystem.FileSystem, this.fileSystem(around)), Path.layer)
  }
}
