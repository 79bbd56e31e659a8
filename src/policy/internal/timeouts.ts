import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import { millisOf, rounding } from "../../internal/monotonic.ts"

/**
 * After how long a silence is a stall.
 *
 * @internal
 */
export const defaultIdle = "30 seconds"

/**
 * How long signs of life keep a stream from being stalled.
 *
 * @internal
 */
export const defaultMaxSilence = "10 minutes"

/** Timers drop what is less than that. */
const timerStep = 1

/** One running timeout, linked to the ones before and after it while it waits in its queue. */
interface Entry {
  startedAt: number
  deadline: number
  round: number
  previous: Entry | undefined
  next: Entry | undefined
  /** The time is over; or the clock failed with the cause given, and nobody can say any more when it is. */
  readonly expire: (lost: Cause.Cause<never> | undefined) => void
}

/**
 * The running timeouts of one duration, on one clock and one scheduler. All are equally long, so they end in the order
 * in which they began: starting and stopping one is a step in a linked list, and one sleep serves all of them.
 */
class Queue {
  private readonly clock: Clock.Clock
  private readonly millis: number
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private readonly fork: (sleep: Effect.Effect<void>) => Fiber.Fiber<void>
  private head: Entry | undefined
  private tail: Entry | undefined
  private sleeper: Fiber.Fiber<void> | undefined
  /** The deadline that the sleeper sleeps for. */
  private aim = 0
  private round = 0
  /** Somebody else's code runs, and what it starts finds its sleep afterwards. */
  private busy = false
  private stopping = false

  constructor(clock: Clock.Clock, scheduler: Scheduler.Scheduler, millis: number) {
    this.clock = clock
    this.millis = millis
    this.dispatcher = scheduler.makeDispatcher()
    // Nothing else of the caller's context: one sleep serves many callers, and lives longer than most of them.
    this.fork = Effect.runForkWith(Context.make(Scheduler.Scheduler, scheduler))
  }

  now(): number {
    return millisOf(this.clock)
  }

  start(entry: Entry): void {
    const deadline = entry.startedAt + this.millis
    entry.deadline = deadline
    entry.round = this.round
    // Nearly always it is the last. Only what began during the synchronous part of its work comes after it.
    let previous = this.tail
    while (previous !== undefined && previous.deadline > deadline) previous = previous.previous
    const next = previous === undefined ? this.head : previous.next
    entry.previous = previous
    entry.next = next
    if (previous === undefined) this.head = entry
    else previous.next = entry
    if (next === undefined) this.tail = entry
    else next.previous = entry
    if (this.busy || (this.sleeper !== undefined && this.aim - deadline < timerStep)) return
    this.sleep(deadline, deadline - this.now())
  }

  /** Lets a running timeout begin anew, but not end later than `notAfter`; one that has ended stays so. */
  restart(entry: Entry, notAfter: number): void {
    const now = this.now()
    if (!this.unlink(entry)) return
    entry.startedAt = Math.min(now, notAfter - this.millis)
    this.start(entry)
  }

  stop(entry: Entry): void {
    if (this.unlink(entry)) this.restIfIdle()
  }

  private restIfIdle(): void {
    if (this.head !== undefined || this.sleeper === undefined || this.stopping) return
    // A sleep that nobody needs keeps the process alive. It ends as soon as the scheduler gets round to it and not at
    // once, because the next call of a busy program would only start it anew.
    this.stopping = true
    this.dispatcher.scheduleTask(this.rest, 0)
  }

  private readonly rest = (): void => {
    this.stopping = false
    if (this.head === undefined) this.endSleep()
  }

  private unlink(entry: Entry): boolean {
    const { next, previous } = entry
    if (previous !== undefined) previous.next = next
    else if (this.head === entry) this.head = next
    else return false
    if (next !== undefined) next.previous = previous
    else this.tail = previous
    entry.previous = undefined
    entry.next = undefined
    return true
  }

  private sleep(aim: number, millis: number, again = false): void {
    this.endSleep()
    this.aim = aim
    const duration = Duration.millis(Math.max(0, millis))
    this.busy = true
    const sleeper = this.fork(Effect.suspend(() => this.clock.sleep(duration)))
    this.busy = false
    this.sleeper = sleeper
    // The clock may have run others meanwhile, and the last call may have ended.
    this.restIfIdle()
    sleeper.addObserver((exit) => {
      if (this.sleeper !== sleeper) return
      this.sleeper = undefined
      if (Exit.isSuccess(exit)) this.awake(again)
      else this.expire(Infinity, exit.cause)
    })
  }

