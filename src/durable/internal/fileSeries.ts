import * as ByteSize from "effect/ByteSize"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import { isPlatformError, type PlatformError } from "effect/PlatformError"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Semaphore from "effect/Semaphore"
import { indexOfNewline, isUnterminated, lastIndexOfNewline, textOf } from "./fileLines.ts"

// Full, broken, away, or too busy: a disk may have room again, a mount be back, a descriptor be free.
const passing = new Set(
  ("ENOSPC EDQUOT EIO EMFILE ENFILE EAGAIN EBUSY EINTR ENOMEM ENXIO ENODEV ESTALE ETIMEDOUT EHOSTDOWN EHOSTUNREACH " +
    "ENOTCONN ECONNRESET").split(" ")
)

/**
 * Whether the file system could not do it now, and may later.
 *
 * @internal
 */
export const isUnavailable = (error: PlatformError): boolean => {
  switch (error.reason._tag) {
    case "Busy":
    case "WouldBlock":
    case "TimedOut":
    case "WriteZero":
      return true
    case "Unknown":
      return Predicate.hasProperty(error.reason.cause, "code") && typeof error.reason.cause.code === "string" &&
        passing.has(error.reason.cause.code)
    default:
      return false
  }
}

/**
 * What a file holds is not what was written to it.
 *
 * @internal
 */
export class Damaged extends Data.TaggedError("Damaged")<{
  readonly file: string
  readonly offset: number
  readonly detail: string
}> {
  override get message() {
    return `${this.file} is damaged at byte ${this.offset}: ${this.detail}`
  }
}

/**
 * Others were first again and again.
 *
 * @internal
 */
export class Contended extends Data.TaggedError("Contended")<{ readonly name: string }> {
  override get message() {
    return `other processes were first, ${attempts} times in a row, at ${this.name}`
  }
}

/** How often something is tried anew because another process was faster, which has then got on itself. */
const attempts = 100

/**
 * What can be told of a file from its beginning and its end: its first two lines, which line is the last whole one, and
 * where that one ends.
 *
 * @internal
 */
export interface Edges {
  readonly number: number
  readonly file: string
  readonly claim: string | undefined
  /** The bytes of the claim, by which its writer knows it again. */
  readonly claimed: Uint8Array
  readonly opening: string | undefined
  /** The last line, if it is neither the claim nor the opening. */
  readonly last: string | undefined
  readonly lastAt: number
  readonly end: number
  readonly size: number
}

/**
 * A file that one writer appends to.
 *
 * @internal
 */
export interface Tail {
  readonly number: number
  readonly claimed: Uint8Array
  /** The number of the newest file that is this writer's. */
  tip: number
  /** How much of the file is written, and how much of it is known to be on the disk. */
  end: number
  synced: number
  /** Whether a write failed: what comes after `synced` is not known then, and nothing is written after it. */
  broken: boolean
}

const window = 65_536

const isReason = (tag: string) => (error: unknown): boolean => isPlatformError(error) && error.reason._tag === tag
/** @internal */
export const isNotFound = isReason("NotFound")
const isAlreadyExists = isReason("AlreadyExists")

const lastOf = (numbers: ReadonlyArray<number>): number => numbers.at(-1) ?? 0

/** The number in names such as `17` or, with an ending, `x.00000017.log`. */
const numberIn = (text: string): number => /^\d{1,16}$/.test(text) ? Number(text) : NaN

const ascending = (numbers: ReadonlyArray<number>): ReadonlyArray<number> =>
  numbers.filter(Number.isSafeInteger).toSorted((one, other) => one - other)

