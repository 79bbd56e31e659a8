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
}

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
 * memory.
 *
 * @internal
 */
export class SafeModeKeys {
  private readonly bounds: Bounds
  private readonly onChange: (change: Change) => void
  private readonly byKey = new Map<string, Entry>()
  /** The keys without a running call, the one unused for longest first. */
  private readonly idle = { failing: new Map<string, Entry>(), active: new Map<string, Entry>() }
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
    this.rest(entry)
    return active
  }

  enter(key: string, now: number): void {
    const entry = this.entryOf(key, now)
    this.unrest(entry)
    this.activate(entry)
    this.rest(entry)
  }

  reset(key: string): void {
    const entry = this.byKey.get(key)
    if (entry === undefined) return
    this.unrest(entry)
    this.leave(entry)
    this.rest(entry)
  }

  state(key: string): Change {
    const entry = this.byKey.get(key)
    return { key, active: entry?.active ?? false, failures: entry?.failures ?? 0 }
  }

  states(now: number): ReadonlyArray<Change> {
    this.sweep(now)
    return Array.from(this.byKey.values(), ({ active, failures, key }) => ({ key, active, failures }))
      .filter(({ active, failures }) => active || failures > 0)
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
    const known = this.byKey.get(key)
    if (known !== undefined) return known
    this.makeRoom(now)
    const entry: Entry = { key, active: false, failures: 0, fence: 0, running: 0, lastUsed: now }
    this.byKey.set(key, entry)
    return entry
  }

  private unrest(entry: Entry): void {
    this.idle.failing.delete(entry.key)
    this.idle.active.delete(entry.key)
  }

  private rest(entry: Entry): void {
    if (entry.running > 0) return
    if (entry.active) this.idle.active.set(entry.key, entry)
    else if (entry.failures > 0) this.idle.failing.set(entry.key, entry)
    else this.byKey.delete(entry.key)
  }

  private forget(entry: Entry): void {
    this.unrest(entry)
    this.byKey.delete(entry.key)
    if (!entry.active) return
    entry.active = false
    entry.failures = 0
    this.changed(entry)
  }

  private sweep(now: number): void {
    for (const entry of this.idle.failing.values()) {
      if (now - entry.lastUsed < this.bounds.idleTimeToLive) return
      this.forget(entry)
    }
  }

  private makeRoom(now: number): void {
    this.sweep(now)
    while (this.byKey.size >= this.bounds.maxKeys) {
      const [unused] = this.idle.failing.size > 0 ? this.idle.failing.values() : this.idle.active.values()
      if (unused === undefined) return
      this.forget(unused)
    }
  }
}