  private endSleep(): void {
    const sleeper = this.sleeper
    this.sleeper = undefined
    sleeper?.interruptUnsafe()
  }

  private awake(again: boolean): void {
    let now: number
    try {
      now = this.now()
    } catch (thrown) {
      return this.expire(Infinity, Cause.die(thrown))
    }
    if (now < this.aim - rounding) {
      // A timer that drops a fraction comes early by as much.
      if (!again) return this.sleep(this.aim, Math.max(timerStep, this.aim - now), true)
      // The clock's sleep does not keep to its time. The sleep decides, as for everybody else who sleeps.
      now = this.aim
    }
    this.expire(now, undefined)
  }

  /** Ends what is due; all of it, when the clock failed, so that no call stays without its timeout. */
  private expire(now: number, lost: Cause.Cause<never> | undefined): void {
    // What is ended runs on at once, and starts and stops others. Those that it starts are not due.
    this.round++
    this.busy = true
    try {
      let entry = this.head
      while (entry !== undefined && entry.round !== this.round && entry.deadline - now <= rounding) {
        this.unlink(entry)
        entry.expire(lost)
        entry = this.head
      }
    } finally {
      // also when somebody's observer threw: the others are to end all the same
      this.busy = false
      const { head } = this
      if (head !== undefined) this.sleep(head.deadline, lost === undefined ? head.deadline - now : this.millis)
    }
  }
}

/**
 * Timeouts of one duration of more than zero milliseconds, for any number of calls.
 *
 * Effect.timeout races two fibers for every call and starts a timer of its own, which is most of what a guarded call
 * costs, and drops how the call ends that it stops. Here a call that ends at once starts no timer, and the others share
 * one.
 *
 * @internal
 */
export class Timeouts {
  readonly millis: number
  private readonly queues = new WeakMap<Clock.Clock, WeakMap<Scheduler.Scheduler, Queue>>()
  private lastClock: Clock.Clock | undefined
  private lastScheduler: Scheduler.Scheduler | undefined
  private lastQueue: Queue | undefined

  constructor(millis: number) {
    this.millis = millis
  }

  queueIn(context: Context.Context<never>): Queue {
    const clock = Context.get(context, Clock.Clock)
    const scheduler = Context.get(context, Scheduler.Scheduler)
    if (this.lastQueue !== undefined && this.lastClock === clock && this.lastScheduler === scheduler) {
      return this.lastQueue
    }
    let byScheduler = this.queues.get(clock)
    if (byScheduler === undefined) {
      byScheduler = new WeakMap()
      this.queues.set(clock, byScheduler)
    }
    let queue = byScheduler.get(scheduler)
    if (queue === undefined) {
      queue = new Queue(clock, scheduler, this.millis)
      byScheduler.set(scheduler, queue)
    }
    this.lastClock = clock
    this.lastScheduler = scheduler
    this.lastQueue = queue
    return queue
  }
}

const shared = new Map<number, Timeouts>()
const maxShared = 256

/**
 * The {@link Timeouts} of a duration, the same for everybody who asks, so that programs that build their guard anew for
 * every call share the timer, too. Only a cache: of many durations the old ones are forgotten, and end with their calls.
 *
 * @internal
 */
export const timeoutsOf = (millis: number): Timeouts => {
  const known = shared.get(millis)
  if (known !== undefined) return known
  if (shared.size >= maxShared) shared.clear()
  const made = new Timeouts(millis)
  shared.set(millis, made)
  return made
}

/** A call under a timeout. */
class Call<A, E, E2> implements Entry {
  startedAt = 0
  deadline = 0
  round = 0
  previous: Entry | undefined = undefined
  next: Entry | undefined = undefined
  private readonly queue: Queue
  private readonly child: Fiber.Fiber<A, E>
  private readonly resume: (exit: Effect.Effect<A, E | E2>) => void
  private readonly error: (waited: number) => E2
  private readonly announce: ((error: E2) => Effect.Effect<void>) | undefined
  /** Since when nothing has come but signs of life. */
  private since = 0
  private isLate = false
  private lost: Cause.Cause<never> | undefined = undefined

