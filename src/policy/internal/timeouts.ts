import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import { millisOf, rounding } from "../../internal/monotonic.ts"

/** One running timeout. */
interface Entry {
  readonly queue: Queue
  readonly deadline: number
  readonly expire: () => void
  previous: Entry | undefined
  next: Entry | undefined
}

/**
 * The running timeouts of one duration on one clock. All are equally long, so they end in the order in which they began:
 * starting and stopping one is a step in a linked list, and one sleep serves all of them.
 */
class Queue {
  private readonly clock: Clock.Clock
  private readonly millis: number
  private head: Entry | undefined
  private tail: Entry | undefined
  private sleeper: Fiber.Fiber<void> | undefined
  private expiring = false
  private stopping = false

  constructor(clock: Clock.Clock, millis: number) {
    this.clock = clock
    this.millis = millis
  }

  start(expire: () => void, scheduler: Scheduler.Scheduler): Entry {
    const entry: Entry = {
      queue: this,
      deadline: millisOf(this.clock) + this.millis,
      expire,
      previous: this.tail,
      next: undefined
    }
    if (this.tail === undefined) this.head = entry
    else this.tail.next = entry
    this.tail = entry
    if (this.sleeper === undefined && !this.expiring) this.sleep(this.millis, scheduler)
    return entry
  }

  stop(entry: Entry, scheduler: Scheduler.Scheduler): void {
    this.unlink(entry)
    if (this.head !== undefined || this.sleeper === undefined || this.stopping) return
    // A sleep that nobody needs keeps the process alive. It ends as soon as the scheduler gets round to it and not at
    // once, because the next call of a busy program would only start it anew.
    this.stopping = true
    scheduler.makeDispatcher().scheduleTask(() => {
      this.stopping = false
      if (this.head !== undefined) return
      this.sleeper?.interruptUnsafe()
      this.sleeper = undefined
    }, 0)
  }

  private unlink(entry: Entry): void {
    if (entry.previous !== undefined) entry.previous.next = entry.next
    else if (this.head === entry) this.head = entry.next
    else return
    if (entry.next !== undefined) entry.next.previous = entry.previous
    else this.tail = entry.previous
    entry.previous = undefined
    entry.next = undefined
  }

  private sleep(millis: number, scheduler: Scheduler.Scheduler): void {
    // Nothing else of the caller's context: one sleep serves many callers, and lives longer than most of them.
    const fork = Effect.runForkWith(Context.make(Scheduler.Scheduler, scheduler))
    // Timers drop the fraction of a millisecond, which would be too early.
    const sleeper = fork(this.clock.sleep(Duration.millis(Math.ceil(millis - rounding))))
    this.sleeper = sleeper
    sleeper.addObserver((exit) => {
      if (this.sleeper !== sleeper) return
      this.sleeper = undefined
      if (Exit.isSuccess(exit)) this.expire(scheduler)
    })
  }

  private expire(scheduler: Scheduler.Scheduler): void {
    this.expiring = true
    const now = millisOf(this.clock)
    for (let entry = this.head; entry !== undefined && entry.deadline - now <= rounding; entry = this.head) {
      this.unlink(entry)
      entry.expire()
    }
    this.expiring = false
    if (this.head !== undefined) this.sleep(Math.max(1, this.head.deadline - now), scheduler)
  }
}

/**
 * Timeouts of one duration, for any number of calls.
 *
 * Effect.timeout races two fibers for every call and starts a timer of its own, which is most of what a guarded call
 * costs. Here a call that ends at once starts no timer, and the others share one.
 *
 * @internal
 */
export class Timeouts {
  readonly millis: number
  private readonly queues = new WeakMap<Clock.Clock, Queue>()
  private lastClock: Clock.Clock | undefined
  private lastQueue: Queue | undefined

  constructor(millis: number) {
    this.millis = millis
  }

  queueOf(clock: Clock.Clock): Queue {
    if (this.lastQueue !== undefined && this.lastClock === clock) return this.lastQueue
    let queue = this.queues.get(clock)
    if (queue === undefined) {
      queue = new Queue(clock, this.millis)
      this.queues.set(clock, queue)
    }
    this.lastClock = clock
    this.lastQueue = queue
    return queue
  }
}

/**
 * What a call that ran out of time ends with. What it achieved all the same is its result, late; what else went wrong
 * while it was stopped is kept.
 */
const late = <A, E, E2>(exit: Exit.Exit<A, E>, error: () => E2): Exit.Exit<A, E | E2> => {
  if (Exit.isSuccess(exit) || !Cause.hasInterrupts(exit.cause)) return exit
  const others = exit.cause.reasons.filter((reason) => !Cause.isInterruptReason(reason))
  return Exit.failCause(Cause.fromReasons<E | E2>([Cause.makeFailReason(error()), ...others]))
}

/**
 * Runs an effect in a fiber of its own and, when its time is over, interrupts it, waits until it has stopped, and fails
 * with the error. Whoever interrupts the caller interrupts the effect, and that is an interruption and no timeout.
 *
 * @internal
 */
export const timed = <A, E, R, E2>(
  self: Effect.Effect<A, E, R>,
  timeouts: Timeouts,
  error: () => E2
): Effect.Effect<A, E | E2, R> =>
  Effect.contextWith((context: Context.Context<R>) =>
    Effect.callback<A, E | E2>((resume) => {
      const child = Effect.runForkWith(context)(self)
      const ended = child.pollUnsafe()
      if (ended !== undefined) return resume(ended)
      const scheduler = Context.get(context, Scheduler.Scheduler)
      const queue = timeouts.queueOf(Context.get(context, Clock.Clock))
      let isLate = false
      const entry = queue.start(() => {
        isLate = true
        child.interruptUnsafe()
      }, scheduler)
      child.addObserver((exit) => {
        queue.stop(entry, scheduler)
        resume(isLate ? late(exit, error) : exit)
      })
      return Fiber.interrupt(child)
    })
  )
