import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Layer, Option } from "effect"
import { CheckpointStore } from "effect-resilience"
import * as FileCheckpointStore from "effect-resilience/durable/stores/FileCheckpointStore"
import { TestClock } from "effect/testing"
import { uniform } from "../../../src/testing/internal/seeded.ts"
import { type Around, Disk } from "../../support/disk.ts"
import { runs } from "../../support/runs.ts"

type Store = CheckpointStore.CheckpointStore["Service"]

const minute = Duration.minutes(1)
const directory = "/data"

/**
 * Lets the processes go on one system call at a time, in an order that depends on the seed alone: now one of them at
 * random, now one alone for a long time while the others stand still.
 */
const schedule = Effect.fnUntraced(function*(
  seed: number,
  processes: (gate: (process: number) => Around) => ReadonlyArray<Effect.Effect<void>>
) {
  const waiting: Array<{ readonly process: number; readonly turn: Deferred.Deferred<void> }> = []
  const gate = (process: number): Around => (_, run) =>
    Effect.suspend(() => {
      const turn = Deferred.makeUnsafe<void>()
      waiting.push({ process, turn })
      return Effect.andThen(Deferred.await(turn), run)
    })
  const fibers = yield* Effect.forEach(processes(gate), (process) => Effect.forkChild(process))
  let draws = 0
  const below = (n: number) => Math.floor(uniform(seed, draws++, "turn") * n)
  let left = 0
  let alone = 0
  for (;;) {
    for (let quiet = 0, before = -1; quiet < 3; quiet++) {
      yield* Effect.yieldNow
      if (waiting.length !== before) quiet = 0
      before = waiting.length
    }
    if (waiting.length === 0) {
      if (fibers.every((fiber) => fiber.pollUnsafe() !== undefined)) break
      continue
    }
    if (left-- <= 0) {
      alone = below(fibers.length)
      left = below(2) === 0 ? below(10) : below(150)
    }
    const own = waiting.findIndex(({ process }) => process === alone)
    const [next] = waiting.splice(own >= 0 && left > 9 ? own : below(waiting.length), 1)
    if (next !== undefined) yield* Deferred.succeed(next.turn, undefined)
  }
  yield* Fiber.joinAll(fibers)
})

interface Deed {
  readonly kind: "acquire" | "append" | "release" | "remove"
  readonly started: number
  ended: number
  readonly token: number
  readonly position?: number
  readonly body?: string
  /** How it failed, or `done`. */
  exit: string
}

/** What several processes did to one run, in the order in which they began and ended it. */
class History {
  time = 0
  readonly deeds: Array<Deed> = []

  record<A>(
    deed: Pick<Deed, "kind" | "position" | "body"> & { readonly token?: number },
    effect: Effect.Effect<A, CheckpointStore.CheckpointStoreError>
  ) {
    return Effect.suspend(() => {
      const started = ++this.time
      const index = this.deeds.push({ ...deed, token: deed.token ?? 0, started, ended: Infinity, exit: "open" }) - 1
      return Effect.onExit(
        Effect.option(Effect.tapError(effect, (error) =>
          Effect.sync(() => {
            this.deeds[index] = { ...this.at(index), exit: error.reason._tag, ended: ++this.time }
            if (error.reason._tag === "Corrupt") throw error
          }))),
        (exit) =>
          Effect.sync(() => {
            if (!Exit.isSuccess(exit) || Option.isNone(exit.value)) return
            const value: unknown = exit.value.value
            const token = deed.kind === "acquire" ? (value as CheckpointStore.Lease).token : deed.token ?? 0
            this.deeds[index] = { ...this.at(index), token, exit: "done", ended: ++this.time }
          })
      )
    })
  }

  at(index: number): Deed {
    const deed = this.deeds[index]
    if (deed === undefined) throw new Error("no deed")
    return deed
  }

  done(kind: Deed["kind"]) {
    return this.deeds.filter((deed) => deed.kind === kind && deed.exit === "done")
  }
}

/** One process: it takes the run, writes to it, and gives it back or removes it, again and again. */
const process = Effect.fnUntraced(function*(
  store: Store,
  history: History,
  options: { readonly id: number; readonly seed: number; readonly rounds: number; readonly takeOver: number }
) {
  let draws = 0
  const draw = () => uniform(options.seed, draws++, `process ${options.id}`)
  for (let round = 0; round < options.rounds; round++) {
    const acquired = yield* history.record(
      { kind: "acquire" },
      store.acquire("r", minute, { takeOver: draw() < options.takeOver })
    )
    if (Option.isNone(acquired)) continue
    const lease = acquired.value
    const { token } = lease
    let length = (yield* Effect.orDie(store.read("r"))).length
    for (let n = 0; n < 1 + Math.floor(draw() * 3); n++) {
      const body = `${options.id}/${round}/${n}`
      const written = yield* history.record(
        { kind: "append", token, position: length, body },
        store.append(lease, [{ position: length, step: "s", body }])
      )
      if (Option.isSome(written)) length++
    }
    if (draw() < 0.3) yield* history.record({ kind: "remove", token }, store.remove(lease))
    else if (draw() < 0.8) yield* history.record({ kind: "release", token }, store.release(lease))
  }
})

