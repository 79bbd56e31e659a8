import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { millisIn, rounding } from "../../internal/monotonic.ts"
import * as Telemetry from "../../Telemetry.ts"
import { Learner, type Measure } from "./adaptiveLearner.ts"
import { differences, type LimitOptions, type ServiceSettings, type Settings, speaksOfKey } from "./adaptiveSettings.ts"
import { type Place, Queue } from "./bulkheadQueue.ts"
import { remainingIn } from "./deadline.ts"

/** How long a failure that nothing has followed makes careful, in milliseconds. */
const careFor = 10_000

/** How long a provider takes at most to refuse a call for which there is no room, in milliseconds. */
const atOnce = 2_000

/** How many calls are sent at the same time to find out whether others get through. */
const careful = 3

/**
 * How a call ended, as far as the limit is concerned.
 *
 * @internal
 */
export type Outcome =
  | { readonly _tag: "Success" }
  | { readonly _tag: "Overloaded" | "Failed" | "Ignored"; readonly retryAfterMillis: number }

/** @internal */
export interface Refusal {
  readonly reason: "QueueFull" | "WaitTooLong" | "Outage"
  readonly running: number
  readonly waiting: number
  readonly limit: number
  readonly retryAfterMillis: number | undefined
}

/** @internal */
export interface Snapshot {
  readonly key: string
  readonly phase: "Steady" | "Out" | "Recovering"
  readonly limit: number
  readonly running: number
  readonly waiting: number
  readonly givenUp: number
  readonly retryAfterMillis: number | undefined
}

/** What is known of the outage of a key while there is one. */
interface Outage {
  readonly since: number
  probes: number
  interval: number
  probe: Call | undefined
  /** Not before that the next probe starts. */
  nextAt: number
}

/** One key. The engine alone changes it. */
interface Limited {
  readonly key: string
  readonly waiters: Queue<Call>
  settings: Settings
  learner: Learner
  /** The options of the first caller who says anything of the key. */
  options: LimitOptions | undefined
  /** Whether options of callers need no look any more. */
  isFixed: boolean
  warning: string | undefined
  /** Whether it was told that a call waits for those around it. */
  isToldOfNesting: boolean
  /** Everything that runs. */
  running: number
  /** How many of them the limit counts: those that started since the last outage ended. */
  counted: number
  epoch: number
  /** How many calls were handed their slot and have not begun yet. */
  starting: number
  /** How often something was learned, and how many of those that run have started since the last time. */
  mark: number
  fresh: number
  /** Failures with nothing taken between, and when the last one came. */
  failures: number
  failedAt: number
  /** When the last call started. */
  startedAt: number
  /** The latest time that a refusal among them named. */
  retryAt: number
  outage: Outage | undefined
  /** Whether calls start one after the other: from the end of an outage until the limit is used, or nobody waits. */
  isFilling: boolean
  /** Since when the limit is what it was before the outage. */
  filledFrom: number
  /** While it fills: when the next call may start. */
  paceAt: number
  timer: { readonly at: number; readonly stop: () => void } | undefined
  /** How often the timer was looked at. */
  turns: number
  lastUsed: number
}

/**
 * One call from its arrival to its end. It is told once, of its slot or of its refusal.
 *
 * @internal
 */
export class Call {
  readonly engine: Engine
  readonly limited: Limited
  readonly inOutage: "wait" | "fail"
  /** The call around it, of another key. */
  readonly outer: Call | undefined
  readonly since: number
  state: "Waiting" | "Granted" | "Running" | "Refused" | "Ended" = "Waiting"
  hadToWait = false
  refusal: Refusal | undefined
  place: Place<Call> | undefined
  stopTimer: (() => void) | undefined
  // As it was when it got its slot.
  generation = 0
  epoch = 0
  level = 0
  mark = 0
  startedAt = 0
  /** Of a probe: when nobody waits for it any more. */
  giveUpAt = Infinity
  // What it has reported.
  firstTokenAt: number | undefined
  tokens = 0
  isTaken = false
  private told: (() => void) | undefined

  constructor(
    engine: Engine,
    limited: Limited,
    inOutage: "wait" | "fail",
    outer: Call | undefined,
    since: number
  ) {
    this.engine = engine
    this.limited = limited
    this.inOutage = inOutage
    this.outer = outer
    this.since = since
  }

