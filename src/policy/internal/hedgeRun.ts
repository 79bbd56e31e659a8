import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fault from "../../Fault.ts"
import * as logged from "../../internal/logged.ts"
import { millisOf, rounding } from "../../internal/monotonic.ts"
import * as Telemetry from "../../Telemetry.ts"
import { remainingIn } from "./deadline.ts"
import { onlyFailure } from "./failure.ts"
import { Timeouts } from "./timeouts.ts"

/** @internal */
export const CurrentAttempt: Context.Reference<number> = Context.Reference(
  "effect-resilience/policy/Hedge/CurrentAttempt",
  { defaultValue: () => 1 }
)

/** What was paid for an attempt, by a budget that is not of this process. */
interface Withdrawal {
  readonly giveBack: Effect.Effect<void>
}

/** @internal */
export interface Setup {
  readonly name: string
  readonly maxAttempts: number
  /** After how many milliseconds the next attempt starts; `undefined` as long as that is not known. */
  readonly delay: number | undefined
  /** The shared timers of that delay. */
  readonly timeouts: Timeouts | undefined
  /** Pays for one more attempt: says whether there was enough, or how to ask. */
  readonly pay: ((now: number) => boolean | Effect.Effect<Withdrawal | undefined>) | undefined
  /** Is told how many milliseconds an attempt took, or at least took. */
  readonly learn: ((millis: number, now: number) => Effect.Effect<void> | undefined) | undefined
}

interface Attempt {
  readonly number: number
  readonly startedAt: number
  fiber: Stoppable | undefined
}

interface Stoppable {
  readonly interruptUnsafe: (fiberId?: number) => void
}

/** The time until the next attempt, as an entry of a queue of timers. */
class Timer {
  deadline = 0
  round = 0
  previous: Timer | undefined = undefined
  next: Timer | undefined = undefined
  startedAt: number
  readonly expire: (lost: Cause.Cause<never> | undefined) => void
  private readonly queue: ReturnType<Timeouts["queueIn"]>

  constructor(timeouts: Timeouts, at: number, context: Context.Context<never>, expire: Timer["expire"]) {
    this.startedAt = at - timeouts.millis
    this.queue = timeouts.queueIn(context)
    this.expire = expire
  }

  start(): void {
    this.queue.start(this)
  }

  stop(): void {
    this.queue.stop(this)
  }
}

type Skipped = Extract<Telemetry.Event, { readonly _tag: "HedgeSkipped" }>["reason"]

/**
 * One hedged call. Everything it decides is a synchronous step: an attempt has ended, the delay is over, the caller was
 * interrupted. A step may be entered from within another, because starting or stopping a fiber runs it, and it may end
 * others: so a step changes the state first, and looks at it again afterwards.
 */
class Hedging<A, E, R> {
  private readonly self: Effect.Effect<A, E, R>
  private readonly setup: Setup
  private readonly context: Context.Context<R>
  private readonly clock: Clock.Clock
  private readonly startedAt: number

  private started = 0
  private running: ReadonlyArray<Attempt> = []
  private first: Exit.Exit<A, E> | undefined
  /** Starts no more, whatever comes. */
  private closed = false
  /** Somebody asked us to come back no earlier than that. */
  private notBefore = Number.NEGATIVE_INFINITY
  /** When the latest attempt will be slow. */
  private slowAt = Infinity
  private timer: Timer | undefined
  /** A budget that is not of this process is being asked. */
  private asking = false
  private skipped: Skipped | undefined

  /** The result is known, or nobody waits for it any more: all that is left is to see everything stop. */
  private stopping = false
  private result: Exit.Exit<A, E> | undefined
  private winner: number | undefined
  private onStopped: (() => void) | undefined
  /** What attempts died of while they were stopped. */
  private defects: ReadonlyArray<Cause.Die> = []
  /** What is to be done before the result is seen: telling of a listener that threw, and of attempts that died. */
  private leftovers: ReadonlyArray<Effect.Effect<void>> = []

