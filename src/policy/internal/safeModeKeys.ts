import { IdleList, type Place } from "../../internal/idleList.ts"

/** @internal */
export const defaults = { failures: 3, maxKeys: 10_000, idleTimeToLive: "1 hour" } as const

/** @internal */
export interface Change {
  readonly key: string
  readonly active: boolean
  readonly failures: number
}

/** @internal */
export type Outcome = "success" | "failure" | "ignored"

/** What is known about one key. */
interface Entry {
  readonly key: string
  active: boolean
  failures: number
  /** Calls that began before this one say nothing any more. */
  fence: number
  running: number
  lastUsed: number
  /** Its place among the idle ones. */
  place: Place<Entry> | undefined
}

/** Whether there is nothing to remember of a key but that a call is running. */
const isBlank = ({ active, failures }: Entry): boolean => !active && failures === 0

/** @internal */
export interface Ticket {
  readonly entry: Entry
  readonly order: number
}

/** @internal */
export interface Bounds {
  readonly maxKeys: number
  readonly idleTimeToLive: number
}

/**
 * Which keys have failed how often in a row. Every method is one synchronous step: no interruption comes between a
 * decision and its record.
 *
 * A key is remembered while it has something to remember: a running call, failures, or safe mode. What works costs no
 * memory, and takes none from what does not.
 *
 * @internal
 */
export class SafeModeKeys {
  private readonly bounds: Bounds
  private readonly onChange: (change: Change) => void
  private readonly remembered = new Map<string, Entry>()
  /** The others, as long as a call of theirs runs: apart, because to put them into a large map with every call costs more. */
  private readonly blank = new Map<string, Entry>()
  /** The keys without a running call, the one unused for longest first. */
  private readonly idle = { failing: new IdleList<Entry>(), active: new IdleList<Entry>() }
  private order = 0

  constructor(bounds: Bounds, onChange: (change: Change) => void) {
    this.bounds = bounds
    this.onChange = onChange
  }

  begin(key: string, now: number): Ticket {
    const entry = this.entryOf(key, now)
    this.unrest(entry)
    entry.running++
    return { entry, order: this.order++ }
  }

  /** Records how a call ended; says whether its key is in safe mode then. */
  settle({ entry, order }: Ticket, outcome: Outcome, threshold: number, now: number): boolean {
    entry.running--
    entry.lastUsed = now
    if (outcome !== "ignored" && order >= entry.fence) {
      if (outcome === "success") {
        this.leave(entry)
      } else {
        entry.failures++
        if (entry.failures >= threshold) this.activate(entry)
      }
    }
    const { active } = entry
    this.rest(entry, now)
    return active
  }

  enter(key: string, now: number): void {
    const entry = this.entryOf(key, now)
    this.activate(entry)
    this.rest(entry, now)
  }

  reset(key: string, now: number): void {
    const entry = this.find(key)
    if (entry === undefined) return
    this.leave(entry)
    this.rest(entry, now)
  }

  state(key: string, now: number): Change {
    const known = this.find(key)
    const entry = known === undefined || this.isExpired(known, now) ? undefined : known
    return { key, active: entry?.active ?? false, failures: entry?.failures ?? 0 }
  }

  states(now: number): ReadonlyArray<Change> {
    this.sweep(now)
    return Array.from(this.remembered.values(), ({ active, failures, key }) => ({ key, active, failures }))
  }

  get size(): number {
    return this.remembered.size + this.blank.size
  }

  private find(key: string): Entry | undefined {
    return this.remembered.get(key) ?? this.blank.get(key)
  }

  private activate(entry: Entry): void {
    if (entry.active) return
    entry.active = true
    this.changed(entry)
  }

  private leave(entry: Entry): void {
    const wasActive = entry.active
    entry.active = false
    entry.failures = 0
    if (wasActive) this.changed(entry)
    else entry.fence = this.order
  }

  private changed(entry: Entry): void {
    entry.fence = this.order
    this.onChange({ key: entry.key, active: entry.active, failures: entry.failures })
  }

  private entryOf(key: string, now: number): Entry {
    const known = this.find(key)
    if (known !== undefined) {
      if (!this.isExpired(known, now)) return known
      this.forget(known)
    }
    const entry: Entry = { key, active: false, failures: 0, fence: 0, running: 0, lastUsed: now, place: undefined }
    this.blank.set(key, entry)
    return entry
  }

  private isExpired({ active, lastUsed, running }: Entry, now: number): boolean {
    return !active && running === 0 && now - lastUsed >= this.bounds.idleTimeToLive
  }

  private unrest({ place }: Entry): void {
    if (place !== undefined) place.list?.remove(place)
  }

  private rest(entry: Entry, now: number): void {
    this.keep(entry)
    if (entry.running > 0) return
    this.unrest(entry)
    if (isBlank(entry)) {
      this.blank.delete(entry.key)
      return
    }
    this.makeRoom(now)
    const idle = entry.active ? this.idle.active : this.idle.failing
    entry.place ??= { of: entry, list: undefined, before: undefined, after: undefined }
    idle.add(entry.place)
  }

  private keep(entry: Entry): void {
    const [to, from] = isBlank(entry) ? [this.blank, this.remembered] : [this.remembered, this.blank]
    if (from.delete(entry.key)) to.set(entry.key, entry)
  }

  private forget(entry: Entry): void {
    this.unrest(entry)
    this.remembered.delete(entry.key)
    if (!entry.active) return
    entry.active = false
    entry.failures = 0
    this.changed(entry)
  }

  private sweep(now: number): void {
    for (let entry = this.idle.failing.oldest; entry !== undefined; entry = this.idle.failing.oldest) {
      if (!this.isExpired(entry, now)) return
      this.forget(entry)
    }
  }

  private makeRoom(now: number): void {
    this.sweep(now)
    const { active, failing } = this.idle
    while (failing.size + active.size >= this.bounds.maxKeys) {
      const unused = failing.oldest ?? active.oldest
      if (unused === undefined) return
      this.forget(unused)
    }
  }
}