const check = Effect.fnUntraced(function*(disk: Disk, history: History) {
  const acquired = history.done("acquire")
  for (const one of acquired) {
    for (const other of acquired) {
      if (one.ended < other.started) assert.isBelow(one.token, other.token, "a later lease has a greater token")
    }
  }
  assert.strictEqual(new Set(acquired.map(({ token }) => token)).size, acquired.length, "a token is granted once")
  yield* Effect.gen(function*() {
    const store = yield* CheckpointStore.CheckpointStore
    const journal = yield* store.read("r")
    const removes = history.deeds.filter(({ kind }) => kind === "remove")
    for (const { body, exit, position, token } of history.deeds.filter(({ kind }) => kind === "append")) {
      const found = journal.findIndex((entry) => entry.body === body)
      if (found >= 0) assert.strictEqual(found, position, `${body} is where it was written`)
      const removed = removes.filter((remove) => remove.token >= token)
      if (exit === "done" && removed.length === 0) assert.isAtLeast(found, 0, `${body} was acknowledged`)
      if (removed.some((remove) => remove.exit === "done")) assert.strictEqual(found, -1, `${body} was removed`)
    }
    const bodies = journal.map(({ body }) => body)
    assert.strictEqual(new Set(bodies).size, bodies.length, "no record is there twice")
    const lease = yield* store.acquire("r", minute, { takeOver: true })
    for (const { token } of acquired) assert.isBelow(token, lease.token)
    yield* store.append(lease, [{ position: journal.length, step: "", body: "last" }])
    assert.deepStrictEqual((yield* store.read("r")).map(({ body }) => body), [...bodies, "last"])
    yield* store.remove(lease)
    yield* TestClock.adjust("1 hour")
    assert.deepStrictEqual(yield* store.list(), [])
    assert.deepStrictEqual(disk.files(`${directory}/runs`).filter((file) => !file.includes("/epoch/")), [])
  }).pipe(Effect.provide(FileCheckpointStore.layer({ directory }).pipe(Layer.provide(disk.layer()))))
})

const story = Effect.fnUntraced(function*(
  seed: number,
  options: { readonly processes: number; readonly takeOver: number }
) {
  const disk = new Disk()
  const history = new History()
  yield* schedule(seed, (gate) =>
    Array.from({ length: options.processes }, (_, id) =>
      Effect.gen(function*() {
        const store = yield* CheckpointStore.CheckpointStore
        yield* process(store, history, { id, seed, rounds: 4, takeOver: options.takeOver })
      }).pipe(
        Effect.provide(
          FileCheckpointStore.layer({
            directory,
            owner: { id: `process ${id}`, isGone: () => Effect.succeed(false) }
          }).pipe(Layer.provide(disk.layer(gate(id))))
        ),
        Effect.orDie
      )))
  yield* check(disk, history).pipe(Effect.tapCause(() => Effect.sync(() => console.log(`seed ${seed}`, history.deeds))))
  return history
})

describe("files shared by processes, in every order of system calls", () => {
  it.effect(
    "what is acknowledged is kept, and what is removed stays away, while they take over from each other",
    () =>
      Effect.gen(function*() {
        const kinds = new Set<string>()
        for (let seed = 0; seed < runs(40, 4_000); seed++) {
          const history = yield* story(seed, { processes: 3, takeOver: 0.6 })
          for (const { exit, kind } of history.deeds) kinds.add(`${kind} ${exit}`)
        }
        for (const kind of ["acquire done", "acquire LeaseHeld", "append done", "append Fenced", "remove done"]) {
          assert.include([...kinds], kind)
        }
      }),
    runs(600_000, 1_800_000)
  )

  it.effect("one at a time holds the run when nobody takes over", () =>
    Effect.gen(function*() {
      for (let seed = 0; seed < runs(40, 4_000); seed++) {
        const { deeds } = yield* story(seed, { processes: 3, takeOver: 0 })
        for (const one of deeds.filter(({ exit, kind }) => kind === "acquire" && exit === "done")) {
          const end = deeds.find(({ kind, token }) => (kind === "release" || kind === "remove") && token === one.token)
          for (const other of deeds.filter(({ exit, kind }) => kind === "acquire" && exit === "done")) {
            if (one === other || other.started < one.ended) continue
            assert.isBelow(end?.started ?? Infinity, other.ended, `two hold the run, seed ${seed}`)
          }
        }
        for (const { ended, exit, kind, started } of deeds) {
          if (exit !== "Fenced") continue
          // Given up and followed at once: by then nobody may know any more which of the two came first.
          assert.notStrictEqual(kind, "append", `nobody is fenced, seed ${seed}`)
          assert.isTrue(
            deeds.some((next) =>
              next.kind === "acquire" && next.exit === "done" && next.started < ended && next.ended > started
            ),
            `nobody is fenced, seed ${seed}`
          )
        }
      }
    }), runs(600_000, 1_800_000))
})