  constructor(self: Effect.Effect<A, E, R>, setup: Setup, context: Context.Context<R>) {
    this.self = self
    this.setup = setup
    this.context = Context.add(context, Fault.Idempotent, true)
    this.clock = Context.get(context, Clock.Clock)
    this.startedAt = millisOf(this.clock)
  }

  /** Starts the first attempt. The result comes when all attempts have stopped, which may be at once. */
  begin(resume: (result: Effect.Effect<A, E>) => void): void {
    this.onStopped = () => {
      if (this.result !== undefined) resume(this.leave(this.result))
    }
    this.step(() => this.start(this.startedAt))
  }

  /** Stops all attempts and waits for them. */
  cancel(fiberId: number | undefined): Effect.Effect<void> {
    if (!this.stopping) {
      this.stop()
      this.interruptAll(fiberId)
    }
    this.winner = undefined
    return Effect.andThen(
      Effect.callback<void>((resume) => {
        if (this.isStopped()) return resume(Effect.void)
        this.onStopped = () => resume(Effect.void)
      }),
      Effect.suspend(() => this.leave(Exit.void))
    )
  }

  private start(now: number): void {
    const attempt: Attempt = { number: ++this.started, startedAt: now, fiber: undefined }
    this.slowAt = now + (this.setup.delay ?? Infinity)
    this.running = [...this.running, attempt]
    if (attempt.number > 1) {
      const { number } = attempt
      this.tell(() => ({
        _tag: "HedgeStarted",
        policy: this.setup.name,
        attempt: number,
        afterMillis: now - this.startedAt
      }))
      if (this.stopping) {
        this.running = this.running.filter((other) => other !== attempt)
        return this.stopped()
      }
    }
    const fiber = Effect.runForkWith(Context.add(this.context, CurrentAttempt, attempt.number))(this.self)
    attempt.fiber = fiber
    fiber.addObserver((exit) => this.ended(attempt, exit))
    if (fiber.pollUnsafe() !== undefined) return
    if (this.stopping) fiber.interruptUnsafe()
    else this.plan(now)
  }

  /** What throws in here is the user's classifier or the clock, and the call ends of it rather than never. */
  private step(decide: () => void): void {
    try {
      decide()
    } catch (thrown) {
      if (this.stopping) throw thrown
      this.end(Exit.die(thrown), undefined)
    }
  }

  private ended(attempt: Attempt, exit: Exit.Exit<A, E>): void {
    this.running = this.running.filter((other) => other !== attempt)
    if (!this.stopping) return this.step(() => this.weigh(attempt, exit))
    if (Exit.isFailure(exit)) this.defects = [...this.defects, ...exit.cause.reasons.filter(Cause.isDieReason)]
    this.stopped()
  }

  private weigh(attempt: Attempt, exit: Exit.Exit<A, E>): void {
    const now = millisOf(this.clock)
    const lasted = now - attempt.startedAt
    if (attempt.number === 1) this.first = exit
    if (Exit.isSuccess(exit)) {
      this.learn(lasted, now)
      return this.decide(exit, attempt.number)
    }
    const failure = onlyFailure(exit.cause)
    if (failure === undefined) return this.decide(exit, undefined)
    this.judge(Fault.classifyIn(this.context, failure.error), lasted, now)
    this.next(now)
  }

  private judge(verdict: Fault.Verdict, lasted: number, now: number): void {
    if (!Fault.isRetryable(verdict)) this.closed = true
    if (verdict._tag === "TimedOut") this.learnAtLeast(lasted, now)
    const asked = Fault.retryAfter(verdict)
    if (asked !== undefined) this.notBefore = Math.max(this.notBefore, now + Duration.toMillis(asked))
  }

