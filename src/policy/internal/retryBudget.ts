import * as Duration from "effect/Duration"
import * as config from "../../internal/config.ts"
import { registry } from "./engines.ts"

/** @internal */
export const defaults = { ratio: 0.2, window: "10 seconds", minPerSecond: 0.5, maxKeys: 10_000 } as const

const module = "RetryBudget"

/**
 * What a guard asks of a budget, in steps that nothing can divide. Times are monotonic milliseconds.
 *
 * @internal
 */
export interface Engine {
  /** A first attempt begins. */
  readonly deposit: (key: string, now: number) => void
  /** Takes back a deposit whose attempt was never sent. */
  readonly takeBack: (key: string, depositedAt: number) => void
  /** Pays for one more attempt, where there is something left to pay with. */
  readonly tryWithdraw: (key: string, now: number) => boolean
  /** Takes back a withdrawal whose attempt never began. */
  readonly giveBack: (key: string, withdrawnAt: number) => void
}

/** @internal */
export interface Settings {
  readonly ratio: number
  readonly windowMillis: number
  /** Retries in a window that need no first attempts. */
  readonly floor: number
}

/** @internal */
export interface Options {
  readonly ratio?: number | undefined
  readonly window?: Duration.Input | undefined
  readonly minPerSecond?: number | undefined
}

/** @internal */
export const settings = (options: Options, path = ""): Settings => {
  const window = config.duration(module, `${path}window`, options.window ?? defaults.window, { minimum: "1 millis" })
  const perSecond = config.numberBetween(
    module,
    `${path}minPerSecond`,
    options.minPerSecond ?? defaults.minPerSecond,
    0,
    Number.MAX_SAFE_INTEGER
  )
  return {
    ratio: config.numberBetween(module, `${path}ratio`, options.ratio ?? defaults.ratio, 0, 1),
    windowMillis: Duration.toMillis(window),
    floor: perSecond * Duration.toSeconds(window)
  }
}

/** @internal */
export interface Snapshot {
  readonly key: string
  readonly firstAttempts: number
  readonly retries: number
  readonly available: number
}

const slots = 20

// A fifth of fifteen is 3.0000000000000004 or 2.9999999999999996, by how it was computed.
const tolerance = 1e-9

/** The first attempts and the retries of one key, in a ring of time slots: neither grows with the traffic. */
class Budget {
  readonly key: string
  readonly settings: Settings
  readonly since: number
  lastUsed: number
  private newest: number
  private deposited = 0
  private withdrawn = 0
  /** Deposits, and after them withdrawals. */
  private readonly ring = new Uint32Array(2 * slots)

  constructor(key: string, settings: Settings, now: number) {
    this.key = key
    this.settings = settings
    this.since = now
    this.lastUsed = now
    this.newest = this.slotAt(now)
  }

  deposit(now: number): void {
    const at = this.advance(now)
    this.lastUsed = now
    this.ring[at] = (this.ring[at] ?? 0) + 1
    this.deposited++
  }

  tryWithdraw(now: number): boolean {
    const at = slots + this.advance(now)
    this.lastUsed = now
    if (this.balance() < 1) return false
    this.ring[at] = (this.ring[at] ?? 0) + 1
    this.withdrawn++
    return true
  }

  takeBack(depositedAt: number): void {
    if (this.undo(0, depositedAt)) this.deposited--
  }

  giveBack(withdrawnAt: number): void {
    if (this.undo(slots, withdrawnAt)) this.withdrawn--
  }

  snapshot(now: number): Snapshot {
    this.advance(now)
    return {
      key: this.key,
      firstAttempts: this.deposited,
      retries: this.withdrawn,
      available: Math.max(0, Math.floor(this.balance()))
    }
  }

  private undo(offset: number, time: number): boolean {
    const slot = this.slotAt(time)
    const at = offset + placeOf(slot)
    const count = this.ring[at] ?? 0
    // what has expired is undone already, and what was done to a budget forgotten since was another's
    if (time < this.since || this.newest - slot >= slots || count === 0) return false
    this.ring[at] = count - 1
    return true
  }

