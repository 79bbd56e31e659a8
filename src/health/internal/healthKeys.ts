import { IdleList, type Place } from "../../internal/idleList.ts"
import type { Result } from "./checkModel.ts"
import { type Admission, Gate, type GateSettings, type GateTag, type Outcome, type Probe } from "./healthGate.ts"
import type { HealthHistory, Lane } from "./healthHistory.ts"
import { counted, type Status, worse } from "./healthStatus.ts"
import { type Figures, HealthWindow } from "./healthWindow.ts"

/**
 * Times are in milliseconds.
 *
 * @internal
 */
export interface KeySettings {
  readonly size: number
  readonly maxAge: number
  readonly minimumCalls: number
  readonly criticalAbove: number
  readonly degradedAbove: number
  readonly slowAbove: number
  readonly required: boolean
  readonly gate: Omit<GateSettings, "criticalAbove">
}

/**
 * `now` is of a monotonic clock, `wall` since the epoch; both in milliseconds.
 *
 * @internal
 */
export interface Moment {
  readonly now: number
  readonly wall: number
}

/** @internal */
export interface Change {
  readonly key: string
  readonly check: string | undefined
  readonly from: Status
  readonly to: Status
  readonly message: string
}

/** @internal */
export interface GateChange {
  readonly key: string
  readonly to: "open" | "closed"
  readonly message: string
}

/**
 * The latest result of a check, since when it has had its status, and when it was found.
 *
 * @internal
 */
export interface Checked {
  readonly name: string
  readonly result: Result
  readonly since: number
  readonly at: number
  readonly tookMillis: number
}

interface Entry {
  readonly key: string
  readonly settings: KeySettings
  readonly window: HealthWindow
  readonly gate: Gate
  readonly lane: Lane
  readonly checks: Map<string, Checked>
  checked: Status
  status: Status
  since: number
  /** Why the gate has closed, and when. */
  reason: string
  closedSince: number
  running: number
  lastUsed: number
  /** Its place among the idle ones. */
  place: Place<Entry> | undefined
}

/**
 * A call under way.
 *
 * @internal
 */
export interface Ticket {
  readonly entry: Entry
  readonly epoch: number
  readonly counts: boolean
}

/** @internal */
export interface ProbeTicket {
  readonly entry: Entry
  readonly probe: Probe
}

/** @internal */
export interface View extends Figures {
  readonly key: string
  readonly status: Status
  readonly message: string
  readonly since: number
  readonly percentiles: ReadonlyArray<number>
  readonly gate: GateTag
  readonly gateWaitMillis: number | undefined
  readonly gateReason: string
  readonly closedSince: number
  readonly lane: Lane | undefined
}

/** @internal */
export interface Bounds {
  readonly maxKeys: number
  readonly idleTimeToLive: number
}

const percent = (share: number): string => `${Math.round(share * 100)} %`

const seconds = (millis: number): string => `${Math.round(millis / 100) / 10} s`

const callStatus = ({ calls, errors, meanMillis }: Figures, settings: KeySettings): Status => {
  if (calls >= settings.minimumCalls && errors > settings.criticalAbove * calls) return "critical"
  if (errors > settings.degradedAbove * calls) return "degraded"
  return meanMillis > settings.slowAbove ? "slow" : "healthy"
}

const sayCalls = ({ calls, errors, meanMillis }: Figures): string =>
  calls === 0
    ? "no calls lately"
    : `${errors} of ${calls} calls failed (${percent(errors / calls)}), ${seconds(meanMillis)} on average`

/**
 * What is known about the health of each key. Every method is one synchronous step of constant time, but for those that
 * read or go through all keys: no interruption comes between a decision and its record.
 *
 * @internal
 */
export class HealthKeys {
  readonly history: HealthHistory
  private readonly bounds: Bounds
  private readonly settingsOf: (key: string) => KeySettings
  private readonly onChange: (change: Change) => void
  private readonly onGate: (change: GateChange) => void
  private readonly onTouch: () => void
  private readonly byKey = new Map<string, Entry>()
  /** The keys without a running call or a check, the one unused for longest first. */
  private readonly idle = { open: new IdleList<Entry>(), closed: new IdleList<Entry>() }

  constructor(
    history: HealthHistory,
    bounds: Bounds,
    settingsOf: (key: string) => KeySettings,
    on: {
      readonly change: (change: Change) => void
      readonly gate: (change: GateChange) => void
      /** Something was heard of a key whose gate is closed, or has just been. */
      readonly touch: () => void
    }
  ) {
    this.history = history
    this.bounds = bounds
    this.settingsOf = settingsOf
    this.onChange = on.change
    this.onGate = on.gate
    this.onTouch = on.touch
  }

  /** A call begins. One inside a probe of its key is counted, and the gate goes by how the probe ends. */
  begin(key: string, insideProbe: boolean, at: Moment): Ticket {
    const entry = this.entryOf(key, at)
    this.unrest(entry)
    entry.running++
    return { entry, epoch: entry.gate.epoch, counts: !insideProbe }
  }

