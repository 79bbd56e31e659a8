import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Random from "effect/Random"
import * as Fault from "../../Fault.ts"
import { millisIn, rounding } from "../../internal/monotonic.ts"
import * as Telemetry from "../../Telemetry.ts"
import { type Place, Queue } from "./bulkheadQueue.ts"
import { remainingIn } from "./deadline.ts"
import { isAnswered } from "./overloads.ts"
import {
  add,
  type Amounts,
  amountsOf,
  checkedCost,
  type Cost,
  type Counts,
  counts,
  type Dimension,
  nothing,
  saneCost,
  usageIn
} from "./quotaAmounts.ts"
import { type Admission, type Ahead, Governor } from "./quotaGovernor.ts"
import {
  type CallerOptions,
  type Priority,
  type QuotaOptions,
  type ServiceOptions,
  ServiceSettings,
  type Settings
} from "./quotaSettings.ts"
import { type Observation, observationIn, readObservation } from "./quotaTold.ts"

/** What the calls around are thought to cost that do not say it themselves. */
export const CurrentCost: Context.Reference<Cost | (() => Cost) | undefined> = Context.Reference(
  "effect-resilience/policy/Quota/CurrentCost",
  { defaultValue: (): Cost | (() => Cost) | undefined => undefined }
)

/** Who goes first, before them those who had been let through and were held back by something else. */
type Rank = Priority | "returning"

/** What one call brings. */
export interface CallOptions<A = unknown> extends CallerOptions {
  readonly usage?: ((result: A) => Cost | undefined) | undefined
  readonly observe?: ((exit: Exit.Exit<A, unknown>) => Observation | undefined) | undefined
}

/** @internal */
export interface Refusal {
  readonly _tag: "Refusal"
  readonly reason: "TooLarge" | "QueueFull" | "WaitTooLong"
  readonly dimension: Dimension | undefined
  readonly needed: number | undefined
  readonly available: number | undefined
  readonly retryAfterMillis: number | undefined
}

/** One key. The engine alone changes it. */
interface Share {
  readonly key: string
  readonly governor: Governor
  settings: Settings
  readonly queues: { readonly [R in Rank]: Queue<Waiter> }
  /** What those who wait will cost. */
  readonly queued: { readonly [R in Rank]: Counts }
  /** The options of the first caller who gave any, or those seen last that say the same. */
  options: QuotaOptions | undefined
  /** Whether the service has options of its own for it, and those of callers do nothing. */
  readonly isNamed: boolean
  /** Whether options of callers need no look any more: their difference has been told. */
  isFixed: boolean
  /** What is to be told of options that do nothing. */
  warning: string | undefined
  running: number
  /** How many of those that run were let through and have not begun yet. */
  starting: number
  alarm: { readonly at: number; readonly stop: () => void } | undefined
  isPumping: boolean
  pumpAgain: boolean
  lastUsed: number
}

/**
 * Leave to send one call. Whoever has it ends it once; twice does nothing.
 *
 * @internal
 */
export class Pass {
  readonly share: Share
  readonly admission: Admission
  isOver = false
  /** Whether the call has begun: one that has not costs nothing. */
  isSent = false
  /** What it has cost, when it is over. */
  used: Amounts | undefined
  /** For how long its refusal has closed the key. */
  closedFor: number | undefined
  /** How long its call has waited so far, all waits of the quota together, and not what guards inside held it back. */
  waitedMillis: number
  constructor(share: Share, admission: Admission, waitedMillis: number) {
    this.share = share
    this.admission = admission
    this.waitedMillis = waitedMillis
  }
}

/**
 * A call that waits for its share. It is told once, either that it may go, with its cost reserved from that step on, or
 * that it is refused.
 *
 * @internal
 */
export class Waiter {
  readonly _tag = "Waiter"
  readonly share: Share
  readonly cost: Amounts
  readonly priority: Priority
  readonly since: number
  readonly context: Context.Context<never>
  /** How long it had waited before, when it was let through and held back by something else. */
  waitedBefore = 0
  /** Whether it could not go when it came. */
  hadToWait = false
  isStarting = false
  rank: Rank
  outcome: Pass | Refusal | undefined
  place: Place<Waiter> | undefined
  stopTimer: (() => void) | undefined
  private told: ((outcome: Pass | Refusal) => void) | undefined

