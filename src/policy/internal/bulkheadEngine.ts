import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as config from "../../internal/config.ts"
import { rounding } from "../../internal/monotonic.ts"
import { type Place, Queue } from "./bulkheadQueue.ts"
import { remainingIn } from "./deadline.ts"
import { registry } from "./engines.ts"
import { lookedAt } from "./lookedAt.ts"

const module = "Bulkhead"

/** How many calls of one key run and wait. */
export interface BulkheadOptions {
  readonly maxConcurrent?: number | undefined
  readonly maxQueue?: number | undefined
  readonly maxWait?: Duration.Input | undefined
}

/** @internal */
export interface ServiceOptions extends BulkheadOptions {
  readonly total?: number | undefined
  readonly keys?: Readonly<Record<string, BulkheadOptions>> | undefined
  readonly maxKeys?: number | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
}

interface Settings {
  readonly maxConcurrent: number
  readonly maxQueue: number
  /** In milliseconds. */
  readonly maxWait: number
}

/** @internal */
export const defaults: Settings = { maxConcurrent: 3, maxQueue: 100, maxWait: 60_000 }

type Given = { readonly [Option in keyof Settings]: Settings[Option] | undefined }

/** @internal */
export const concurrency = (option: string, value: number): number => config.integer(module, option, value, 1)

const given = ({ maxConcurrent, maxQueue, maxWait }: BulkheadOptions, path = ""): Given => ({
  maxConcurrent: maxConcurrent === undefined ? undefined : concurrency(`${path}maxConcurrent`, maxConcurrent),
  maxQueue: maxQueue === undefined ? undefined : config.integer(module, `${path}maxQueue`, maxQueue, 0),
  maxWait: maxWait === undefined ? undefined : Duration.toMillis(config.duration(module, `${path}maxWait`, maxWait))
})

/**
 * The options of a caller.
 *
 * @internal
 */
export const checked = lookedAt((options: BulkheadOptions): Given => given(options))

const over = (base: Settings, own: Given): Settings => ({
  maxConcurrent: own.maxConcurrent ?? base.maxConcurrent,
  maxQueue: own.maxQueue ?? base.maxQueue,
  maxWait: own.maxWait ?? base.maxWait
})

const names = ["maxConcurrent", "maxQueue", "maxWait"] as const

/** @internal */
export interface Refusal {
  readonly _tag: "Refusal"
  readonly reason: "QueueFull" | "WaitTooLong" | "Closed"
  readonly running: number
  readonly waiting: number
  readonly limit: number
  /** The total over all keys, where that was what had no slot left. */
  readonly total: number | undefined
}

/** One key's share. The engine alone changes it. */
interface Compartment {
  readonly key: string
  readonly waiters: Queue<Waiter>
  /** Who is told when nothing runs any more, or when it is opened; made when somebody asks. */
  watchers: Set<() => void> | undefined
  /** The options of the first caller who gave any, or those seen last that say the same. */
  options: BulkheadOptions | undefined
  /** Whether options of callers need no look any more: the service has some by name, or their difference has been told. */
  isFixed: boolean
  /** What is to be told of options that do nothing. */
  warning: string | undefined
  settings: Settings
  resizedTo: number | undefined
  limit: number
  isClosed: boolean
  running: number
  /** How many of those that run were handed their slot and have not begun yet. */
  starting: number
  turn: Place<Compartment> | undefined
  /** When it was made, or when a call last ended. What runs or waits is in use anyway. */
  lastUsed: number
}

/**
 * Leave to run one call. Whoever has it gives it back once; twice does nothing.
 *
 * @internal
 */
export class Slot {
  compartment: Compartment | undefined
  constructor(compartment: Compartment) {
    this.compartment = compartment
  }
}

/**
 * A call that waits for its slot. It is told once, either of the slot, which it holds from that step on, or of the
 * refusal.
 *
 * @internal
 */
export class Waiter {
  readonly _tag = "Waiter"
  readonly compartment: Compartment
  readonly since: number
  /** Whether there was no slot for it when it came. */
  readonly hadToWait: boolean
  isStarting = false
  slot: Slot | undefined
  refusal: Refusal | undefined
  place: Place<Waiter> | undefined
  stopTimer: (() => void) | undefined
  private told: (() => void) | undefined

  constructor(compartment: Compartment, since: number, hadToWait: boolean) {
    this.compartment = compartment
    this.since = since
    this.hadToWait = hadToWait
  }

  isWaiting(): boolean {
    return this.place?.queue !== undefined
  }