  /** An attempt has failed, and the next starts at once if it may. */
  private next(now: number): void {
    this.stopTimer()
    if (this.asking) return
    if (this.closed || this.started >= this.setup.maxAttempts) return this.settle()
    if (this.notBefore - now <= rounding) return this.tryStart(now)
    // Only beside an attempt that is running: what nobody waits for is the business of `Retry`.
    if (this.running.length > 0) this.arm(Math.max(this.slowAt, this.notBefore), now)
    this.settle()
  }

  /** An attempt is under way, and the next starts when it has become slow. */
  private plan(startedAt: number): void {
    if (this.closed || this.started >= this.setup.maxAttempts) return
    const { delay } = this.setup
    if (delay === undefined) return this.skip("TooFewSamples")
    if (delay <= rounding) this.tryStart(startedAt)
    else this.arm(startedAt + delay, startedAt)
  }

  private arm(at: number, now: number): void {
    if (at === Infinity) return
    if (at - now >= remainingIn(this.context) - rounding) return this.skip("Deadline")
    const { timeouts } = this.setup
    // A delay of its own is a timer of its own.
    const own = timeouts === undefined || at - now > timeouts.millis + rounding
    const timer = new Timer(own ? new Timeouts(at - now) : timeouts, at, this.context, (lost) => {
      this.stopTimer()
      if (lost === undefined) this.step(() => this.tryStart(millisOf(this.clock)))
      else this.end(Exit.failCause(lost), undefined)
    })
    this.timer = timer
    timer.start()
  }

  private stopTimer(): void {
    this.timer?.stop()
    this.timer = undefined
  }

  private tryStart(now: number): void {
    if (remainingIn(this.context) <= rounding) return this.refuse("Deadline")
    const paid = this.setup.pay?.(now) ?? true
    if (typeof paid !== "boolean") return this.ask(paid)
    if (paid) this.start(now)
    else this.refuse("BudgetEmpty")
  }

  /**
   * Nobody stops the asking, since an interruption could come between what is granted and its record; nor does a result
   * wait for it: what is granted too late is given back.
   */
  private ask(withdraw: Effect.Effect<Withdrawal | undefined>): void {
    this.asking = true
    Effect.runForkWith(this.context)(withdraw).addObserver((exit) => this.answered(exit))
  }

  private answered(exit: Exit.Exit<Withdrawal | undefined>): void {
    this.asking = false
    const withdrawal = Exit.isSuccess(exit) ? exit.value : undefined
    if (!this.stopping) this.step(() => this.paid(exit, withdrawal))
    else if (withdrawal !== undefined) this.giveBack(withdrawal)
  }

  private paid(exit: Exit.Exit<unknown>, withdrawal: Withdrawal | undefined): void {
    if (Exit.isFailure(exit)) return this.decide(Exit.failCause(exit.cause), undefined)
    if (withdrawal === undefined) return this.refuse("BudgetEmpty")
    const now = millisOf(this.clock)
    if (!this.closed && this.notBefore - now <= rounding) return this.start(now)
    // An attempt has failed in the meantime in a way that forbids the next one, or puts it off.
    this.next(now)
    this.giveBack(withdrawal)
  }

  private giveBack(withdrawal: Withdrawal): void {
    const given = this.caught("what was paid for an attempt could not be given back", withdrawal.giveBack)
    Effect.runForkWith(this.context)(given)
  }

  private caught(what: string, self: Effect.Effect<void>): Effect.Effect<void> {
    return Effect.catchCause(
      self,
      (cause) => logged.warning(`Hedge "${this.setup.name}": ${what}; the result stands`, cause)
    )
  }

  private refuse(reason: Skipped): void {
    this.closed = true
    this.skip(reason)
    this.settle()
  }

  /** Nobody runs and nobody will: the call ends as its first attempt did. */
  private settle(): void {
    if (!this.stopping && this.running.length === 0 && this.first !== undefined) {
      this.decide(this.first, undefined)
    }
  }