  constructor(share: Share, cost: Amounts, priority: Priority, since: number, context: Context.Context<never>) {
    this.share = share
    this.cost = cost
    this.priority = priority
    this.rank = priority
    this.since = since
    this.context = context
  }

  isWaiting(): boolean {
    return this.place?.queue !== undefined
  }

  /** The engine decides before anybody listens, when the fiber yields in between. */
  onEnd(told: (outcome: Pass | Refusal) => void): void {
    if (this.outcome === undefined) this.told = told
    else told(this.outcome)
  }

  end(): void {
    this.stopTimer?.()
    if (this.outcome !== undefined) this.told?.(this.outcome)
  }
}

/** How a call that was sent has ended. */
export type Ending =
  | { readonly _tag: "Used"; readonly usage: Cost | undefined }
  /** Sent, and nobody knows how far it got: the request and its input count. */
  | { readonly _tag: "Broken" }
  | { readonly _tag: "Unsent" }
  /** Refused, and an `AdaptiveLimit` sees to it. */
  | { readonly _tag: "NoRoom" }
  | { readonly _tag: "Throttled" | "Overloaded"; readonly retryAfterMillis: number | undefined }

const strength = { Used: 0, Unsent: 1, Broken: 2, NoRoom: 3, Overloaded: 4, Throttled: 5 } as const

const endingOf = (verdict: Fault.Verdict, error: unknown): Ending => {
  switch (verdict._tag) {
    case "Throttled":
    case "Overloaded": {
      const { retryAfter } = verdict
      const retryAfterMillis = retryAfter === undefined ? undefined : Duration.toMillis(retryAfter)
      if (verdict._tag === "Overloaded" && retryAfter === undefined && isAnswered(error)) return { _tag: "NoRoom" }
      return { _tag: verdict._tag, retryAfterMillis }
    }
    case "Rejected":
      return { _tag: "Unsent" }
    default:
      return { _tag: "Broken" }
  }
}

/** What a failed call counts as: a provider's refusal whatever stands beside it, and as unsent only where all say so. */
const judge = (cause: Cause.Cause<unknown>, context: Context.Context<never>): Ending => {
  let found: Ending | undefined
  for (const reason of cause.reasons) {
    const ending: Ending = Cause.isFailReason(reason)
      ? endingOf(Fault.classifyIn(context, reason.error), reason.error)
      : { _tag: "Broken" }
    if (found === undefined || strength[ending._tag] > strength[found._tag]) found = ending
  }
  return found ?? { _tag: "Broken" }
}

/** What goes wrong while an answer is searched for what it says of limits is not the call's affair. */
const quietly = <A>(read: () => A): A | undefined => {
  try {
    return read()
  } catch {
    return undefined
  }
}

const wallMillis = (context: Context.Context<never>): number =>
  Context.get(context, Clock.Clock).currentTimeMillisUnsafe()

const firstError = (cause: Cause.Cause<unknown>): unknown => cause.reasons.find(Cause.isFailReason)?.error

const observedOf = (
  exit: Exit.Exit<unknown, unknown>,
  options: CallOptions | undefined,
  context: Context.Context<never>
): Observation | undefined => {
  if (options?.observe !== undefined) return options.observe(exit)
  const carrier = Exit.isSuccess(exit) ? exit.value : firstError(exit.cause)
  return quietly(() => observationIn(carrier, wallMillis(context)))
}

/** @internal */
export interface Snapshot {
  readonly key: string
  readonly running: number
  readonly waiting: number
  readonly gatedForMillis: number
  readonly requestsPerMinute: number | undefined
  readonly limits: Partial<Record<Dimension, { limit: number; perMillis: number; burst: number; available: number }>>
}

/**
 * All keys of a quota. Every method is one synchronous step that leaves nobody waiting who could go, and in order.
 *
 * @internal
 */
export class Engine {
  private readonly settings: ServiceSettings
  private readonly sweepEvery: number
  private readonly byKey = new Map<string, Share>()
  private sweptAt = Number.NEGATIVE_INFINITY
  private changes = 0