  settle({ counts, entry, epoch }: Ticket, outcome: Outcome, elapsed: number, at: Moment): void {
    entry.running--
    entry.lastUsed = at.now
    const isLate = epoch !== entry.gate.epoch
    // After the gate has reopened, what began before says nothing about now.
    if (outcome !== "ignored" && !(isLate && !entry.gate.isClosed)) {
      this.count(entry, outcome, elapsed, counts && !isLate, at)
    }
    this.rest(entry, at)
  }

  record(key: string, outcome: "success" | "failure", elapsed: number, at: Moment): void {
    const entry = this.entryOf(key, at)
    entry.lastUsed = at.now
    this.count(entry, outcome, elapsed, true, at)
    this.rest(entry, at)
  }

  checked(key: string, name: string, result: Result, tookMillis: number, at: Moment): void {
    const entry = this.entryOf(key, at)
    this.unrest(entry)
    entry.lastUsed = at.now
    const before = entry.checks.get(name)
    const from = before?.result.status ?? "healthy"
    const same = before !== undefined && from === result.status
    entry.checks.set(name, { name, result, since: same ? before.since : at.wall, at: at.wall, tookMillis })
    entry.checked = Array.from(entry.checks.values(), (check) => check.result.status).reduce(worse, "healthy")
    if (from !== result.status) {
      this.onChange({ key, check: name, from, to: result.status, message: result.message })
    }
    if (entry.gate.isClosed) entry.gate.tried(entry.checked !== "critical", at.now)
    this.observe(entry, true, at)
  }

  enter(key: string, at: Moment): { readonly admission: Admission; readonly ticket: ProbeTicket | undefined } {
    const entry = this.byKey.get(key)
    if (entry === undefined || this.isExpired(entry, at.now)) return { admission: { _tag: "Pass" }, ticket: undefined }
    this.reopen(entry, at)
    const admission = entry.gate.enter(entry.checked === "critical", at.now)
    if (admission._tag !== "Probe") return { admission, ticket: undefined }
    this.unrest(entry)
    entry.running++
    return { admission, ticket: { entry, probe: admission.probe } }
  }

  leave({ entry, probe }: ProbeTicket, outcome: Outcome, at: Moment): void {
    entry.running--
    entry.lastUsed = at.now
    entry.gate.leave(probe, outcome, at.now)
    this.observe(entry, false, at)
    this.rest(entry, at)
  }

  view(key: string, at: Moment): View {
    const entry = this.byKey.get(key)
    if (entry === undefined || this.isExpired(entry, at.now)) {
      const figures = { calls: 0, errors: 0, meanMillis: 0 }
      return {
        ...figures,
        key,
        status: "healthy",
        message: sayCalls(figures),
        since: at.wall,
        percentiles: [0, 0, 0],
        gate: "open",
        gateWaitMillis: undefined,
        gateReason: "",
        closedSince: at.wall,
        lane: undefined
      }
    }
    this.refresh(entry, at)
    const blocked = entry.checked === "critical"
    const figures = entry.window.figures(at.now)
    return {
      ...figures,
      key,
      status: entry.status,
      message: this.say(entry, figures),
      since: entry.since,
      percentiles: entry.window.percentiles(50, 95, 99),
      gate: entry.gate.tag(blocked, at.now),
      gateWaitMillis: entry.gate.waitMillis(blocked, at.now),
      gateReason: entry.reason,
      closedSince: entry.closedSince,
      lane: entry.lane
    }
  }

  /** Looks at every key anew: what has not been called for a while gets better, or is forgotten. */
  views(at: Moment): ReadonlyArray<View> {
    this.sweep(at)
    return Array.from(this.byKey.keys(), (key) => this.view(key, at))
  }

  checksOf(key: string): ReadonlyMap<string, Checked> {
    return this.byKey.get(key)?.checks ?? new Map<string, Checked>()
  }

  /** The status of a key as it counts for the whole. */
  countedFor({ key, status }: { readonly key: string; readonly status: Status }): Status {
    return counted(status, this.byKey.get(key)?.settings.required ?? true)
  }

  /** How a key is but for its checks. A closed gate is something to look at, also when it has kept the calls away. */
  callsOf(key: string, at: Moment): Status {
    const entry = this.byKey.get(key)
    if (entry === undefined) return "healthy"
    const status = callStatus(entry.window.figures(at.now), entry.settings)
    return entry.gate.isClosed ? worse(status, "degraded") : status
  }

  /** What there is to say of a key but for its checks. */
  sayCalls(key: string, at: Moment): string {
    const entry = this.byKey.get(key)
    if (entry === undefined) return ""
    const figures = entry.window.figures(at.now)
    const said = callStatus(figures, entry.settings) === "healthy" ? [] : [sayCalls(figures)]
    if (!entry.gate.isClosed) return said.join("; ")
    const isSaid = said.length > 0 || entry.checked !== "healthy"
    return [isSaid ? "the gate is closed" : `the gate is closed (${entry.reason})`, ...said].join("; ")
  }