  private decide(result: Exit.Exit<A, E>, winner: number | undefined): void {
    if (this.running.length > 0) {
      const now = millisOf(this.clock)
      for (const { startedAt } of this.running) this.learnAtLeast(now - startedAt, now)
    }
    this.end(result, winner)
  }

  private end(result: Exit.Exit<A, E>, winner: number | undefined): void {
    this.stop()
    this.result = result
    this.winner = winner
    if (winner !== undefined && winner > 1) {
      this.tell(() => ({ _tag: "HedgeWon", policy: this.setup.name, attempt: winner }))
    }
    this.interruptAll(undefined)
    this.stopped()
  }

  private stop(): void {
    this.stopping = true
    this.stopTimer()
  }

  private interruptAll(fiberId: number | undefined): void {
    for (const { fiber } of this.running) fiber?.interruptUnsafe(fiberId)
  }

  private isStopped(): boolean {
    return this.running.length === 0
  }

  private stopped(): void {
    if (!this.isStopped()) return
    const then = this.onStopped
    this.onStopped = undefined
    then?.()
  }

  private leave<B, E2>(result: Exit.Exit<B, E2>): Effect.Effect<B, E2> {
    if (this.started > 1) {
      this.later(Effect.annotateCurrentSpan({
        "hedge.policy": this.setup.name,
        "hedge.attempts": this.started,
        ...(this.winner === undefined ? undefined : { "hedge.winner": this.winner })
      }))
    }
    const all = this.defects.length === 0 ? result : this.withDefects(result, Cause.fromReasons<never>(this.defects))
    if (this.leftovers.length === 0) return all
    const leftovers = this.leftovers
    this.leftovers = []
    return Effect.andThen(Effect.all(leftovers, { discard: true }), all)
  }

  /** What attempts died of while they were stopped. A bug does not go without a trace; nor does it take the answer away. */
  private withDefects<B, E2>(result: Exit.Exit<B, E2>, defects: Cause.Cause<never>): Exit.Exit<B, E2> {
    if (Exit.isFailure(result)) return Exit.failCause(Cause.combine(result.cause, defects))
    if (this.winner === undefined) return Exit.failCause(defects)
    this.later(
      logged.warning(`Hedge "${this.setup.name}": an attempt died while it was stopped; the result stands`, defects)
    )
    return result
  }

  private later(effect: Effect.Effect<void>): void {
    if (effect !== Effect.void) this.leftovers = [...this.leftovers, effect]
  }

  private tell(event: () => Telemetry.Event): void {
    this.later(Telemetry.emitIn(this.context, event))
  }

  private skip(reason: Skipped): void {
    if (this.skipped === reason) return
    this.skipped = reason
    this.tell(() => ({ _tag: "HedgeSkipped", policy: this.setup.name, reason }))
  }

  private learn(millis: number, now: number): void {
    const learning = this.setup.learn?.(millis, now)
    if (learning === undefined) return
    // Behind the call as well: whoever learns slowly, or not at all, takes no answer away.
    const learned = this.caught("what an attempt took could not be recorded", learning)
    this.later(Effect.asVoid(Effect.forkDetach(learned, { startImmediately: true })))
  }

  /**
   * An attempt was stopped, and would have taken longer. One that was stopped while it was still quick says nothing about
   * slow ones: to count it would shorten the delay, and that would start and stop more of them.
   */
  private learnAtLeast(millis: number, now: number): void {
    if (millis >= (this.setup.delay ?? 0) - rounding) this.learn(millis, now)
  }
}

/**
 * Runs an effect as a hedged call, in fibers of its own.
 *
 * @internal
 */
export const hedged = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  setup: Setup,
  context: Context.Context<R>
): Effect.Effect<A, E> =>
  Effect.callback<A, E>((resume) => {
    const hedging = new Hedging(self, setup, context)
    hedging.begin(resume)
    return Effect.withFiber((fiber) => hedging.cancel(fiber.id))
  })