  /** The engine decides before anybody listens, when the fiber yields in between. */
  onEnd(told: () => void): void {
    if (this.slot !== undefined || this.refusal !== undefined) told()
    else this.told = told
  }

  end(): void {
    this.told?.()
  }
}

/** @internal */
export interface Snapshot {
  readonly key: string
  readonly running: number
  readonly waiting: number
  readonly limit: number
  readonly maxQueue: number
  readonly closed: boolean
}

/**
 * What the fused `Policy` needs of a bulkhead: both steps are synchronous, and `now` is in monotonic milliseconds.
 *
 * @internal
 */
export interface BulkheadEngine {
  /**
   * A slot, if one is free, nobody is about to begin who came before, and there is nothing to warn of. Where there is
   * none, `Bulkhead.limit` is the way to wait for it or to be refused.
   */
  tryAcquire(key: string, options: BulkheadOptions | undefined, now: number): Slot | undefined
  /** Hands the slot to who waits for it longest. */
  release(slot: Slot, now: number): void
}

/** @internal */
export const { engineOf, withEngine } = registry<BulkheadEngine>()

/**
 * All compartments of a bulkhead. Every method is one synchronous step that leaves nobody waiting for a slot that is
 * free: a slot goes over to a waiter in the step that frees it, so that no newcomer comes between.
 *
 * @internal
 */
export class Engine implements BulkheadEngine {
  private readonly base: Settings
  private readonly named: ReadonlyMap<string, Settings>
  private readonly total: number
  readonly maxKeys: number
  readonly idleTimeToLive: number
  private readonly sweepEvery: number
  private readonly byKey = new Map<string, Compartment>()
  /** The keys that have a waiter and a slot of their own for it, and lack one of the total. The first is served next. */
  private readonly turns = new Queue<Compartment>()
  private running = 0
  private newAreClosed = false
  private sweptAt = Number.NEGATIVE_INFINITY
  private changes = 0

  constructor(options: ServiceOptions) {
    this.base = over(defaults, given(options))
    this.named = new Map(
      Object.entries(options.keys ?? {}).map(([key, own]) => [
        key,
        over(this.base, given(own, `keys[${JSON.stringify(key)}].`))
      ])
    )
    this.total = options.total === undefined ? Infinity : concurrency("total", options.total)
    this.maxKeys = config.integer(module, "maxKeys", options.maxKeys ?? 10_000, 1)
    this.idleTimeToLive = Duration.toMillis(
      config.duration(module, "idleTimeToLive", options.idleTimeToLive ?? "1 hour", { minimum: "1 millis" })
    )
    // Looking through all compartments takes a millisecond where there are many of them.
    this.sweepEvery = Math.max(this.idleTimeToLive, 1_000)
  }

  get size(): number {
    return this.byKey.size
  }

  tryAcquire(key: string, options: BulkheadOptions | undefined, now: number): Slot | undefined {
    if (now - this.sweptAt >= this.sweepEvery) this.sweep(now)
    const compartment = this.compartmentOf(key, options, now)
    if (!this.hasFree(compartment) || compartment.isClosed || compartment.warning !== undefined) return undefined
    // Who was handed a slot begins a moment later. A newcomer with a slot of its own would begin before.
    return compartment.starting > 0 ? undefined : this.take(compartment)
  }

  release(slot: Slot, now: number): void {
    const { compartment } = slot
    if (compartment === undefined) return
    slot.compartment = undefined
    compartment.lastUsed = now
    compartment.running--
    this.running--
    this.changes++
    if (compartment.waiters.size > 0) this.queueUp(compartment)
    if (this.turns.size > 0) this.grant()
    if (compartment.running === 0) tellAll(compartment.watchers)
  }

  /** What a call does that got no slot at once. */
  wait(
    key: string,
    options: BulkheadOptions | undefined,
    now: number,
    context: Context.Context<never>
  ): Waiter | Refusal {
    const compartment = this.compartmentOf(key, options, now)
    const { maxQueue, maxWait } = compartment.settings
    if (compartment.isClosed) return this.refusal(compartment, "Closed")
    const hasToWait = !this.hasFree(compartment)
    if (hasToWait) {
      if (compartment.waiters.size >= maxQueue) return this.refusal(compartment, "QueueFull")
      if (maxWait === 0 || remainingIn(context) <= rounding) return this.refusal(compartment, "WaitTooLong")
    }
    const waiter = new Waiter(compartment, now, hasToWait)
    waiter.place = compartment.waiters.push(waiter)
    this.queueUp(compartment)
    if (hasToWait) this.startTimer(waiter, maxWait, context)
    else this.grant()
    return waiter
  }