  constructor(
    queue: Queue,
    child: Fiber.Fiber<A, E>,
    resume: (exit: Effect.Effect<A, E | E2>) => void,
    error: (waited: number) => E2,
    announce: ((error: E2) => Effect.Effect<void>) | undefined
  ) {
    this.queue = queue
    this.child = child
    this.resume = resume
    this.error = error
    this.announce = announce
  }

  /** Starts the timeout. What it gives back is to be run when the caller is interrupted. */
  begin(startedAt: number | undefined): Effect.Effect<void> {
    try {
      this.startedAt = startedAt ?? this.queue.now()
      this.since = this.startedAt
      this.queue.start(this)
    } catch (thrown) {
      this.queue.stop(this)
      this.expire(Cause.die(thrown))
    }
    this.child.addObserver((exit) => this.end(exit))
    return Effect.suspend(() => this.cancel())
  }

  /** The call has shown that it is alive; or, where that is enough for so long only, nothing but that. */
  beat(longest: number | undefined): void {
    if (longest !== undefined) return this.queue.restart(this, this.since + longest)
    this.queue.restart(this, Infinity)
    this.since = this.startedAt
  }

  expire(lost: Cause.Cause<never> | undefined): void {
    this.isLate = true
    this.lost = lost
    this.child.interruptUnsafe()
  }

  private end(exit: Exit.Exit<A, E>): void {
    this.queue.stop(this)
    this.resume(!this.isLate || Exit.isSuccess(exit) ? exit : Effect.suspend(() => this.late(exit.cause)))
  }

  private late(cause: Cause.Cause<E>): Effect.Effect<never, E | E2> {
    const others = cause.reasons.filter((reason) => !Cause.isInterruptReason(reason))
    // It failed by itself, where it could not be interrupted, and that says more than the timeout does.
    if (others.some(Cause.isFailReason)) return failWith(others)
    if (this.lost !== undefined) return failWith([...this.lost.reasons, ...others])
    const error = this.error(this.deadline - this.since)
    const failure = failWith<E | E2>([Cause.makeFailReason(error), ...others])
    return this.announce === undefined ? failure : Effect.andThen(this.announce(error), failure)
  }

  /** Stops for a caller who does not want it any more. The defects of its finalizers are his to know. */
  private cancel(): Effect.Effect<void> {
    return Effect.flatMap(Effect.andThen(Fiber.interrupt(this.child), Fiber.await(this.child)), (exit) => {
      const defects = Exit.isSuccess(exit) ? [] : exit.cause.reasons.filter(Cause.isDieReason)
      return defects.length === 0 ? Effect.void : failWith(defects)
    })
  }
}

const failWith = <E>(reasons: ReadonlyArray<Cause.Reason<E>>): Effect.Effect<never, E> =>
  Effect.failCause(Cause.fromReasons(reasons))

/**
 * What {@link timedIn} may be told besides: when the call began, in milliseconds of the monotonic clock, where somebody
 * has looked already (default: when its work first waits, so that what ends at once reads no clock); what to do when the
 * error is what the caller gets; and who wants to make the time begin anew.
 *
 * @internal
 */
export interface Details<E2> {
  readonly startedAt?: number | undefined
  readonly announce?: ((error: E2) => Effect.Effect<void>) | undefined
  readonly onStart?: ((beat: (longest?: number) => void) => void) | undefined
}

/**
 * Runs an effect in a fiber of its own and, when its time is over, interrupts it, waits until it has stopped, and fails
 * with the error. Whoever interrupts the caller interrupts the effect, and that is an interruption and no timeout.
 *
 * @internal
 */
export const timedIn = <A, E, R, E2>(
  context: Context.Context<R>,
  self: Effect.Effect<A, E, R>,
  timeouts: Timeouts,
  error: (waited: number) => E2,
  details?: Details<E2>
): Effect.Effect<A, E | E2> =>
  Effect.callback<A, E | E2>((resume) => {
    const child = Effect.runForkWith(context)(self)
    const ended = child.pollUnsafe()
    if (ended !== undefined) return resume(ended)
    const call = new Call(timeouts.queueIn(context), child, resume, error, details?.announce)
    details?.onStart?.((longest) => call.beat(longest))
    return call.begin(details?.startedAt)
  })