  /** The engine may decide before anybody listens, when the fiber yields in between. */
  onEnd(told: () => void): void {
    if (this.state === "Waiting") this.told = told
    else told()
  }

  tell(): void {
    this.told?.()
  }
}

/**
 * The limits of all keys. Every method is one synchronous step, after which nobody waits who could run.
 *
 * @internal
 */
export class Engine {
  private readonly settings: ServiceSettings
  private readonly byKey = new Map<string, Limited>()
  private events: Array<Telemetry.Event> = []
  private sweptAt = Number.NEGATIVE_INFINITY
  private changes = 0

  constructor(settings: ServiceSettings) {
    this.settings = settings
  }

  get size(): number {
    return this.byKey.size
  }

  /** A call arrives: it has its slot, waits for it, or is refused. */
  enter(
    key: string,
    options: LimitOptions | undefined,
    outer: Call | undefined,
    now: number,
    context: Context.Context<never>
  ): Call {
    if (now - this.sweptAt >= Math.max(this.settings.idleTimeToLive, 1_000)) this.sweep(now)
    const limited = this.limitedOf(key, options, now)
    // These two are the caller's own, whatever the first caller said.
    const own = this.settings.of(key, options)
    const maxWait = options?.maxWait === undefined ? own.maxWait : this.settings.ofCaller(options).maxWait
    const call = new Call(this, limited, options?.inOutage ?? own.inOutage, outer, now)
    const readyAt = this.readyAt(limited, now, context)
    const isReady = readyAt - now <= rounding
    if (isReady && limited.waiters.size === 0 && limited.starting === 0) {
      this.grant(call, now, context)
      call.state = "Running"
      return call
    }
    // Who was handed a slot begins a moment later, and a newcomer waits for that moment, so that nobody overtakes.
    call.hadToWait = !isReady || limited.waiters.size > 0
    if (call.hadToWait) {
      const reason = this.reasonAgainst(call, maxWait, readyAt, now, context)
      if (reason !== undefined) {
        this.refuse(call, reason, now)
        return call
      }
      this.startTimer(call, maxWait, context)
      warnOfNesting(call)
    }
    call.place = limited.waiters.push(call)
    this.pump(limited, now, context)
    return call
  }

  /** Who was handed a slot begins. */
  begin(call: Call, now: number): void {
    if (call.state !== "Granted") return
    call.state = "Running"
    call.limited.starting--
    call.startedAt = now
  }

  /** The first token of an answer has come: the provider has taken the call. */
  firstToken(call: Call, now: number, context: Context.Context<never>): void {
    if (call.state !== "Running" || call.firstTokenAt !== undefined) return
    call.firstTokenAt = now
    const { limited } = call
    if (!this.tookTooLong(call, "firstToken", now - call.startedAt)) this.take(call, now, context)
    this.pump(limited, now, context)
  }

  /** Ends a call: whatever it holds, a place in the queue or a slot, is free at once. */
  end(call: Call, outcome: Outcome, now: number, context: Context.Context<never>): void {
    const { limited, state } = call
    if (state === "Refused" || state === "Ended") return
    // First of all: what is stopped below may run others.
    call.state = "Ended"
    switch (state) {
      case "Waiting": {
        dequeue(call)
        break
      }
      case "Granted": {
        // Nothing was sent. A probe that never began leaves its turn to the next one.
        limited.starting--
        if (limited.outage?.probe === call) {
          limited.outage.probe = undefined
          limited.outage.probes--
          limited.outage.nextAt = now
        }
        leave(call)
        break
      }
      case "Running": {
        this.learn(call, outcome, now, context)
        leave(call)
        break
      }
    }
    limited.lastUsed = now
    this.changes++
    this.pump(limited, now, context)
    call.stopTimer?.()
  }

  /** What callers of the key have to be told, once. */
  takeWarning({ limited }: Call): string | undefined {
    const { warning } = limited
    limited.warning = undefined
    return warning
  }

  /** Tells what has happened since the last time: the effect is what is left to do for it, where there is anything. */
  announce(context: Context.Context<never>): Effect.Effect<void> | undefined {
    if (this.events.length === 0) return undefined
    const { events } = this
    this.events = []
    return events.reduce<Effect.Effect<void>>((told, event) => {
      const heard = Telemetry.emitIn(context, () => event)
      return heard === Effect.void ? told : Effect.andThen(told, heard)
    }, Effect.void)
  }