/**
 * Files in numbered series, each series written by one process at a time, for several processes without a lock.
 *
 * A lock would outlive a killed process, or be taken from a living one that is only slow. Here nothing is ever locked:
 * who wants to write makes the next file of the series, which only one can do (`link`), and that fences every older
 * writer. What makes it correct is the order of things, in each pair of which at least one side sees the other:
 *
 * - Who takes over makes its file and then reads the one before. Who writes appends to its file and then looks for a
 *   next one (`write`). So a record that was acknowledged is read by whoever comes next, and one that was written too
 *   late is not acknowledged. How much of the old file counts is written down in the new one: what its old writer
 *   appends later is not there.
 * - A file begins with a claim and counts only with a second line, its opening, which its writer adds once it has seen
 *   that the claim holds. Who finds a claim alone and makes the next file has fenced it, opened or not.
 * - Names are never used twice for files that count, so that a process which was paused between looking and deleting
 *   deletes nothing that is in use. Who deletes first raises the epoch, of all series, above the numbers it deletes. A
 *   new series begins above the epoch, and a claim holds only if the epoch is still the one from before its maker
 *   looked at the series.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*(root: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const scope = yield* Effect.scope
  // Node works on four files at a time: more open ones would only use up descriptors.
  const descriptors = Semaphore.makeUnsafe(32)
  const raising = Semaphore.makeUnsafe(1)
  const turns = new Map<string, { readonly lock: Semaphore.Semaphore; users: number }>()
  const ready = new Set<string>()
  const epochs = path.join(root, "epoch")

  const fileOf = (name: string, number: number) => path.join(root, `${name}.${String(number).padStart(8, "0")}.log`)
  const folderOf = (name: string) => path.dirname(fileOf(name, 1))

  const using = <A, E, R>(
    file: string,
    flag: FileSystem.OpenFlag,
    use: (file: FileSystem.File) => Effect.Effect<A, E, R>
  ) => descriptors.withPermit(Effect.scoped(Effect.flatMap(fs.open(file, { flag }), use)))

  // Windows has no sync of folders, and a folder above may be one that this user cannot read.
  const syncFolder = (folder: string) =>
    Effect.catchIf(
      using(folder, "r", (file) => file.sync),
      (error) => isReason("PermissionDenied")(error) || isReason("BadResource")(error),
      () => Effect.void
    )

  /** Makes a folder, and sees to it that it and those above it are there after a loss of power. */
  const makeFolder = (folder: string): Effect.Effect<void, PlatformError> =>
    ready.has(folder)
      ? Effect.void
      : fs.makeDirectory(folder).pipe(
        Effect.catchIf(
          isNotFound,
          () => Effect.andThen(makeFolder(path.dirname(folder)), fs.makeDirectory(folder))
        ),
        Effect.catchIf(isAlreadyExists, () => Effect.void),
        Effect.andThen(syncFolder(path.dirname(folder))),
        Effect.tap(() => Effect.sync(() => ready.add(folder)))
      )

  const unlink = (name: string, number: number) => fs.remove(fileOf(name, number), { force: true })

  const namesIn = (folder: string) => Effect.catchIf(fs.readDirectory(folder), isNotFound, () => Effect.succeed([]))

  const epochNumbers = Effect.map(namesIn(epochs), (names) => ascending(names.map(numberIn)))

  const numbers = (name: string) => {
    const base = `${path.basename(name)}.`
    return Effect.map(
      namesIn(folderOf(name)),
      (names) =>
        ascending(
          names.map((file) =>
            file.startsWith(base) && file.endsWith(".log") ? numberIn(file.slice(base.length, -4)) : NaN
          )
        )
    )
  }

  const readAt = Effect.fnUntraced(function*(file: FileSystem.File, from: number, length: number) {
    const bytes = new Uint8Array(length)
    let read = 0
    while (read < length) {
      const more = yield* file.read(bytes.subarray(read), { position: BigInt(from + read) })
      if (more === 0) break
      read += more
    }
    return bytes.subarray(0, read)
  })

  const edges = Effect.fnUntraced(function*(number: number, name: string, file: FileSystem.File) {
    const path = fileOf(name, number)
    const size = ByteSize.toNumberUnsafe((yield* file.stat).size)
    let head = yield* readAt(file, 0, Math.min(size, window))
    const claimEnd = () => indexOfNewline(head) + 1
    const openingEnd = () => claimEnd() === 0 ? 0 : indexOfNewline(head, claimEnd()) + 1
    while (openingEnd() === 0 && head.length < size) head = yield* readAt(file, 0, Math.min(size, head.length * 2))
    let from = 0
    let tail = head
    const newest = () => lastIndexOfNewline(tail)
    const before = () => lastIndexOfNewline(tail, newest() - 1)
    if (head.length < size) {
      for (let length = window;; length *= 2) {
        from = Math.max(0, size - length)
        tail = yield* readAt(file, from, size - from)
        if (from === 0 || before() >= 0) break
      }
    }
    const checked = Effect.fnUntraced(function*(bytes: Uint8Array, start: number, end: number, offset: number) {
      const text = textOf(bytes.subarray(start, end))
      if (text !== undefined) return text
      return yield* new Damaged({ file: path, offset: offset + start, detail: "the checksum of a line is wrong" })
    })
    const whole = newest() + 1
    if (isUnterminated(tail.subarray(whole))) {
      return yield* new Damaged({ file: path, offset: size - 1, detail: "a line does not end with a newline" })
    }
    const lastAt = before() + 1
    const result: Edges = {
      number,
      file: path,
      claim: claimEnd() === 0 ? undefined : yield* checked(head, 0, claimEnd() - 1, 0),
      claimed: head.slice(0, claimEnd()),
      opening: openingEnd() === 0 ? undefined : yield* checked(head, claimEnd(), openingEnd() - 1, 0),
      last: from + lastAt < openingEnd() || whole === 0 ? undefined : yield* checked(tail, lastAt, whole - 1, from),
      lastAt: from + lastAt,
      end: from + whole,
      size
    }
    return result
  })

  /** The newest file of a series, and the newest one that is open. Files that are gone by now are left out. */
  const look = Effect.fnUntraced(function*(name: string, numbers: ReadonlyArray<number>) {
    let top: Edges | undefined
    for (const number of numbers.toReversed()) {
      const found = yield* Effect.catchIf(
        using(fileOf(name, number), "r", (file) => edges(number, name, file)),
        isNotFound,
        () => Effect.succeed(undefined)
      )
      top ??= found
      if (found?.opening !== undefined) return { top, open: found }
    }
    return { top, open: undefined }
  })

  /** Takes back a claim without an opening, on which nobody builds. */
  const withdraw = (name: string, number: number) => Effect.ignore(unlink(name, number))

  /** Makes a file with all that it is to hold, unless there is one. */
  const create = Effect.fnUntraced(function*(name: string, number: number, bytes: Uint8Array) {
    const folder = folderOf(name)
    yield* makeFolder(folder)
    const random = yield* Random.nextIntBetween(0, Number.MAX_SAFE_INTEGER)
    const temporary = path.join(root, `${name}.${random.toString(36)}.tmp`)
    return yield* fs.writeFile(temporary, bytes, { flag: "wx" }).pipe(
      Effect.andThen(fs.link(temporary, fileOf(name, number))),
      Effect.as(true),
      Effect.catchIf(isAlreadyExists, () => Effect.succeed(false)),
      // Swept away before it was linked, or with its folder.
      Effect.catchIf(isNotFound, () => Effect.as(Effect.sync(() => ready.delete(folder)), false)),
      Effect.ensuring(Effect.ignore(fs.remove(temporary, { force: true })))
    )
  })

  /**
   * Makes the next file of a series, if it is the next one of what the caller has looked at, and nothing has changed
   * since. Whoever makes a file first looks again, so that of two who do at least one sees the other and withdraws.
   */
  const claim = Effect.fnUntraced(function*(
    name: string,
    seen: { readonly epoch: number; readonly numbers: ReadonlyArray<number> },
    claimed: (number: number) => Uint8Array
  ) {
    const number = (seen.numbers.length === 0 ? seen.epoch : lastOf(seen.numbers)) + 1
    const bytes = claimed(number)
    if (!(yield* create(name, number, bytes))) return undefined
    const holds = Effect.gen(function*() {
      if (lastOf(yield* epochNumbers) !== seen.epoch) return false
      return (yield* numbers(name)).every((other) => other === number || seen.numbers.includes(other))
    })
    if (!(yield* Effect.onError(holds, () => withdraw(name, number)))) {
      yield* unlink(name, number)
      return undefined
    }
    const tail: Tail = { number, claimed: bytes, tip: number, end: bytes.length, synced: 0, broken: false }
    return tail
  })

  const isSame = (one: Uint8Array, other: Uint8Array): boolean =>
    one.length === other.length && one.every((byte, index) => byte === other[index])

  // First the newer files, then this one: whoever deletes them deletes this one first. The file at hand stays what it is
  // while it is open, so that another one under its name is told by its inode, and what was opened by its claim.
  const isFollowed = Effect.fnUntraced(function*(name: string, tail: Tail, file: FileSystem.File) {
    if (lastOf(yield* numbers(name)) > tail.tip) return true
    const here = yield* file.stat
    const there = yield* Effect.catchIf(
      fs.stat(fileOf(name, tail.number)),
      isNotFound,
      () => Effect.succeed(undefined)
    )
    if (there === undefined || !Equal.equals([here.dev, here.ino], [there.dev, there.ino])) return true
    return !isSame(yield* readAt(file, 0, tail.claimed.length), tail.claimed)
  })

  /**
   * Appends a line, whole or not at all: `followed` if another writer has the series now, `changed` if the file is not
   * as long as its writer knows it.
   */
  const write = (name: string, tail: Tail, line: Uint8Array, options: { readonly durable: boolean }) =>
    using(
      fileOf(name, tail.number),
      "r+",
      Effect.fnUntraced(function*(file) {
        if (ByteSize.toNumberUnsafe((yield* file.stat).size) !== tail.end) return "changed" as const
        tail.broken = true
        yield* file.seek(BigInt(tail.end), "start")
        yield* file.writeAll(line)
        // Other processes see what is written before it is on the disk, so that looking for them need not wait.
        const [synced, followed] = yield* Effect.all([
          Effect.exit(options.durable ? file.sync : Effect.void),
          Effect.exit(isFollowed(name, tail, file))
        ], { concurrency: 2 })
        yield* synced
        if (yield* followed) return "followed" as const
        tail.broken = false
        tail.end += line.length
        if (options.durable) tail.synced = tail.end
        return "written" as const
      })
    ).pipe(Effect.catchIf(isNotFound, () => Effect.succeed("followed" as const)))

  /** Whether the file of a writer is there, with no newer one after it. */
  const isOurs = (name: string, tail: Tail) =>
    Effect.catchIf(
      using(fileOf(name, tail.number), "r", (file) =>
        Effect.map(
          Effect.all([file.stat, isFollowed(name, tail, file)]),
          ([{ size }, followed]) => !followed && ByteSize.toNumberUnsafe(size) >= tail.synced
        )),
      isNotFound,
      () => Effect.succeed(false)
    )

  // The greatest number counts, and is deleted by nobody: a number that was given out and deleted always has a greater
  // one beside it, so that who makes it once more knows. The one before is kept as well, for the eyes of whoever reads
  // the folder while it changes.
  const raise = Effect.fnUntraced(function*(atLeast: number) {
    for (let attempt = 0; attempt < attempts; attempt++) {
      const before = yield* epochNumbers
      const epoch = Math.max(lastOf(before) + 1, atLeast)
      const file = (number: number) => path.join(epochs, String(number))
      const made = yield* fs.writeFile(file(epoch), new Uint8Array(), { flag: "wx" }).pipe(
        Effect.as(true),
        Effect.catchIf(isAlreadyExists, () => Effect.succeed(false))
      )
      if (!made) continue
      if (lastOf(yield* epochNumbers) !== epoch) {
        yield* fs.remove(file(epoch), { force: true })
        continue
      }
      yield* syncFolder(epochs)
      yield* Effect.forEach(before.slice(0, -1), (number) => fs.remove(file(number), { force: true }), {
        discard: true
      })
      return
    }
    return yield* new Contended({ name: epochs })
  }, (raised) => raising.withPermit(raised))

  /** Deletes files of a series that count no more and never will, from the oldest to the newest. */
  const discard = Effect.fnUntraced(function*(name: string, numbers: ReadonlyArray<number>) {
    if (numbers.length === 0) return
    yield* raise(lastOf(numbers))
    yield* Effect.forEach(numbers.slice(0, -1), (number) => unlink(name, number), { discard: true })
    // The newest one says that the others count no more: it goes when they are gone for good.
    if (numbers.length > 1) yield* syncFolder(folderOf(name))
    yield* unlink(name, lastOf(numbers))
  })

  /** The numbers of every series, or of those in one folder. Sweeps away what was never linked. */
  const all = Effect.fnUntraced(function*(only?: string) {
    const found = new Map<string, ReadonlyArray<number>>()
    const folders = only === undefined ? (yield* namesIn(root)).filter((name) => /^[0-9a-f]{2}$/.test(name)) : [only]
    yield* Effect.forEach(folders, (folder) =>
      Effect.gen(function*() {
        const files = yield* namesIn(path.join(root, folder))
        yield* Effect.forEach(
          files.filter((file) => file.endsWith(".tmp")),
          (file) => Effect.ignore(fs.remove(path.join(root, folder, file), { force: true })),
          { discard: true }
        )
        for (const file of files) {
          const [, base, number] = file.match(/^(.+)\.(\d{8,16})\.log$/) ?? []
          if (base === undefined) continue
          const name = `${folder}/${base}`
          found.set(name, ascending([...found.get(name) ?? [], Number(number)]))
        }
      }), { concurrency: 8, discard: true })
    return found
  })

  /** Runs what concerns a series, one after the other. */
  const inTurn = <A, E, R>(name: string, effect: Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      const turn = turns.get(name) ?? { lock: Semaphore.makeUnsafe(1), users: 0 }
      turns.set(name, turn)
      turn.users++
      const leave = Effect.sync(() => {
        if (--turn.users === 0) turns.delete(name)
      })
      return Effect.ensuring(turn.lock.withPermit(effect), leave)
    })

  /**
   * Carries out what writes to a series to its end, in its turn, even if its caller does not wait for it: what the
   * system was asked for cannot be called back, and closing a file under it could hit another one. `undo` takes back
   * what nobody got.
   */
  const carryOut = <A, E>(
    name: string,
    effect: Effect.Effect<A, E>,
    undo: (value: A) => Effect.Effect<void> = () => Effect.void
  ): Effect.Effect<A, E> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const fiber = yield* Effect.forkIn(inTurn(name, Effect.uninterruptible(effect)), scope, {
          startImmediately: true
        })
        return yield* Effect.onInterrupt(restore(Fiber.join(fiber)), () =>
          Effect.sync(() => fiber.interruptUnsafe()).pipe(
            Effect.andThen(Fiber.await(fiber)),
            Effect.flatMap((exit) => Exit.isSuccess(exit) ? undo(exit.value) : Effect.void),
            Effect.forkIn(scope, { startImmediately: true })
          ))
      })
    )

  yield* makeFolder(epochs)

  return {
    all,
    carryOut,
    claim,
    discard,
    epoch: Effect.map(epochNumbers, lastOf),
    fileOf,
    isOurs,
    look,
    numbers,
    read: (name: string, number: number) => descriptors.withPermit(fs.readFile(fileOf(name, number))),
    sync: (name: string, number: number) => using(fileOf(name, number), "r+", (file) => file.sync),
    syncFolder: (name: string) => syncFolder(folderOf(name)),
    withdraw,
    write
  }
})

/** @internal */
export type FileSeries = Effect.Success<ReturnType<typeof make>>
