/**
 * A store that loses its backend at every single call it makes, before or after the call is carried out, and what a new
 * process finds then.
 */
import { assert } from "@effect/vitest"
import { Duration, Effect, Equal, Option } from "effect"
import type { CheckpointStore } from "effect-resilience"

type Store = CheckpointStore.CheckpointStore["Service"]
type Lease = CheckpointStore.Lease
type Entry = CheckpointStore.Entry

/** What becomes of the call at which the line is cut: it does not arrive, or its answer does not. */
export type Last = "lost" | "unacknowledged"

/** A line to a backend, cut at a call. Nothing gets through from then on. */
export class Line {
  calls = 0
  private readonly cutAt: number
  private readonly last: Last

  constructor(cutAt = Infinity, last: Last = "lost") {
    this.cutAt = cutAt
    this.last = last
  }

  /** `half` is what is carried out of a call that is not one step. */
  through<A, E>(
    call: Effect.Effect<A, E>,
    gone: E,
    half: Effect.Effect<unknown, E> = Effect.void
  ): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      this.calls++
      if (this.calls < this.cutAt) return call
      if (this.calls > this.cutAt) return Effect.fail(gone)
      return Effect.andThen(this.last === "unacknowledged" ? call : half, Effect.fail(gone))
    })
  }

  get isCut(): boolean {
    return this.calls >= this.cutAt
  }
}

const minute = Duration.minutes(1)
const entry = (position: number, body = `"${position}"`): Entry => ({ position, step: `s${position}`, body })

interface Known {
  readonly status: CheckpointStore.RunStatus | undefined
  readonly entries: ReadonlyArray<Entry>
}

const nothing: Known = { status: undefined, entries: [] }

/** What a process does to one run, and what is known of the run after each deed. */
const story = (store: Store) => {
  let lease: Lease = { runId: "r", token: 0, abandoned: 0 }
  const acquire = Effect.map(store.acquire("r", minute), (granted) => {
    lease = granted
  })
  const append = (entries: readonly [Entry, ...ReadonlyArray<Entry>], status?: CheckpointStore.RunStatus) =>
    Effect.suspend(() => store.append(lease, entries, status))
  const first = { status: "running", entries: [entry(0)] } as const
  const second = { status: "running", entries: [entry(0), entry(1)] } as const
  const third = { status: "suspended", entries: [0, 1, 2, 3, 4].map((n) => entry(n)) } as const
  const fourth = { status: "completed", entries: [...third.entries, entry(5)] } as const
  const again = { status: "running", entries: [entry(0, "\"again\"")] } as const
  const deeds: ReadonlyArray<readonly [Effect.Effect<unknown, CheckpointStore.CheckpointStoreError>, Known]> = [
    [acquire, nothing],
    [Effect.suspend(() => store.release(lease)), nothing],
    [acquire, nothing],
    [append([entry(0)], "running"), first],
    [append([entry(1)]), second],
    [Effect.suspend(() => store.renew(lease, minute, { recovered: true })), second],
    [append([entry(2), entry(3), entry(4)], "suspended"), third],
    [Effect.suspend(() => store.release(lease)), third],
    [acquire, third],
    [append([entry(5)], "completed"), fourth],
    [Effect.suspend(() => store.remove(lease)), nothing],
    [acquire, nothing],
    [append([entry(0, "\"again\"")], "running"), again]
  ]
  return deeds
}

const knownOf = Effect.fnUntraced(function*(store: Store) {
  const summary = Option.getOrUndefined(yield* store.get("r"))
  const entries = yield* store.read("r")
  const listed = (yield* store.list()).filter(({ runId }) => runId === "r")
  assert.deepStrictEqual(listed, summary === undefined ? [] : [summary])
  assert.strictEqual(summary?.entries ?? 0, entries.length)
  return { status: summary?.status, entries }
})

/**
 * Cuts the story off at every call. `open` is a process over the backend called `name`, `left` what is stored there when
 * all runs have been removed, apart from what is there in any case.
 */
export const cutEverywhere = Effect.fnUntraced(function*<E, R>(options: {
  readonly open: (name: string, line: Line) => Effect.Effect<Store, E, R>
  readonly elapse: (name: string, duration: Duration.Duration) => Effect.Effect<void, E, R>
  readonly left: (name: string) => Effect.Effect<ReadonlyArray<string>, E, R>
}) {
  const { elapse, left, open } = options
  let cuts = 0
  for (const last of ["lost", "unacknowledged"] as const) {
    for (let cutAt = 1;; cutAt++) {
      const name = `${last}-${cutAt}`
      const line = new Line(cutAt, last)
      let known = nothing
      let may = nothing
      const opened = yield* Effect.exit(open(name, line))
      if (opened._tag === "Success") {
        for (const [deed, after] of story(opened.value)) {
          may = after
          const done = yield* Effect.result(deed)
          if (done._tag === "Failure") {
            assert.strictEqual(done.failure.reason._tag, "Unavailable", name)
            break
          }
          known = after
        }
      }
      if (!line.isCut) {
        assert.isAbove(cutAt, 10, "the story makes calls")
        break
      }
      cuts++
      const store = yield* open(name, new Line())
      const found: Known = yield* knownOf(store)
      assert.isTrue(
        [known, may].some((known) => Equal.equals(known, found)),
        `${name}: found ${JSON.stringify(found)}, known ${JSON.stringify(known)}, or ${JSON.stringify(may)}`
      )
      // Whoever held the run is gone, and the next one goes on from there.
      yield* elapse(name, Duration.minutes(2))
      const lease = yield* store.acquire("r", minute)
      // Half of them write something first, so that what never came to count is written over or not.
      if (cutAt % 2 === 0) {
        const next = entry(found.entries.length, "\"next\"")
        yield* store.append(lease, [next], "running")
        assert.deepStrictEqual(yield* knownOf(store), { status: "running", entries: [...found.entries, next] }, name)
      }
      yield* store.remove(lease)
      yield* elapse(name, Duration.days(2))
      assert.deepStrictEqual(yield* store.list(), [], name)
      assert.deepStrictEqual(yield* left(name), [], name)
    }
  }
  return cuts
})