  snapshot(key: string, now: number): Snapshot {
    const limited = this.byKey.get(key)
    if (limited !== undefined) return this.snapshotOf(limited, now)
    const { initial } = this.settings.of(key, undefined)
    return { key, phase: "Steady", limit: initial, running: 0, waiting: 0, givenUp: 0, retryAfterMillis: undefined }
  }

  snapshots(now: number): ReadonlyArray<Snapshot> {
    this.sweep(now)
    return Array.from(this.byKey.values(), (limited) => this.snapshotOf(limited, now))
  }

  /** When the next call may start: now or earlier, at a time, or only after something else has happened (Infinity). */
  private readyAt(limited: Limited, now: number, context: Context.Context<never>): number {
    const { outage } = limited
    if (outage !== undefined) {
      if (outage.probe === undefined) return outage.nextAt
      const { giveUpAt } = outage.probe
      if (giveUpAt - now > rounding) return giveUpAt
      // It hangs. The next one may start, and what becomes of this one nobody waits for.
      this.probeFailed(limited, outage, outage.probe, now, 0, context)
      return this.readyAt(limited, now, context)
    }
    if (limited.counted >= limited.learner.allowed) {
      if (limited.failures < 2) return Infinity
      const silentTill = Math.max(limited.failedAt, limited.startedAt) + limited.settings.probeTimeout
      if (silentTill - now > rounding) return silentTill
      // Some failed, and what runs since then hangs and leaves no slot to find out more: nothing gets through.
      this.beginOutage(limited, limited.learner.allowed, now, context)
      return this.readyAt(limited, now, context)
    }
    const careTill = limited.failedAt + careFor
    if (limited.failures > 0 && limited.fresh >= careful && careTill > now) return careTill
    return limited.isFilling ? limited.paceAt : now
  }

  private pump(limited: Limited, now: number, context: Context.Context<never>): void {
    let readyAt = Infinity
    while (limited.waiters.size > 0) {
      readyAt = this.readyAt(limited, now, context)
      if (readyAt - now > rounding) break
      const call = limited.waiters.shift()
      if (call === undefined) break
      limited.starting++
      this.grant(call, now, context)
      call.stopTimer?.()
      call.tell()
    }
    const { counted, learner, waiters } = limited
    if (!learner.isRecovering && (waiters.size === 0 || counted >= learner.allowed)) limited.isFilling = false
    this.wakeAt(limited, limited.waiters.size === 0 ? Infinity : readyAt, now, context)
  }

  /** One timer for each key, and only while somebody waits for a time to come. */
  private wakeAt(limited: Limited, at: number, now: number, context: Context.Context<never>): void {
    const turn = ++limited.turns
    const { timer: before } = limited
    if (before?.at === at) return
    // Forgotten before it is stopped, or its end would pass for its time.
    limited.timer = undefined
    before?.stop()
    // What runs while a fiber is stopped or started may have come here itself, and knows better.
    if (at === Infinity || limited.turns !== turn) return
    const fiber = Effect.runForkWith(context)(Effect.sleep(Math.max(1, Math.ceil(at - now))))
    const timer = { at, stop: () => fiber.interruptUnsafe() }
    if (limited.turns !== turn) return timer.stop()
    limited.timer = timer
    fiber.addObserver(() => {
      if (limited.timer !== timer) return
      limited.timer = undefined
      this.pump(limited, Math.max(at, millisIn(context)), context)
      const told = this.announce(context)
      if (told !== undefined) Effect.runForkWith(context)(told)
    })
  }

  private grant(call: Call, now: number, context: Context.Context<never>): void {
    const { limited } = call
    const { learner, outage } = limited
    call.state = "Granted"
    call.generation = learner.generation
    call.epoch = limited.epoch
    call.mark = limited.mark
    call.startedAt = now
    limited.startedAt = now
    limited.running++
    limited.counted++
    limited.fresh++
    call.level = limited.counted
    if (outage !== undefined) {
      outage.probe = call
      outage.probes++
      call.giveUpAt = now + limited.settings.probeTimeout
    } else if (limited.isFilling) {
      if (!learner.isRecovering) limited.filledFrom = Math.min(limited.filledFrom, now)
      // Timers are of whole milliseconds, and what one of them is late is not lost.
      limited.paceAt = Math.max(limited.paceAt, now - 1) + pause(limited, now, context)
    }
  }

