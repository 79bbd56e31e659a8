/** @internal */
export type Outcome = "success" | "failure" | "ignored"

/**
 * Times are in milliseconds.
 *
 * @internal
 */
export interface GateSettings {
  readonly closeAfter: number
  readonly reopenAfter: number
  readonly closedFor: number
  /** The share of failures above which calls that pass by a closed gate keep it closed. */
  readonly criticalAbove: number
  readonly probeTimeout: number
}

/** @internal */
export interface Probe {
  readonly until: number
}

/** @internal */
export type Admission =
  | { readonly _tag: "Pass" }
  | { readonly _tag: "Probe"; readonly probe: Probe }
  | { readonly _tag: "Refused"; readonly waitMillis: number | undefined }

/** @internal */
export type GateTag = "open" | "closed" | "probing"

const pass: Admission = { _tag: "Pass" }

/**
 * The gate of one key. It closes after a row of critical observations and reopens after a row of good ones, but not
 * before its time; a bad one begins that time anew. So however the observations come, in a time T it closes at most
 * `T / closedFor + 1` times.
 *
 * `blocked` says that a check of the key is critical: then nobody has to try whether calls work.
 *
 * @internal
 */
export class Gate {
  private readonly settings: GateSettings
  private closed = false
  private row = 0
  private notBefore = 0
  /** The calls that have passed by since it closed, or since they last spoke for that. */
  private passing = { calls: 0, errors: 0 }
  private probe: Probe | undefined
  /** How often it has closed or reopened: a call from before says nothing about now. */
  epoch = 0

  constructor(settings: GateSettings) {
    this.settings = settings
  }

  get isClosed(): boolean {
    return this.closed
  }

  /** While open: how the key is after something has been heard of it. Says whether it closes. */
  observe(critical: boolean, now: number): boolean {
    this.row = critical ? this.row + 1 : 0
    if (this.row < this.settings.closeAfter) return false
    this.turn(true)
    this.notBefore = now + this.settings.closedFor
    return true
  }

  /** While closed: whether a probe or a check went well. */
  tried(good: boolean, now: number): void {
    if (good) {
      this.row++
    } else {
      this.row = 0
      this.passing = { calls: 0, errors: 0 }
      this.notBefore = now + this.settings.closedFor
    }
  }

  /**
   * While closed: how a call ended that nobody led through the gate. There may be many of them, and a few of many fail
   * where all is well: only their share is a bad sign.
   */
  passed(good: boolean, now: number): void {
    this.passing.calls++
    if (!good) this.passing.errors++
    if (this.passing.errors > this.settings.criticalAbove * this.passing.calls) this.tried(false, now)
    else if (good) this.row++
  }

  /** Whether it reopens now. */
  reopen(blocked: boolean, now: number): boolean {
    if (!this.closed || blocked || now < this.notBefore || this.row < this.settings.reopenAfter) return false
    this.turn(false)
    return true
  }

  enter(blocked: boolean, now: number): Admission {
    if (!this.closed) return pass
    if (blocked) return { _tag: "Refused", waitMillis: undefined }
    if (now < this.notBefore) return { _tag: "Refused", waitMillis: this.notBefore - now }
    if (this.probe !== undefined && now < this.probe.until) return { _tag: "Refused", waitMillis: undefined }
    this.probe = { until: now + this.settings.probeTimeout }
    return { _tag: "Probe", probe: this.probe }
  }

  /** A probe has ended. One that another has taken the place of says nothing any more. */
  leave(probe: Probe, outcome: Outcome, now: number): void {
    if (this.probe !== probe) return
    this.probe = undefined
    if (outcome !== "ignored") this.tried(outcome === "success", now)
  }

  tag(blocked: boolean, now: number): GateTag {
    if (!this.closed) return "open"
    return blocked || now < this.notBefore ? "closed" : "probing"
  }

  /** How long until it may let a probe through; nobody knows while a check is critical. */
  waitMillis(blocked: boolean, now: number): number | undefined {
    return this.closed && !blocked && now < this.notBefore ? this.notBefore - now : undefined
  }

  /** When an unused one has nothing to remember any more, at the earliest. */
  get busyUntil(): number {
    return this.closed ? this.notBefore : Number.NEGATIVE_INFINITY
  }

  private turn(closed: boolean): void {
    this.closed = closed
    this.row = 0
    this.passing = { calls: 0, errors: 0 }
    this.probe = undefined
    this.epoch++
  }
}
