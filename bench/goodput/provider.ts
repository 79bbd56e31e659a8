/**
 * A model provider with limits, as far as its clients can tell: token buckets, a number of answers at a time, and bad
 * days. It is the same for every implementation, and its dice depend on the seed and the call, not on who called before.
 */
import { uniform } from "../../src/testing/internal/seeded.ts"
import type { VirtualTime } from "./virtualTime.ts"

export interface Limits {
  readonly requestsPerMinute: number
  readonly inputTokensPerMinute: number
  readonly outputTokensPerMinute: number
}

/** From here to there, in milliseconds, with so many slots; an outage has none. */
export interface Trouble {
  readonly kind: "outage" | "brownout"
  readonly from: number
  readonly to: number
  readonly slots?: number
}

export interface Options {
  readonly name: string
  readonly limits: Limits
  /** Answers at a time. */
  readonly slots: number
  /** Default: none. */
  readonly troubles?: ReadonlyArray<Trouble>
  /** What the provider says of its limits: the whole, or nothing (no `retry-after` either). Default: all. */
  readonly headers?: "all" | "none"
  /** A refused call takes what there is of its request and its input tokens all the same. Default: no. */
  readonly refusalsCharged?: boolean
}

export interface Call {
  /** Tells apart all calls of a simulation; the provider's dice are thrown for it. */
  readonly id: string
  readonly inputTokens: number
  readonly maxOutputTokens: number
  readonly outputTokens: number
}

export type Headers = Readonly<Record<string, string>>

export type Outcome =
  | { readonly _tag: "Answered"; readonly headers: Headers }
  | { readonly _tag: "Refused"; readonly status: 429 | 503 | 529; readonly headers: Headers }
  | { readonly _tag: "Reset" }

/** What a client sees of its call: the headers of an answer, that it is under way, and its end. */
export interface Listener {
  readonly head?: (headers: Headers) => void
  readonly beat?: () => void
  readonly end: (outcome: Outcome) => void
}

const minute = 60_000

/** Fills up continuously, never above its capacity, which is what a minute brings. */
export class Bucket {
  readonly capacity: number
  private readonly perMilli: number
  private balance: number
  private at = 0

  constructor(perMinute: number) {
    this.capacity = perMinute
    this.perMilli = perMinute / minute
    this.balance = perMinute
  }

  has(now: number): number {
    this.balance = Math.min(this.capacity, this.balance + (now - this.at) * this.perMilli)
    this.at = now
    return this.balance
  }

  /** Takes a cost, or what there is of it. */
  take(now: number, cost: number): number {
    const taken = Math.min(cost, this.has(now))
    this.balance -= taken
    return taken
  }

  give(now: number, cost: number): void {
    this.balance = Math.min(this.capacity, this.has(now) + cost)
  }

  /** Milliseconds until it holds so much. */
  wait(now: number, cost: number): number {
    return Math.max(0, (cost - this.has(now)) / this.perMilli)
  }
}

/** One way over the network. */
const networkMillis = 50
/** How long after an outage all slots are there again, and the share of them that is there at once. */
const rampMillis = 120_000
const rampFrom = 0.1
const beatMillis = 5_000
const stallShare = 0.003
const hangShare = 0.2
const tailShare = 0.01

const normal = (one: number, other: number): number => Math.sqrt(-2 * Math.log(1 - one)) * Math.cos(2 * Math.PI * other)

interface Running {
  readonly call: Call
  readonly listener: Listener
  readonly timers: Array<() => void>
  readonly headers: Headers
}

interface Waiting {
  readonly call: Call
  readonly listener: Listener
}

/** What a simulation is told of the provider. */
export interface Log {
  /** When each call came, in milliseconds. */
  readonly calls: ReadonlyArray<number>
  readonly refused: number
  /** Input tokens that were taken from the bucket, whatever came of them. */
  readonly inputTokens: number
  /** The input tokens of the calls that were under way when the simulation ended. */
  readonly underWay: ReadonlyArray<number>
}

// Rounding must not keep a bucket that fills up from holding what it is waited for.
const little = 1e-6