  constructor(options: ServiceOptions) {
    this.settings = new ServiceSettings(options)
    // Looking through all keys takes a millisecond where there are many of them.
    this.sweepEvery = Math.max(this.settings.idleTimeToLive, 1_000)
  }

  get size(): number {
    return this.byKey.size
  }

  /**
   * Leave to send a call, if it may go at once, nobody is about to begin who came before, and there is nothing to warn of.
   */
  tryTake(
    key: string,
    options: CallOptions | undefined,
    now: number,
    context: Context.Context<never>
  ): Pass | undefined {
    if (now - this.sweptAt >= this.sweepEvery) this.sweep(now)
    const share = this.shareOf(key, options, now)
    if (share.warning !== undefined || share.starting > 0 || waitingIn(share) > 0) return undefined
    const cost = priced(share, options, context)
    if (share.governor.tooLarge(cost) !== undefined) return undefined
    if (share.governor.readyAt(cost, now).at > now + rounding) return undefined
    return this.take(share, cost, now, false, context, 0)
  }

  /** What a call does that may not go at once. */
  wait(
    key: string,
    options: CallOptions | undefined,
    priority: Priority,
    now: number,
    context: Context.Context<never>
  ): Waiter | Refusal {
    const share = this.shareOf(key, options, now)
    const cost = priced(share, options, context)
    const large = share.governor.tooLarge(cost)
    if (large !== undefined) {
      const { capacity, dimension } = large
      const needed = cost[dimension]
      return {
        _tag: "Refusal",
        reason: "TooLarge",
        dimension,
        needed,
        available: capacity,
        retryAfterMillis: undefined
      }
    }
    const ready = share.governor.readyAt(cost, now, this.ahead(share, priority, now))
    const waiter = new Waiter(share, cost, priority, now, context)
    if (ready.at > now + rounding || waitingIn(share) > 0) {
      waiter.hadToWait = true
      if (waitingIn(share) >= share.settings.maxQueue) return this.refusal(share, cost, "QueueFull", ready, now)
      const patience = this.patience(key, options, 0, context)
      if (patience <= 0 || ready.at - now > patience) return this.refusal(share, cost, "WaitTooLong", ready, now)
      this.startTimer(waiter, patience)
    }
    waiter.place = share.queues[priority].push(waiter)
    add(share.queued[priority], cost)
    this.pump(share, now)
    return waiter
  }

  /**
   * What a call was let through with is given back, and taken anew at the time at which it is really sent: what others
   * wait for was not used meanwhile, and is not used twice now. All waits of a call together keep to its `maxWait`.
   */
  takeAgain(
    pass: Pass,
    options: CallOptions | undefined,
    priority: Priority,
    now: number,
    context: Context.Context<never>
  ): Pass | Waiter | Refusal {
    const { admission, share, waitedMillis } = pass
    pass.isOver = true
    share.running--
    share.governor.settle(admission, nothing, now)
    const { cost } = admission
    const { returning } = share.queues
    const ready = share.governor.readyAt(cost, now, returning.size === 0 ? undefined : returningIn(share))
    const isReady = ready.at <= now + rounding && returning.size === 0
    if (isReady && share.starting === 0) {
      return this.take(share, cost, now, waitingIn(share) > 0, context, waitedMillis)
    }
    const waiter = new Waiter(share, cost, priority, now, context)
    waiter.waitedBefore = waitedMillis
    if (!isReady) {
      waiter.hadToWait = true
      const patience = this.patience(share.key, options, waitedMillis, context)
      if (patience <= 0 || ready.at - now > patience) {
        const refusal = this.refusal(share, cost, "WaitTooLong", ready, now)
        this.pump(share, now)
        return refusal
      }
      this.startTimer(waiter, patience)
    }
    waiter.rank = "returning"
    waiter.place = returning.push(waiter)
    add(share.queued.returning, cost)
    this.pump(share, now)
    return waiter
  }

  /** How much longer a call waits, by its own word and by the deadline around it. */
  patience(
    key: string,
    options: CallOptions | undefined,
    waitedMillis: number,
    context: Context.Context<never>
  ): number {
    return Math.min(this.settings.maxWait(key, options) - waitedMillis, remainingIn(context) - rounding)
  }