  /** What callers of the key have to be told, once. */
  takeWarning(key: string): string | undefined {
    const compartment = this.byKey.get(key)
    const warning = compartment?.warning
    if (compartment !== undefined) compartment.warning = undefined
    return warning
  }

  /** Who was handed a slot begins. */
  begin(waiter: Waiter): void {
    if (waiter.isStarting) waiter.compartment.starting--
    waiter.isStarting = false
  }

  /** Ends a call that has waited: whatever it holds, a place in the queue or a slot, is free at once. */
  finish(waiter: Waiter, now: number): void {
    this.begin(waiter)
    if (waiter.slot === undefined) this.dequeue(waiter)
    else this.release(waiter.slot, now)
  }

  /** Without a number, back to what the options say. */
  resize(key: string, maxConcurrent: number | undefined, now: number): void {
    const compartment = this.compartmentOf(key, undefined, now)
    compartment.resizedTo = maxConcurrent
    this.relimit(compartment)
  }

  /** Closes a key. Tells once when nothing runs any more of it, or it was opened. Gives back how to stop listening. */
  close(key: string, now: number, done: () => void): () => void {
    return this.closeThese([this.compartmentOf(key, undefined, now)], done)
  }

  /** The same for all keys. One that is opened in the meantime is not waited for. */
  closeAll(done: () => void): () => void {
    this.newAreClosed = true
    return this.closeThese(Array.from(this.byKey.values()), done)
  }

  open(key: string, now: number): void {
    this.openOne(this.compartmentOf(key, undefined, now))
  }

  openAll(): void {
    this.newAreClosed = false
    for (const compartment of this.byKey.values()) this.openOne(compartment)
  }

  snapshot(key: string): Snapshot {
    const compartment = this.byKey.get(key)
    if (compartment !== undefined) return snapshot(compartment)
    const { maxConcurrent, maxQueue } = this.named.get(key) ?? this.base
    return { key, running: 0, waiting: 0, limit: maxConcurrent, maxQueue, closed: this.newAreClosed }
  }

  snapshots(now: number): ReadonlyArray<Snapshot> {
    this.sweep(now)
    return Array.from(this.byKey.values(), snapshot)
  }

  private compartmentOf(key: string, options: BulkheadOptions | undefined, now: number): Compartment {
    const known = this.byKey.get(key)
    if (known !== undefined) {
      if (options !== known.options && options !== undefined && !known.isFixed) this.meet(known, options)
      return known
    }
    this.makeRoom()
    const named = this.named.get(key)
    const settings = named ?? (options === undefined ? this.base : over(this.base, checked(options)))
    const compartment: Compartment = {
      key,
      waiters: new Queue(),
      watchers: undefined,
      options,
      isFixed: named !== undefined,
      warning: undefined,
      settings,
      resizedTo: undefined,
      limit: settings.maxConcurrent,
      isClosed: this.newAreClosed,
      running: 0,
      starting: 0,
      turn: undefined,
      lastUsed: now
    }
    this.byKey.set(key, compartment)
    return compartment
  }

  /** The first caller with options decides. Another one, who would decide otherwise, is told once for each key. */
  private meet(compartment: Compartment, options: BulkheadOptions): void {
    const { key, settings } = compartment
    const asked = over(this.base, checked(options))
    if (compartment.options === undefined) {
      compartment.settings = asked
      this.relimit(compartment)
    } else {
      const differing = names.filter((name) => asked[name] !== settings[name])
      if (differing.length > 0) {
        compartment.isFixed = true
        compartment.warning =
          `Bulkhead "${key}" keeps the options of its first caller; those of another one differ in ` +
          `${differing.join(", ")} and do nothing: configure the key in the layer ("keys"), or use another key`
        return
      }
    }
    compartment.options = options
  }

  private relimit(compartment: Compartment): void {
    compartment.limit = compartment.resizedTo ?? compartment.settings.maxConcurrent
    if (compartment.running < compartment.limit) this.queueUp(compartment)
    else this.standBack(compartment)
    this.grant()
  }

  /** Where there is a free slot nobody waits: each step gives away what it frees. */
  private hasFree({ limit, running }: Compartment): boolean {
    return running < limit && this.running < this.total
  }

  private startTimer(waiter: Waiter, millis: number, context: Context.Context<never>): void {
    // A fiber of the caller's clock and scheduler. However it ends by itself, the wait is over with it.
    const timer = Effect.runForkWith(context)(Effect.sleep(millis))
    waiter.stopTimer = () => timer.interruptUnsafe()
    timer.addObserver(() => {
      if (!waiter.isWaiting()) return
      this.dequeue(waiter)
      this.refuse(waiter, "WaitTooLong")
    })
  }

