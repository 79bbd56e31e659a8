/** How many operations in a row have to fail before calls stop waiting for the store, and for how long they do. */
const patience = 3
const pause = 1_000

/**
 * Whether a store is away. One that hangs must not cost every call its time limit: after three failures in a row only
 * one operation a second asks it, until one is answered. Times are monotonic milliseconds.
 *
 * @internal
 */
export class Outage {
  private failuresInARow = 0
  private lastFailure = 0
  private nextTry = 0
  private isAway = false

  asks(now: number): boolean {
    if (this.failuresInARow < patience) return true
    if (now < this.nextTry) return false
    this.nextTry = now + pause
    return true
  }

  /** Says whether an outage has begun. */
  failed(now: number): boolean {
    this.failuresInARow++
    this.lastFailure = now
    this.nextTry = now + pause
    if (this.isAway) return false
    this.isAway = true
    return true
  }

  /** Says whether an outage is over: a store that answers now and then is not back. */
  answered(now: number): boolean {
    this.failuresInARow = 0
    if (!this.isAway || now - this.lastFailure < pause) return false
    this.isAway = false
    return true
  }
}
