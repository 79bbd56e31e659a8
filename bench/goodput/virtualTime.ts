import { Clock, Context, Duration, Effect, type Fiber, Scheduler } from "effect"

/** Something that is to happen at a time, if nobody calls it off before. */
interface Entry {
  readonly at: number
  readonly order: number
  run: (() => void) | undefined
}

const isBefore = (one: Entry, other: Entry): boolean =>
  one.at < other.at || (one.at === other.at && one.order < other.order)

/** A binary heap. What is called off stays in it until its time comes, and is then passed over. */
class Heap {
  private readonly entries: Array<Entry> = []

  push(entry: Entry): void {
    const { entries } = this
    let index = entries.length
    entries.push(entry)
    while (index > 0) {
      const above = (index - 1) >> 1
      const parent = entries[above]
      if (parent === undefined || isBefore(parent, entry)) break
      entries[index] = parent
      index = above
    }
    entries[index] = entry
  }

  /** The first entry that is not called off. */
  peek(): Entry | undefined {
    while (this.entries.length > 0 && this.entries[0]?.run === undefined) this.pop()
    return this.entries[0]
  }

  pop(): Entry | undefined {
    const { entries } = this
    const first = entries[0]
    const last = entries.pop()
    if (first === undefined || last === undefined || first === last) return first
    let index = 0
    for (;;) {
      const left = 2 * index + 1
      const right = left + 1
      const leftEntry = entries[left]
      const rightEntry = entries[right]
      const isRight = rightEntry !== undefined && leftEntry !== undefined && isBefore(rightEntry, leftEntry)
      const child = isRight ? rightEntry : leftEntry
      if (child === undefined || isBefore(last, child)) break
      entries[index] = child
      index = isRight ? right : left
    }
    entries[index] = last
    return first
  }
}

const nanosPerMilli = 1_000_000

/** The wall clock at the start of every simulation, so that a header can tell a date. */
const epochMillis = Date.UTC(2026, 0, 1)

/**
 * Effect's clock and scheduler for simulations: time jumps to the next thing that is to happen, as soon as nobody has
 * anything left to do.
 *
 * `TestClock` keeps its sleeps in a sorted array, waits for the event loop after each of them, and races each wait with a
 * timer of the real clock, which is right for tests and takes ten times as long here. This one runs what is ready in a
 * plain loop, and gives the event loop a turn only where promises take part.
 */
export class VirtualTime implements Clock.Clock {
  private readonly heap = new Heap()
  private ready: Array<(() => void) | undefined> = []
  private order = 0
  private millis = 0
  private nanos: bigint | undefined

  /** Milliseconds since the simulation began. */
  get now(): number {
    return this.millis
  }

  readonly scheduler: Scheduler.Scheduler = new Scheduler.MixedScheduler("async", (task) => {
    const index = this.ready.push(task) - 1
    const { ready } = this
    return () => {
      ready[index] = undefined
    }
  })

  currentTimeMillisUnsafe(): number {
    return epochMillis + Math.floor(this.millis)
  }
  readonly currentTimeMillis = Effect.sync(() => this.currentTimeMillisUnsafe())
  currentTimeNanosUnsafe(): bigint {
    return BigInt(epochMillis) * BigInt(nanosPerMilli) + this.monotonicTimeNanosUnsafe()
  }
  readonly currentTimeNanos = Effect.sync(() => this.currentTimeNanosUnsafe())
  monotonicTimeNanosUnsafe(): bigint {
    this.nanos ??= BigInt(Math.round(this.millis * nanosPerMilli))
    return this.nanos
  }
  readonly monotonicTimeNanos = Effect.sync(() => this.monotonicTimeNanosUnsafe())
  sleep(duration: Duration.Duration): Effect.Effect<void> {
    const millis = Duration.toMillis(duration)
    if (millis <= 0) return Effect.yieldNow
    if (!Number.isFinite(millis)) return Effect.never
    return Effect.callback((resume) => {
      const cancel = this.after(millis, () => resume(Effect.void))
      return Effect.sync(cancel)
    })
  }

  /** Lets something happen after so many milliseconds; what it gives back calls that off. */
  after(millis: number, run: () => void): () => void {
    const entry: Entry = { at: this.millis + Math.max(0, millis), order: this.order++, run }
    this.heap.push(entry)
    return () => {
      entry.run = undefined
    }
  }

  /** Runs an effect on this clock, as a fiber of its own. */
  fork<A, E, R>(effect: Effect.Effect<A, E, R>, context: Context.Context<R>): Fiber.Fiber<A, E> {
    return Effect.runForkWith(
      Context.add(Context.add(context, Clock.Clock, this), Scheduler.Scheduler, this.scheduler)
    )(effect)
  }

  /** Runs what is ready, and what that makes ready. */
  drain(): void {
    while (this.ready.length > 0) {
      const tasks = this.ready
      this.ready = []
      // not for ... of: a task may call off another one
      for (let index = 0; index < tasks.length; index++) tasks[index]?.()
    }
  }

  /** Lets time pass up to an instant, where nothing but effects and callbacks takes part. */
  runUntil(end: number): void {
    for (;;) {
      this.drain()
      const next = this.heap.peek()
      if (next === undefined || next.at > end) break
      this.heap.pop()
      this.happen(next)
    }
    this.moveTo(end)
  }

  /** The same, where promises take part: what waits for one runs in a turn of the event loop. */
  async runPromisesUntil(end: number): Promise<void> {
    for (;;) {
      do {
        this.drain()
        await new Promise((resolve) => setImmediate(resolve))
      } while (this.ready.length > 0)
      const next = this.heap.peek()
      if (next === undefined || next.at > end) break
      this.heap.pop()
      this.happen(next)
    }
    this.moveTo(end)
  }

  private happen(entry: Entry): void {
    this.moveTo(entry.at)
    const { run } = entry
    entry.run = undefined
    run?.()
  }

  private moveTo(millis: number): void {
    if (millis === this.millis) return
    this.millis = millis
    this.nanos = undefined
  }
}