  private learn(call: Call, outcome: Outcome, now: number, context: Context.Context<never>): void {
    const { limited } = call
    const { learner, outage } = limited
    if (outcome._tag === "Success") {
      if (!this.timesTooLong(call, now)) this.take(call, now, context)
      return
    }
    if (outage !== undefined) {
      if (outage.probe === call) this.probeEnded(limited, outage, call, outcome, now, context)
      return
    }
    if (outcome._tag === "Ignored" || call.generation !== learner.generation) return
    const before = learner.allowed
    if (limited.failures === 0) learner.remember()
    limited.failures++
    lookAnew(limited)
    limited.failedAt = now
    limited.retryAt = Math.max(limited.retryAt, now + this.retryAfter(limited, outcome.retryAfterMillis))
    if (outcome._tag === "Overloaded") learner.overloaded(levelOf(call, now), now)
    else learner.failed()
    if (limited.failures >= limited.settings.outageAfter) this.beginOutage(limited, before, now, context)
    else this.changed(limited, before, outcome._tag)
  }

  /** The provider has taken a call. */
  private take(call: Call, now: number, context: Context.Context<never>): void {
    if (call.isTaken) return
    call.isTaken = true
    const { limited } = call
    const { learner, outage } = limited
    const isCurrent = call.generation === learner.generation
    if (outage !== undefined) {
      // What had started before was under way already, and says nothing of what starts now.
      if (isCurrent) this.endOutage(limited, outage, call, now, context)
      return
    }
    lookAnew(limited)
    limited.failures = 0
    limited.retryAt = 0
    if (!isCurrent) return
    const before = learner.allowed
    // While it fills after an outage the pace holds calls back, and not the limit: it is wanted where somebody waits.
    const isWanted = learner.isRecovering && limited.waiters.size > 0
    learner.taken(call.level, isWanted || limited.counted >= before, now)
    this.changed(limited, before, "Used")
  }

  private timesTooLong(call: Call, now: number): boolean {
    if (call.tokens > 0) {
      return this.tookTooLong(call, "perToken", (now - (call.firstTokenAt ?? call.startedAt)) / call.tokens)
    }
    if (call.firstTokenAt !== undefined || !call.limited.settings.learnFromTotalTime) return false
    return this.tookTooLong(call, "total", now - call.startedAt)
  }

  private tookTooLong({ generation, limited }: Call, kind: Measure, millis: number): boolean {
    const { learner, outage } = limited
    if (outage !== undefined || generation !== learner.generation) return false
    const before = learner.allowed
    if (!learner.took(kind, millis)) return false
    this.changed(limited, before, "Slow")
    return true
  }

  private beginOutage(limited: Limited, before: number, now: number, context: Context.Context<never>): void {
    const { failures, learner, retryAt, settings } = limited
    learner.stop()
    limited.isFilling = false
    limited.outage = {
      since: now,
      probes: 0,
      interval: settings.probeInterval,
      probe: undefined,
      nextAt: Math.max(now + jittered(settings.probeInterval, context), retryAt)
    }
    this.changed(limited, before, "Outage")
    this.events.push({ _tag: "OutageBegan", key: limited.key, failures })
    for (const call of Array.from(limited.waiters).filter(({ inOutage }) => inOutage === "fail")) {
      if (!dequeue(call)) continue
      this.refuse(call, "Outage", now)
      call.stopTimer?.()
      call.tell()
    }
  }

  private endOutage(
    limited: Limited,
    outage: Outage,
    call: Call,
    now: number,
    context: Context.Context<never>
  ): void {
    const { learner } = limited
    const before = learner.allowed
    learner.restart()
    limited.outage = undefined
    // Whatever still runs has hung through the outage. Its slot is given up, or it would take the few there are.
    limited.epoch++
    limited.counted = 1
    call.epoch = limited.epoch
    lookAnew(limited)
    limited.failures = 0
    limited.retryAt = 0
    limited.isFilling = true
    limited.filledFrom = Infinity
    limited.paceAt = now + pause(limited, now, context)
    this.events.push({
      _tag: "OutageEnded",
      key: limited.key,
      afterMillis: now - outage.since,
      probes: outage.probes
    })
    this.changed(limited, before, "Recovering")
  }

