/** What is shorter tells more of this process than of the provider. */
const shortest = 10

/** Before that many calls nothing is known. */
const warmUp = 10

/** Of how many calls at least the latency of now is made. */
const enough = 5

/**
 * One kind of latency of one key: what it is now against what it was when the provider was at ease.
 *
 * As in Netflix's Gradient2Limit (https://github.com/Netflix/concurrency-limits), a short average over a long one gives a
 * gradient from 1 (nothing to do) down to 0.5 (halve). Two things differ, because the times of a model vary by a factor of
 * ten with the request: both averages are of logarithms, and the long one falls twenty times as fast as it rises, so that
 * it stays near the low end of what was seen, as the minimum in TCP Vegas does, without believing a single lucky call.
 *
 * @internal
 */
export class Latency {
  private readonly tolerance: number
  private base = 0
  private seen = 0
  private now = 0
  /** How many calls `now` is made of. */
  private count = 0
  /** What `now` was when the limit was last lowered for it. */
  private before: number | undefined

  /** How many times the base is still all right. */
  constructor(tolerance: number) {
    this.tolerance = tolerance
  }

  /** By what the limit is to be multiplied after a call that took so long. */
  add(millis: number): number {
    const value = Math.log(Math.max(shortest, millis))
    this.count++
    this.now += (value - this.now) * (this.count <= enough ? 1 / this.count : 0.2)
    this.seen++
    if (this.seen <= warmUp) {
      this.base += (value - this.base) / this.seen
      return 1
    }
    this.base += (value - this.base) * (value < this.base ? 0.05 : 0.0025)
    if (this.count < enough) return 1
    const gradient = Math.max(0.5, Math.min(1, this.tolerance * Math.exp(this.base - this.now)))
    if (gradient === 1) this.before = undefined
    return gradient
  }

  /** The limit was lowered for it: only calls that start from now on say whether that has helped. */
  lowered(): void {
    const { before, now } = this
    // Fewer calls and no better: then it is not the load. The requests became longer, or the model another one.
    if (before !== undefined && now > before - 0.2) this.base += (now - this.base) / 4
    this.before = now
    this.restart()
  }

  /** Forgets how it is now, and nothing of what it may be. */
  restart(): void {
    this.now = 0
    this.count = 0
  }
}