  /** What callers of the key have to be told, once. */
  takeWarning(key: string): string | undefined {
    const share = this.byKey.get(key)
    const warning = share?.warning
    if (share !== undefined) share.warning = undefined
    return warning
  }

  /** Who was let through begins. */
  begin(waiter: Waiter): void {
    if (waiter.isStarting) waiter.share.starting--
    waiter.isStarting = false
  }

  /** Ends a call that never began: whatever it holds, a place in the queue or a reserved cost, is free at once. */
  leave(waiter: Waiter, now: number): void {
    this.begin(waiter)
    if (waiter.outcome instanceof Pass) {
      this.end(waiter.outcome, { _tag: "Unsent" }, undefined, now, waiter.context)
      return
    }
    this.dequeue(waiter)
    waiter.stopTimer?.()
    this.pump(waiter.share, now)
  }

  /** Ends a call that was sent. Throws what functions of the user's throw, the balance settled. */
  conclude(
    pass: Pass,
    exit: Exit.Exit<unknown, unknown>,
    options: CallOptions | undefined,
    now: number,
    context: Context.Context<never>
  ): Effect.Effect<void> | undefined {
    if (pass.isOver) return undefined
    if (!pass.isSent) return this.end(pass, { _tag: "Unsent" }, undefined, now, context)
    let ending: Ending = { _tag: "Broken" }
    let observation: Observation | undefined
    let rest: Effect.Effect<void> | undefined
    try {
      ending = Exit.isSuccess(exit) ? { _tag: "Used", usage: undefined } : judge(exit.cause, context)
      observation = observedOf(exit, options, context)
      if (Exit.isSuccess(exit)) {
        const { value } = exit
        const usage = options?.usage === undefined ? quietly(() => usageIn(value)) : options.usage(value)
        ending = { _tag: "Used", usage }
      }
    } finally {
      // Also where a function of the user's throws: the call dies of it, and the balance is right all the same.
      rest = this.end(pass, ending, observation, now, context)
    }
    return rest
  }

  /** Settles what a call reserved and tells the key what it has found out. */
  end(
    pass: Pass,
    ending: Ending,
    observation: Observation | undefined,
    now: number,
    context: Context.Context<never>
  ): Effect.Effect<void> | undefined {
    if (pass.isOver) return undefined
    pass.isOver = true
    const { admission, share } = pass
    const { governor } = share
    share.running--
    share.lastUsed = now
    this.changes++
    let rest: Effect.Effect<void> | undefined
    switch (ending._tag) {
      case "Used":
        pass.used = ending.usage === undefined
          ? admission.cost
          : amountsOf(saneCost(ending.usage), admission.cost, share.settings.countCachedInput)
        governor.answered(ending.usage === undefined ? undefined : pass.used, now)
        break
      case "Broken":
        pass.used = { ...admission.cost, outputTokens: 0, tokens: admission.cost.inputTokens }
        break
      default:
        pass.used = nothing
    }
    governor.settle(admission, pass.used, now)
    if (observation !== undefined) this.read(share, admission, observation, now, context)
    if (ending._tag === "Throttled" || ending._tag === "Overloaded") {
      rest = this.refused(share, admission, ending._tag, ending.retryAfterMillis, now, context)
      const { gatedUntil } = governor
      if (governor.isGatedBy(admission)) pass.closedFor = gatedUntil - now
    }
    this.pump(share, now)
    return rest
  }

  /** Whether nothing starts now: the key is closed, or others have closed it for so long. */
  isClosed({ share }: Pass, others: number, now: number, context: Context.Context<never>): boolean {
    const { governor } = share
    if (others > 0) {
      governor.close(others, now, randomIn(context))
      this.pump(share, now)
    }
    return governor.gatedUntil > now + rounding
  }

  /**
   * A call waits for what others have taken, and whatever comes after it here waits as long. Gives back how it ends,
   * sent or not.
   */
  hold({ share }: Pass, until: number, now: number): (now: number) => void {
    const release = share.governor.delay(until)
    this.pump(share, now)
    return (now) => {
      release()
      this.pump(share, now)
    }
  }