  private probeEnded(
    limited: Limited,
    outage: Outage,
    probe: Call,
    outcome: Exclude<Outcome, { readonly _tag: "Success" }>,
    now: number,
    context: Context.Context<never>
  ): void {
    const floor = this.retryAfter(limited, outcome.retryAfterMillis)
    if (outcome._tag !== "Ignored") {
      this.probeFailed(limited, outage, probe, now, floor, context)
      return
    }
    // It says nothing. Another one may, and not more often for that.
    outage.probe = undefined
    outage.nextAt = Math.max(now + floor, probe.startedAt + jittered(outage.interval, context))
  }

  private probeFailed(
    limited: Limited,
    outage: Outage,
    probe: Call,
    now: number,
    floor: number,
    context: Context.Context<never>
  ): void {
    outage.probe = undefined
    outage.interval = Math.min(limited.settings.maxProbeInterval, outage.interval * 2)
    outage.nextAt = Math.max(now + floor, probe.startedAt + jittered(outage.interval, context))
  }

  private retryAfter({ settings }: Limited, millis: number): number {
    return Math.min(settings.maxRetryAfter, millis)
  }

  private changed(limited: Limited, from: number, reason: Telemetry.LimitChangeReason): void {
    const { key, learner } = limited
    const to = learner.allowed
    if (from !== to) this.events.push({ _tag: "LimitChanged", key, from, to, reason })
  }

  private reasonAgainst(
    { inOutage, limited }: Call,
    maxWait: number,
    readyAt: number,
    now: number,
    context: Context.Context<never>
  ): Refusal["reason"] | undefined {
    const { outage, settings, waiters } = limited
    if (outage !== undefined && inOutage === "fail") return "Outage"
    const places = outage === undefined ? settings.maxQueue : settings.maxQueueInOutage
    if (waiters.size >= places) return "QueueFull"
    const patience = Math.min(maxWait, remainingIn(context))
    if (patience <= rounding) return outage === undefined ? "WaitTooLong" : "Outage"
    // Until the next probe nothing can start.
    return outage !== undefined && outage.probe === undefined && readyAt - now > patience ? "Outage" : undefined
  }

  private refuse(call: Call, reason: Refusal["reason"], now: number): void {
    const { limited } = call
    const { counted, learner, waiters } = limited
    call.state = "Refused"
    call.refusal = {
      reason,
      running: counted,
      waiting: waiters.size,
      limit: learner.allowed,
      retryAfterMillis: retryAfterOf(limited, now)
    }
  }

  private startTimer(call: Call, millis: number, context: Context.Context<never>): void {
    // A fiber of the caller's clock and scheduler. However it ends by itself, the wait is over with it.
    const timer = Effect.runForkWith(context)(Effect.sleep(millis))
    call.stopTimer = () => timer.interruptUnsafe()
    timer.addObserver(() => {
      if (!dequeue(call)) return
      const { limited } = call
      const now = millisIn(context)
      this.refuse(call, limited.outage === undefined ? "WaitTooLong" : "Outage", now)
      this.pump(limited, now, context)
      call.tell()
    })
  }

  private limitedOf(key: string, options: LimitOptions | undefined, now: number): Limited {
    const known = this.byKey.get(key)
    if (known !== undefined) {
      if (options !== undefined && options !== known.options && !known.isFixed) this.meet(known, options)
      return known
    }
    this.makeRoom()
    const settings = this.settings.of(key, options)
    const limited: Limited = {
      key,
      waiters: new Queue(),
      settings,
      learner: new Learner(settings),
      options: options !== undefined && speaksOfKey(options) ? options : undefined,
      isFixed: this.settings.isNamed(key),
      warning: undefined,
      isToldOfNesting: false,
      running: 0,
      counted: 0,
      epoch: 0,
      starting: 0,
      mark: 0,
      fresh: 0,
      failures: 0,
      failedAt: 0,
      startedAt: 0,
      retryAt: 0,
      outage: undefined,
      isFilling: false,
      filledFrom: Infinity,
      paceAt: 0,
      timer: undefined,
      turns: 0,
      lastUsed: now
    }
    this.byKey.set(key, limited)
    return limited
  }