export class Provider {
  readonly name: string
  private readonly told = { calls: new Array<number>(), refused: 0, inputTokens: 0 }
  private readonly time: VirtualTime
  private readonly seed: number
  private readonly options: Options
  private readonly requests: Bucket
  private readonly input: Bucket
  private readonly output: Bucket
  private readonly running = new Set<Running>()
  private readonly waiting: Array<Waiting> = []
  private wake: (() => void) | undefined

  constructor(time: VirtualTime, seed: number, options: Options) {
    this.name = options.name
    this.time = time
    this.seed = seed
    this.options = options
    this.requests = new Bucket(options.limits.requestsPerMinute)
    this.input = new Bucket(options.limits.inputTokensPerMinute)
    this.output = new Bucket(options.limits.outputTokensPerMinute)
    for (const { from, kind } of options.troubles ?? []) {
      if (kind === "outage") time.after(from - time.now, () => this.resetAll())
    }
  }

  /** Sends a call. What it gives back hangs up. */
  send(call: Call, listener: Listener): () => void {
    let hangUp: (() => void) | undefined
    const cancel = this.time.after(networkMillis, () => {
      this.told.calls.push(this.time.now)
      hangUp = this.arrive(call, listener)
    })
    return () => {
      cancel()
      hangUp?.()
    }
  }

  /**
   * Sends a call of the oracle: it waits where it is admitted, in the order of arrival, and is never refused. It counts
   * as a call from then on.
   */
  sendKnowing(call: Call, listener: Listener): void {
    this.time.after(networkMillis, () => {
      this.waiting.push({ call, listener })
      this.admitWaiting()
    })
  }

  /** Answers at a time, now. */
  get slots(): number {
    const { slots, troubles = [] } = this.options
    const { now } = this.time
    let found = slots
    for (const { from, kind, slots: left = 0, to } of troubles) {
      if (now < from) continue
      if (now < to) found = Math.min(found, kind === "outage" ? 0 : left)
      else if (kind === "outage" && now < to + rampMillis) {
        found = Math.min(found, Math.floor(slots * (rampFrom + (1 - rampFrom) * (now - to) / rampMillis)))
      }
    }
    return found
  }

  /** Whether a call that came now would be admitted at once. */
  canAdmit(call: Call): boolean {
    return this.outage === undefined && this.waiting.length === 0 && this.wait(call) === 0 &&
      this.running.size < this.slots
  }

  /** What has happened so far. */
  get log(): Log {
    const underWay = Array.from(this.running, ({ call }) => call.inputTokens)
    return { ...this.told, calls: this.told.calls.slice(), underWay }
  }

  private get outage(): Trouble | undefined {
    const { now } = this.time
    return this.options.troubles?.find(({ from, kind, to }) => kind === "outage" && from <= now && now < to)
  }

  private draw(call: Call, purpose: string): number {
    return uniform(this.seed, 0, `${call.id}/${purpose}`)
  }

  private arrive(call: Call, listener: Listener): (() => void) | undefined {
    if (this.outage !== undefined) {
      if (this.draw(call, "outage") < hangShare) return undefined
      return this.refuse(listener, this.draw(call, "status") < 0.5 ? 529 : 503)
    }
    const wait = this.wait(call)
    if (wait > 0) {
      if (this.options.refusalsCharged === true) this.charge(call)
      return this.refuse(listener, 429, wait)
    }
    if (this.running.size >= this.slots) return this.refuse(listener, 529)
    return this.start(call, listener, false)
  }

  /** Milliseconds until the buckets hold what the call needs. */
  private wait({ inputTokens, maxOutputTokens }: Call): number {
    const { now } = this.time
    const wait = Math.max(
      this.requests.wait(now, 1),
      this.input.wait(now, inputTokens),
      this.output.wait(now, maxOutputTokens)
    )
    return wait < little ? 0 : wait
  }

  private charge({ inputTokens }: Call): void {
    const { now } = this.time
    this.requests.take(now, 1)
    this.told.inputTokens += this.input.take(now, inputTokens)
  }

  private refuse(listener: Listener, status: 429 | 503 | 529, waitMillis?: number): () => void {
    this.told.refused++
    const headers = this.options.headers === "none" || waitMillis === undefined
      ? {}
      : { ...this.limitHeaders(), "retry-after": String(Math.max(1, Math.ceil(waitMillis / 1_000))) }
    return this.time.after(networkMillis, () => listener.end({ _tag: "Refused", status, headers }))
  }