  /** What is heard of a key apart from how its calls end. */
  observe(
    key: string,
    pass: Pass | undefined,
    observation: Observation,
    now: number,
    context: Context.Context<never>
  ): Effect.Effect<void> | undefined {
    const share = pass?.share ?? this.shareOf(key, undefined, now)
    this.read(share, pass?.admission, observation, now, context)
    const rest = pass !== undefined || observation.retryAfter === undefined
      ? undefined
      : this.refused(share, undefined, "Throttled", millisOf(observation.retryAfter), now, context)
    this.pump(share, now)
    return rest
  }

  snapshot(key: string, now: number): Snapshot {
    return snapshot(this.byKey.get(key) ?? this.makeShare(key, undefined, now), now)
  }

  snapshots(now: number): ReadonlyArray<Snapshot> {
    this.sweep(now)
    return Array.from(this.byKey.values(), (share) => snapshot(share, now))
  }

  private take(
    share: Share,
    cost: Amounts,
    now: number,
    hadToWait: boolean,
    context: Context.Context<never>,
    waitedMillis: number
  ): Pass {
    share.running++
    share.lastUsed = now
    return new Pass(share, share.governor.take(cost, now, hadToWait, randomIn(context)), waitedMillis)
  }

  private read(
    share: Share,
    admission: Admission | undefined,
    observation: Observation,
    now: number,
    context: Context.Context<never>
  ): void {
    const told = quietly(() => readObservation(observation, wallMillis(context)))
    if (told !== undefined) share.governor.observe(admission, told, now)
  }

  private refused(
    share: Share,
    admission: Admission | undefined,
    verdict: "Throttled" | "Overloaded",
    retryAfterMillis: number | undefined,
    now: number,
    context: Context.Context<never>
  ): Effect.Effect<void> | undefined {
    const refused = { isOverload: verdict === "Overloaded", retryAfterMillis }
    const forMillis = share.governor.refuse(admission, refused, now, () => randomIn(context))
    if (forMillis === undefined) return undefined
    const { key } = share
    const heard = Telemetry.emitIn(context, () => ({ _tag: "QuotaGated", key, verdict, forMillis }))
    return heard === Effect.void ? undefined : heard
  }

  private shareOf(key: string, options: QuotaOptions | undefined, now: number): Share {
    const known = this.byKey.get(key)
    if (known !== undefined) {
      if (options !== known.options && options !== undefined && !known.isFixed) this.meet(known, options)
      return known
    }
    this.makeRoom(now)
    const share = this.makeShare(key, options, now)
    this.byKey.set(key, share)
    if (options !== undefined && share.isNamed) this.meet(share, options)
    return share
  }

  private makeShare(key: string, options: QuotaOptions | undefined, now: number): Share {
    const settings = this.settings.of(key, options)
    return {
      key,
      governor: new Governor(settings.limits, settings.maxGate, now),
      settings,
      queues: { returning: new Queue(), interactive: new Queue(), batch: new Queue() },
      queued: { returning: counts(0), interactive: counts(0), batch: counts(0) },
      options: options !== undefined && this.settings.concernsKey(options) ? options : undefined,
      isNamed: this.settings.isNamed(key),
      isFixed: false,
      warning: undefined,
      running: 0,
      starting: 0,
      alarm: undefined,
      isPumping: false,
      pumpAgain: false,
      lastUsed: now
    }
  }

  /** The first caller decides. Another one, who would decide otherwise, is told once for each key. */
  private meet(share: Share, options: QuotaOptions): void {
    if (share.isNamed) return this.lose(share, options)
    if (!this.settings.concernsKey(options)) return
    const differing = this.settings.differences(options, share.settings)
    if (differing.length > 0) {
      share.isFixed = true
      share.warning = `Quota "${share.key}" keeps the options of its first caller; those of another one differ in ` +
        `${differing.join(", ")} and do nothing: configure the key in the layer ("keys"), or use another key`
    } else share.options = options
  }