  /** The first caller who says anything of the key decides. Another one, who would decide otherwise, is told once. */
  private meet(limited: Limited, options: LimitOptions): void {
    if (!speaksOfKey(options)) return
    const asked = this.settings.ofCaller(options)
    const differing = differences(asked, limited.settings)
    if (limited.options === undefined && differing.length > 0) {
      limited.settings = asked
      limited.learner = new Learner(asked, limited.learner.generation + 1)
      if (limited.outage !== undefined) limited.learner.stop()
    } else if (differing.length > 0) {
      limited.isFixed = true
      limited.warning =
        `AdaptiveLimit "${limited.key}" keeps the options of its first caller; those of another one differ in ` +
        `${differing.join(", ")} and do nothing: configure the key in the layer ("keys"), or use another key`
      return
    }
    limited.options = options
  }

  private snapshotOf(limited: Limited, now: number): Snapshot {
    const { counted, key, learner, outage, running, waiters } = limited
    return {
      key,
      phase: outage !== undefined ? "Out" : learner.isRecovering ? "Recovering" : "Steady",
      limit: learner.allowed,
      running: counted,
      waiting: waiters.size,
      givenUp: running - counted,
      retryAfterMillis: retryAfterOf(limited, now)
    }
  }

  private sweep(now: number): void {
    this.sweptAt = now
    for (const [key, limited] of this.byKey) {
      if (isForgettable(limited) && now - limited.lastUsed >= this.settings.idleTimeToLive) this.byKey.delete(key)
    }
  }

  private makeRoom(): void {
    this.changes++
    const { maxKeys } = this.settings
    // What a look through all keys costs is shared by a tenth as many changes, also where all of them are busy.
    if (this.byKey.size < maxKeys || this.changes < this.byKey.size / 10) return
    this.changes = 0
    const unused = Array.from(this.byKey.values()).filter(isForgettable)
    unused.sort((a, b) => a.lastUsed - b.lastUsed)
    const surplus = this.byKey.size - maxKeys + Math.max(1, Math.floor(maxKeys / 10))
    for (const limited of unused.slice(0, surplus)) this.byKey.delete(limited.key)
  }
}

/** Says that a call waits for a slot, and only those around it have one: they end when it has ended. */
const warnOfNesting = ({ limited, outer }: Call): void => {
  if (limited.isToldOfNesting) return
  let around = 0
  for (let call = outer; call !== undefined; call = call.outer) if (call.limited === limited) around++
  if (around === 0 || around < limited.running) return
  limited.isToldOfNesting = true
  limited.warning =
    `AdaptiveLimit "${limited.key}" lets a call wait for the calls around it, which have all slots and ` +
    `wait for its end: use another key inside, or a short maxWait`
}

/** Whether it was still in the queue. */
const dequeue = ({ limited, place }: Call): boolean => {
  if (place?.queue === undefined) return false
  limited.waiters.remove(place)
  return true
}

/**
 * How many calls were too many when this one was refused. A provider that refuses at once has seen those that ran then; one
 * that breaks off an answer has seen those that run now.
 */
const levelOf = ({ isTaken, level, limited, startedAt }: Call, now: number): number =>
  isTaken || now - startedAt > atOnce ? Math.max(level, limited.counted) : level

const leave = ({ epoch, limited, mark }: Call): void => {
  limited.running--
  if (epoch === limited.epoch) limited.counted--
  if (mark === limited.mark) limited.fresh--
}

/** What is in the air from now on tells whether calls get through. */
const lookAnew = (limited: Limited): void => {
  limited.mark++
  limited.fresh = 0
}

const isForgettable = ({ running, waiters }: Limited): boolean => running === 0 && waiters.size === 0

/** When the next probe may start at the latest. */
const retryAfterOf = ({ outage }: Limited, now: number): number | undefined => {
  if (outage === undefined) return undefined
  const at = outage.probe === undefined ? outage.nextAt : Math.max(outage.nextAt, outage.probe.giveUpAt)
  return Math.max(0, at - now)
}

const randomIn = (context: Context.Context<never>): number => Context.get(context, Random.Random).nextDoubleUnsafe()

/** At most so long, so that an interval stays within its cap, and up to a quarter less. */
const jittered = (millis: number, context: Context.Context<never>): number => millis * (1 - 0.25 * randomIn(context))

/**
 * Between two calls after an outage: all that the limit allows are spread over a second, unevenly. When the limit is what it
 * was, twice as many each second: where answers take a moment only, a second of them is far less than the limit.
 */
const pause = ({ filledFrom, learner }: Limited, now: number, context: Context.Context<never>): number =>
  (1_000 / learner.limit) * (0.5 + randomIn(context)) / 2 ** (Math.max(0, now - filledFrom) / 1_000)