  private balance(): number {
    const { floor, ratio } = this.settings
    return ratio * this.deposited + floor - this.withdrawn + tolerance
  }

  private slotAt(now: number): number {
    return Math.floor(now * slots / this.settings.windowMillis)
  }

  /** Forgets what is too old, and gives the place of the slot to write to. */
  private advance(now: number): number {
    const slot = this.slotAt(now)
    const passed = Math.min(slot - this.newest, slots)
    for (let i = 0; i < passed; i++) {
      const at = placeOf(slot - i)
      this.deposited -= this.ring[at] ?? 0
      this.withdrawn -= this.ring[slots + at] ?? 0
      this.ring[at] = 0
      this.ring[slots + at] = 0
    }
    if (passed > 0) this.newest = slot
    return placeOf(this.newest)
  }
}

const placeOf = (slot: number): number => ((slot % slots) + slots) % slots

/**
 * All budgets of a service.
 *
 * @internal
 */
export class Budgets implements Engine {
  private readonly byKey = new Map<string, Budget>()
  private readonly settingsOf: (key: string) => Settings
  private readonly maxKeys: number
  private readonly sweepEvery: number
  private sweptAt = Number.NEGATIVE_INFINITY

  constructor(settingsOf: (key: string) => Settings, maxKeys: number, longestWindowMillis: number) {
    this.settingsOf = settingsOf
    this.maxKeys = maxKeys
    this.sweepEvery = longestWindowMillis
  }

  get size(): number {
    return this.byKey.size
  }

  deposit(key: string, now: number): void {
    this.budget(key, now).deposit(now)
  }

  takeBack(key: string, depositedAt: number): void {
    this.byKey.get(key)?.takeBack(depositedAt)
  }

  tryWithdraw(key: string, now: number): boolean {
    return this.budget(key, now).tryWithdraw(now)
  }

  giveBack(key: string, withdrawnAt: number): void {
    this.byKey.get(key)?.giveBack(withdrawnAt)
  }

  snapshot(key: string, now: number): Snapshot {
    return (this.byKey.get(key) ?? new Budget(key, this.settingsOf(key), now)).snapshot(now)
  }

  snapshots(now: number): ReadonlyArray<Snapshot> {
    this.sweep(now)
    return Array.from(this.byKey.values(), (budget) => budget.snapshot(now))
  }

  private budget(key: string, now: number): Budget {
    const known = this.byKey.get(key)
    if (known !== undefined) return known
    this.makeRoom(now)
    const budget = new Budget(key, this.settingsOf(key), now)
    this.byKey.set(key, budget)
    return budget
  }

  /** A budget that nobody has used for its window is as good as a new one. */
  private sweep(now: number): void {
    this.sweptAt = now
    for (const budget of this.byKey.values()) {
      if (now - budget.lastUsed >= budget.settings.windowMillis) this.byKey.delete(budget.key)
    }
  }

  private makeRoom(now: number): void {
    if (now - this.sweptAt >= this.sweepEvery) this.sweep(now)
    if (this.byKey.size < this.maxKeys) return
    // A tenth at a time, so that what a look through all of them costs is shared by as many new keys.
    const surplus = this.byKey.size - this.maxKeys + Math.max(1, Math.floor(this.maxKeys / 10))
    const longestUnused = Array.from(this.byKey.values()).toSorted((a, b) => a.lastUsed - b.lastUsed)
    for (const budget of longestUnused.slice(0, surplus)) this.byKey.delete(budget.key)
  }
}

/** @internal */
export const { engineOf, withEngine } = registry<Engine>()

/**
 * Never empty.
 *
 * @internal
 */
export const unlimited: Engine = {
  deposit: () => undefined,
  takeBack: () => undefined,
  tryWithdraw: () => true,
  giveBack: () => undefined
}