  private limitHeaders(): Headers {
    if (this.options.headers === "none") return {}
    const { now } = this.time
    const found: Record<string, string> = {}
    const buckets: ReadonlyArray<readonly [string, Bucket]> = [
      ["requests", this.requests],
      ["input-tokens", this.input],
      ["output-tokens", this.output]
    ]
    for (const [name, bucket] of buckets) {
      const reset = this.time.currentTimeMillisUnsafe() + bucket.wait(now, bucket.capacity)
      found[`anthropic-ratelimit-${name}-limit`] = String(bucket.capacity)
      found[`anthropic-ratelimit-${name}-remaining`] = String(Math.floor(bucket.has(now)))
      found[`anthropic-ratelimit-${name}-reset`] = `${
        new Date(Math.ceil(reset / 1_000) * 1_000).toISOString().slice(0, 19)
      }Z`
    }
    return found
  }

  private latency(call: Call): number {
    const usual = 4_000 * Math.exp(0.7 * normal(this.draw(call, "latency"), this.draw(call, "latency'")))
    if (this.draw(call, "tail") >= tailShare) return usual
    // Pareto with exponent 1.5 from 20 s on, cut off at four minutes
    return Math.min(4 * minute, 20_000 / (1 - this.draw(call, "length")) ** (1 / 1.5))
  }

  /** Begins an answer. A stall is never told; only the oracle knows of it at once. */
  private start(call: Call, listener: Listener, isKnown: boolean): () => void {
    const { now } = this.time
    this.requests.take(now, 1)
    this.told.inputTokens += this.input.take(now, call.inputTokens)
    this.output.take(now, call.maxOutputTokens)
    const latency = this.latency(call)
    const first = Math.min(latency, 800 * Math.exp(0.5 * normal(this.draw(call, "first"), this.draw(call, "first'"))))
    const stallsAt = this.draw(call, "stall") < stallShare ? latency * this.draw(call, "stalls at") : Infinity
    const headers = this.limitHeaders()
    const running: Running = { call, listener, timers: [], headers }
    this.running.add(running)
    const at = (millis: number, run: () => void) => {
      if (millis <= stallsAt) running.timers.push(this.time.after(millis, run))
    }
    const { beat, head } = listener
    if (head !== undefined) at(first, () => head(headers))
    if (beat !== undefined) { for (let next = beatMillis; next < latency; next += beatMillis) at(next, beat) }
    running.timers.push(this.time.after(latency, () => this.end(running, stallsAt === Infinity)))
    if (isKnown && stallsAt < Infinity) {
      this.time.after(stallsAt, () => listener.end({ _tag: "Reset" }))
    }
    return () => this.hangUp(running)
  }

  private end(running: Running, isWhole: boolean): void {
    this.free(running)
    if (isWhole) running.listener.end({ _tag: "Answered", headers: running.headers })
    this.admitWaiting()
  }

  private hangUp(running: Running): void {
    if (!this.running.has(running)) return
    this.free(running)
    this.admitWaiting()
  }

  /** Gives the slot back, and what was reserved of output tokens and not used. */
  private free(running: Running): void {
    this.running.delete(running)
    for (const cancel of running.timers) cancel()
    this.output.give(this.time.now, running.call.maxOutputTokens - running.call.outputTokens)
  }

  private resetAll(): void {
    // Whoever hears of it may send again at once, and that is another call.
    const reset = Array.from(this.running)
    for (const running of reset) {
      this.free(running)
      running.listener.end({ _tag: "Reset" })
    }
  }

  private admitWaiting(): void {
    this.wake?.()
    this.wake = undefined
    for (;;) {
      const [head] = this.waiting
      if (head === undefined) return
      const { outage } = this
      if (outage !== undefined) return this.lookAgain(outage.to - this.time.now)
      const wait = this.wait(head.call)
      if (wait > 0) return this.lookAgain(wait)
      // In a ramp a slot comes every few hundred milliseconds, also when nobody leaves.
      if (this.running.size >= this.slots) return this.lookAgain(100)
      this.waiting.shift()
      this.told.calls.push(this.time.now)
      this.start(head.call, head.listener, true)
    }
  }

  private lookAgain(millis: number): void {
    this.wake = this.time.after(millis, () => {
      this.wake = undefined
      this.admitWaiting()
    })
  }
}