  private take(compartment: Compartment): Slot {
    compartment.running++
    this.running++
    return new Slot(compartment)
  }

  /** Takes a turn behind the keys that have one, so that no key is served twice before another one once. */
  private queueUp(compartment: Compartment): void {
    if (
      compartment.turn === undefined && compartment.waiters.size > 0 && compartment.running < compartment.limit
    ) compartment.turn = this.turns.push(compartment)
  }

  private standBack(compartment: Compartment): void {
    if (compartment.turn === undefined) return
    this.turns.remove(compartment.turn)
    compartment.turn = undefined
  }

  private grant(): void {
    while (this.running < this.total) {
      const compartment = this.turns.shift()
      if (compartment === undefined) return
      compartment.turn = undefined
      const waiter = compartment.waiters.shift()
      if (waiter === undefined) continue
      waiter.slot = this.take(compartment)
      waiter.isStarting = true
      compartment.starting++
      this.queueUp(compartment)
      waiter.stopTimer?.()
      waiter.end()
    }
  }

  private dequeue({ compartment, place, stopTimer }: Waiter): void {
    if (place !== undefined) compartment.waiters.remove(place)
    if (compartment.waiters.size === 0) this.standBack(compartment)
    stopTimer?.()
  }

  private refusal(compartment: Compartment, reason: Refusal["reason"]): Refusal {
    const { limit, running } = compartment
    const total = running < limit && this.running >= this.total ? this.total : undefined
    return { _tag: "Refusal", reason, running, waiting: compartment.waiters.size, limit, total }
  }

  private refuse(waiter: Waiter, reason: Refusal["reason"]): void {
    waiter.refusal = this.refusal(waiter.compartment, reason)
    waiter.end()
  }

  private closeThese(compartments: ReadonlyArray<Compartment>, done: () => void): () => void {
    for (const compartment of compartments) this.closeOne(compartment)
    // Nothing starts under these until they are opened.
    const busy = compartments.filter(({ running }) => running > 0)
    let left = busy.length
    if (left === 0) done()
    const oneLess = () => {
      if (--left === 0) done()
    }
    for (const compartment of busy) (compartment.watchers ??= new Set()).add(oneLess)
    return () => {
      for (const { watchers } of busy) watchers?.delete(oneLess)
    }
  }

  private closeOne(compartment: Compartment): void {
    compartment.isClosed = true
    this.standBack(compartment)
    const refused: Array<Waiter> = []
    for (let waiter = compartment.waiters.shift(); waiter !== undefined; waiter = compartment.waiters.shift()) {
      refused.push(waiter)
    }
    // Told when all are gone, so that no refusal counts somebody who goes with it.
    for (const waiter of refused) this.refuse(waiter, "Closed")
  }

  private openOne(compartment: Compartment): void {
    compartment.isClosed = false
    tellAll(compartment.watchers)
  }

  /** Whether a new compartment in its place would be the same. */
  private isForgettable(compartment: Compartment): boolean {
    return compartment.running === 0 && compartment.waiters.size === 0 && compartment.resizedTo === undefined &&
      compartment.isClosed === this.newAreClosed
  }

  private sweep(now: number): void {
    this.sweptAt = now
    for (const [key, compartment] of this.byKey) {
      if (this.isForgettable(compartment) && now - compartment.lastUsed >= this.idleTimeToLive) this.byKey.delete(key)
    }
  }

  private makeRoom(): void {
    this.changes++
    // What a look through all compartments costs is shared by a tenth as many changes. Where all of them are busy there
    // is nothing to find, and looking again for each new key would cost the square of their number.
    if (this.byKey.size < this.maxKeys || this.changes < this.byKey.size / 10) return
    this.changes = 0
    const unused = Array.from(this.byKey.values()).filter((compartment) => this.isForgettable(compartment))
    unused.sort((a, b) => a.lastUsed - b.lastUsed)
    const surplus = this.byKey.size - this.maxKeys + Math.max(1, Math.floor(this.maxKeys / 10))
    for (const compartment of unused.slice(0, surplus)) this.byKey.delete(compartment.key)
  }
}

const snapshot = ({ isClosed, key, limit, running, settings, waiters }: Compartment): Snapshot => ({
  key,
  running,
  waiting: waiters.size,
  limit,
  maxQueue: settings.maxQueue,
  closed: isClosed
})

const tellAll = (watchers: Set<() => void> | undefined): void => {
  if (watchers === undefined || watchers.size === 0) return
  const told = Array.from(watchers)
  watchers.clear()
  for (const tell of told) tell()
}
