/** @internal */
export interface Figures {
  readonly calls: number
  readonly errors: number
  readonly meanMillis: number
}

/**
 * The last calls of a key, at most `size` of them and none older than `maxAge`. Recording takes constant time: each call
 * is put in once and taken out once.
 *
 * @internal
 */
export class HealthWindow {
  private readonly maxAge: number
  private readonly times: Float64Array
  private readonly latencies: Float64Array
  private readonly failed: Uint8Array
  private oldest = 0
  private length = 0
  private errors = 0
  private sum = 0
  /** How many of the newest came after {@link mark}, and how many of those failed. */
  private marked = 0
  private markedErrors = 0

  constructor(size: number, maxAge: number) {
    this.maxAge = maxAge
    this.times = new Float64Array(size)
    this.latencies = new Float64Array(size)
    this.failed = new Uint8Array(size)
  }

  add(now: number, latency: number, failed: boolean): void {
    if (this.length === this.times.length) this.drop()
    const index = (this.oldest + this.length) % this.times.length
    this.times[index] = now
    this.latencies[index] = latency
    this.failed[index] = failed ? 1 : 0
    this.length++
    this.marked++
    this.sum += latency
    if (failed) {
      this.errors++
      this.markedErrors++
    }
    // Sums that are added to and subtracted from for ever drift away: once in each turn they are made anew.
    if (index === 0) this.sum = this.latest().reduce((sum, one) => sum + one, 0)
  }

  figures(now: number): Figures {
    while (this.length > 0 && now - (this.times[this.oldest] ?? now) > this.maxAge) this.drop()
    if (this.length === 0) this.sum = 0
    return { calls: this.length, errors: this.errors, meanMillis: this.length === 0 ? 0 : this.sum / this.length }
  }

  /** The nearest-rank percentiles of what {@link figures} counts. Sorts, so only for those who ask. */
  percentiles(...percents: ReadonlyArray<number>): ReadonlyArray<number> {
    const sorted = this.latest().toSorted()
    return percents.map((percent) => sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] ?? 0)
  }

  /** From now on {@link sinceMark} tells of what is added later alone. */
  mark(): void {
    this.marked = 0
    this.markedErrors = 0
  }

  /** What was added since {@link mark}, of that which {@link figures} counts. */
  get sinceMark(): { readonly calls: number; readonly errors: number } {
    return { calls: this.marked, errors: this.markedErrors }
  }

  private latest(): Float64Array {
    const { latencies, length, oldest } = this
    return Float64Array.from({ length }, (_, at) => latencies[(oldest + at) % latencies.length] ?? 0)
  }

  private drop(): void {
    const failed = this.failed[this.oldest] ?? 0
    this.sum -= this.latencies[this.oldest] ?? 0
    this.errors -= failed
    if (this.marked === this.length) {
      this.marked--
      this.markedErrors -= failed
    }
    this.oldest = (this.oldest + 1) % this.times.length
    this.length--
  }
}