  /** Writes the status of every key into the round that has begun. */
  remember(): void {
    for (const { lane, status } of this.byKey.values()) this.history.put(lane, status)
  }

  private count(entry: Entry, outcome: "success" | "failure", elapsed: number, counts: boolean, at: Moment): void {
    entry.window.add(at.now, elapsed, outcome === "failure")
    if (entry.gate.isClosed && counts) entry.gate.passed(outcome === "success", at.now)
    this.observe(entry, counts, at)
  }

  /** Something was heard of the key. */
  private observe(entry: Entry, counts: boolean, at: Moment): void {
    this.refresh(entry, at)
    if (entry.gate.isClosed) {
      this.onTouch()
      this.reopen(entry, at)
      return
    }
    if (!counts) return
    const { calls, errors } = entry.window.sinceMark
    const { criticalAbove, minimumCalls } = entry.settings
    const isCritical = entry.checked === "critical" || (calls >= minimumCalls && errors > criticalAbove * calls)
    if (!entry.gate.observe(isCritical, at.now)) return
    entry.reason = this.say(entry, entry.window.figures(at.now))
    entry.closedSince = at.wall
    this.onTouch()
    this.onGate({ key: entry.key, to: "closed", message: entry.reason })
  }

  private reopen(entry: Entry, at: Moment): void {
    if (!entry.gate.reopen(entry.checked === "critical", at.now)) return
    entry.reason = ""
    // The calls that closed it shall not close it again.
    entry.window.mark()
    this.onTouch()
    this.onGate({ key: entry.key, to: "open", message: "it works again" })
  }

  private refresh(entry: Entry, at: Moment): void {
    const figures = entry.window.figures(at.now)
    const to = worse(callStatus(figures, entry.settings), entry.checked)
    const from = entry.status
    if (from === to) return
    entry.status = to
    entry.since = at.wall
    this.onChange({ key: entry.key, check: undefined, from, to, message: this.say(entry, figures) })
  }

  private say(entry: Entry, figures: Figures): string {
    const bad = Array.from(entry.checks.values())
      .filter(({ result }) => result.status !== "healthy")
      .map(({ name, result }) => `${name}: ${result.message}`)
    const calls = callStatus(figures, entry.settings)
    if (calls !== "healthy" || (bad.length === 0 && (figures.calls > 0 || entry.checks.size === 0))) {
      bad.push(sayCalls(figures))
    }
    const now = bad.join("; ")
    if (entry.reason === "") return now === "" ? "every check is healthy" : now
    const closed = `the gate is closed (${entry.reason})`
    return now === "" || now === entry.reason ? closed : `${closed}; ${now}`
  }

  private entryOf(key: string, at: Moment): Entry {
    const known = this.byKey.get(key)
    if (known !== undefined && !this.isExpired(known, at.now)) return known
    if (known !== undefined) this.forget(known)
    const settings = this.settingsOf(key)
    const entry: Entry = {
      key,
      settings,
      window: new HealthWindow(settings.size, settings.maxAge),
      gate: new Gate({ ...settings.gate, criticalAbove: settings.criticalAbove }),
      lane: this.history.lane(),
      checks: new Map(),
      checked: "healthy",
      status: "healthy",
      since: at.wall,
      reason: "",
      closedSince: at.wall,
      running: 0,
      lastUsed: at.now,
      place: undefined
    }
    this.byKey.set(key, entry)
    return entry
  }

  private isExpired({ checks, gate, lastUsed, running }: Entry, now: number): boolean {
    return running === 0 && checks.size === 0 && now - Math.max(lastUsed, gate.busyUntil) >= this.bounds.idleTimeToLive
  }

  private unrest({ place }: Entry): void {
    if (place !== undefined) place.list?.remove(place)
  }

  private rest(entry: Entry, at: Moment): void {
    if (entry.running > 0 || entry.checks.size > 0) return
    this.unrest(entry)
    this.makeRoom(at)
    const idle = entry.gate.isClosed ? this.idle.closed : this.idle.open
    entry.place ??= { of: entry, list: undefined, before: undefined, after: undefined }
    idle.add(entry.place)
  }

  private forget(entry: Entry): void {
    this.unrest(entry)
    this.byKey.delete(entry.key)
    const { key, status: from } = entry
    if (entry.gate.isClosed) {
      this.onTouch()
      this.onGate({ key, to: "open", message: "it was forgotten" })
    }
    if (from !== "healthy") {
      this.onChange({ key, check: undefined, from, to: "healthy", message: "it was forgotten" })
    }
  }

  private sweep({ now }: Moment): void {
    for (const entries of [this.idle.open, this.idle.closed]) {
      for (let entry = entries.oldest; entry !== undefined && this.isExpired(entry, now); entry = entries.oldest) {
        this.forget(entry)
      }
    }
  }

  private makeRoom(at: Moment): void {
    this.sweep(at)
    const { closed, open } = this.idle
    while (open.size + closed.size >= this.bounds.maxKeys) {
      const unused = open.oldest ?? closed.oldest
      if (unused === undefined) return
      this.forget(unused)
    }
  }
}