  /** A limit that is set in the program and not by name in the layer is not kept, and that is told once for each key. */
  private lose(share: Share, options: QuotaOptions): void {
    share.options = options
    const lost = this.settings.lost(options, share.settings)
    if (lost.length === 0) return
    share.isFixed = true
    share.warning = `Quota "${share.key}" is configured by name in the layer ("keys"), without a limit on ` +
      `${lost.join(", ")}; that of a caller does nothing: name it in the layer, too`
  }

  /** What goes before a call that comes now. */
  private ahead(share: Share, priority: Priority, now: number): Ahead | undefined {
    const { queued, queues, settings } = share
    if (waitingIn(share) === 0) return undefined
    const sum = { ...queued.interactive }
    add(sum, queued.returning)
    if (priority === "batch") add(sum, queued.batch)
    else {
      for (const { cost } of agedIn(share, now)) add(sum, cost)
    }
    const batch = priority === "batch" ? queues.batch : agedIn(share, now)
    return { sum, costs: inOrder(queues.returning, queues.interactive, batch, settings.ageAfter) }
  }

  /** Interactive calls first, in the order in which they came; a batch call goes among them as if it had come later. */
  private next({ queues: { batch, interactive, returning }, settings }: Share): Waiter | undefined {
    if (returning.first !== undefined) return returning.first
    const one = interactive.first
    const other = batch.first
    if (one === undefined || other === undefined) return one ?? other
    return other.since + settings.ageAfter < one.since ? other : one
  }

  /**
   * Lets through who may go, and sets the alarm for the next one. Whoever is told here, or whose timer is stopped, may be
   * interrupted by that and come back in the middle of it: that is left to the round under way.
   */
  private pump(share: Share, now: number): void {
    if (share.isPumping) {
      share.pumpAgain = true
      return
    }
    share.isPumping = true
    do {
      share.pumpAgain = false
      this.pumpOnce(share, now)
    } while (share.pumpAgain)
    share.isPumping = false
  }

  private pumpOnce(share: Share, now: number): void {
    for (let waiter = this.next(share); waiter !== undefined; waiter = this.next(share)) {
      const { at } = share.governor.readyAt(waiter.cost, now)
      if (at > now + rounding) return this.setAlarm(share, at, now, waiter.context)
      this.dequeue(waiter)
      waiter.isStarting = true
      share.starting++
      const { context, cost, hadToWait, since, waitedBefore } = waiter
      waiter.outcome = this.take(share, cost, now, hadToWait, context, waitedBefore + now - since)
      waiter.end()
    }
    this.stopAlarm(share)
  }

  private setAlarm(share: Share, at: number, now: number, context: Context.Context<never>): void {
    if (share.alarm !== undefined && Math.abs(share.alarm.at - at) <= rounding) return
    this.stopAlarm(share)
    // A fiber of the next caller's clock and scheduler.
    const fiber = Effect.runForkWith(context)(Effect.sleep(at - now))
    const alarm = { at, stop: () => fiber.interruptUnsafe() }
    share.alarm = alarm
    fiber.addObserver(() => {
      if (share.alarm !== alarm) return
      share.alarm = undefined
      this.pump(share, millisIn(context))
    })
  }

  private stopAlarm(share: Share): void {
    const { alarm } = share
    share.alarm = undefined
    alarm?.stop()
  }

  private startTimer(waiter: Waiter, millis: number): void {
    const timer = Effect.runForkWith(waiter.context)(Effect.sleep(millis))
    waiter.stopTimer = () => timer.interruptUnsafe()
    timer.addObserver(() => {
      if (!waiter.isWaiting()) return
      const { context, cost, share } = waiter
      const now = millisIn(context)
      // One that may go at this very moment goes, whichever timer is first.
      this.pump(share, now)
      if (!waiter.isWaiting()) return
      this.dequeue(waiter)
      waiter.outcome = this.refusal(share, cost, "WaitTooLong", share.governor.readyAt(cost, now), now)
      this.pump(share, now)
      waiter.end()
    })
  }

  private dequeue({ cost, place, rank, share }: Waiter): void {
    if (place?.queue === undefined) return
    const queue = share.queues[rank]
    queue.remove(place)
    // Sums of fractions miss by a little, and an empty queue costs nothing.
    if (queue.size === 0) Object.assign(share.queued[rank], nothing)
    else add(share.queued[rank], cost, -1)
  }

  private refusal(
    share: Share,
    cost: Amounts,
    reason: Refusal["reason"],
    ready: { readonly at: number; readonly dimension: Dimension | undefined },
    now: number
  ): Refusal {
    const { dimension } = ready
    const available = dimension === undefined ? undefined : share.governor.limitOf(dimension, now)?.available
    const needed = dimension === undefined ? undefined : cost[dimension]
    return { _tag: "Refusal", reason, dimension, needed, available, retryAfterMillis: ready.at - now }
  }

  /** Whether a new share in its place would let through as much. */
  private isForgettable(share: Share, now: number): boolean {
    return share.running === 0 && waitingIn(share) === 0 && share.governor.isFresh(now)
  }

  private sweep(now: number): void {
    this.sweptAt = now
    const { idleTimeToLive } = this.settings
    for (const [key, share] of this.byKey) {
      if (now - share.lastUsed >= idleTimeToLive && this.isForgettable(share, now)) this.byKey.delete(key)
    }
  }

  private makeRoom(now: number): void {
    const { maxKeys } = this.settings
    this.changes++
    // What a look through all keys costs is shared by a tenth as many changes.
    if (this.byKey.size < maxKeys || this.changes < this.byKey.size / 10) return
    this.changes = 0
    const unused = Array.from(this.byKey.values()).filter((share) => this.isForgettable(share, now))
    unused.sort((a, b) => a.lastUsed - b.lastUsed)
    const surplus = this.byKey.size - maxKeys + Math.max(1, Math.floor(maxKeys / 10))
    for (const share of unused.slice(0, surplus)) this.byKey.delete(share.key)
  }
}

const waitingIn = ({ queues }: Share): number => queues.returning.size + queues.interactive.size + queues.batch.size

const returningIn = ({ queued, queues }: Share): Ahead => ({
  sum: queued.returning,
  costs: inOrder(queues.returning, [], [], 0)
})

/** The batch calls that go before an interactive one that comes now. */
function* agedIn({ queues, settings }: Share, now: number): Iterable<Waiter> {
  for (const waiter of queues.batch) {
    if (waiter.since + settings.ageAfter > now) return
    yield waiter
  }
}

/** What waits, in the order in which it is sent. */
function* inOrder(
  returning: Iterable<Waiter>,
  interactive: Iterable<Waiter>,
  batch: Iterable<Waiter>,
  ageAfter: number
): Iterable<Amounts> {
  for (const { cost } of returning) yield cost
  const others = batch[Symbol.iterator]()
  let other = others.next()
  for (const one of interactive) {
    for (; other.done !== true && other.value.since + ageAfter < one.since; other = others.next()) {
      yield other.value.cost
    }
    yield one.cost
  }
  for (; other.done !== true; other = others.next()) yield other.value.cost
}

const noCost: Cost = {}

const priced = (
  { governor, settings }: Share,
  options: CallOptions | undefined,
  context: Context.Context<never>
): Amounts => {
  const cost = options?.cost ?? Context.get(context, CurrentCost)
  const given = cost === undefined ? noCost : checkedCost(typeof cost === "function" ? cost() : cost)
  return governor.priced(given, settings.countCachedInput)
}

const randomIn = (context: Context.Context<never>): number => Context.get(context, Random.Random).nextDoubleUnsafe()

const millisOf = (duration: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(duration))

const snapshot = (share: Share, now: number): Snapshot => {
  const { governor, key } = share
  // Who waits for what other processes have taken has not been sent.
  const delayed = governor.delayedCalls
  const limits: Snapshot["limits"] = {}
  for (const dimension of ["requests", "inputTokens", "outputTokens", "tokens"] as const) {
    const found = governor.limitOf(dimension, now)
    if (found !== undefined) limits[dimension] = { ...found.limit, available: found.available }
  }
  const rate = governor.requestsPerMinute
  return {
    key,
    running: share.running - delayed,
    waiting: waitingIn(share) + delayed,
    gatedForMillis: Math.max(0, governor.gatedUntil - now),
    requestsPerMinute: rate < Infinity ? rate : undefined,
    limits
  }
}
