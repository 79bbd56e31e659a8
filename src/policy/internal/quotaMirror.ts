import { Balance, type Draw } from "./quotaBalance.ts"
import type { Limit } from "./quotaGovernor.ts"

/**
 * What this process knows of a balance that it shares: what the store says with every cost that is reserved there. It is
 * what bounds how much is given back. What others have drawn is seen with the next answer, and until then it seems that
 * the balance has filled up more than it has: so much too little is given back, never too much.
 *
 * @internal
 */
export class Mirror {
  private readonly limit: Limit
  private readonly balance = new Balance()
  private lacks = 0
  private at = Number.NEGATIVE_INFINITY

  constructor(limit: Limit) {
    this.limit = limit
  }

  /** The store has said that the balance lacks so much, when it was asked at `now`. */
  see(lacks: number, now: number): void {
    this.refill(now)
    const others = lacks - this.lacks
    if (others > 0) this.balance.draw(others, this.limit.burst)
    else this.balance.refill(-others)
    this.lacks = lacks
  }

  /** The same, and that is with what the store has drawn for a call. */
  drawn(amount: number, lacks: number, now: number): Draw {
    this.see(lacks - amount, now)
    this.lacks = lacks
    return this.balance.draw(amount, this.limit.burst)
  }

  /**
   * A call that has its cost reserved since some time is sent only now. Gives back the draw that counts from now on, and
   * how much of it has come back meanwhile, since others did not use what was reserved before it, and is to be drawn anew.
   */
  renew(draw: Draw | undefined, amount: number, now: number): { readonly draw: Draw; readonly lost: number } {
    const there = this.giveBack(draw, amount, now)
    this.lacks += there
    return { draw: this.balance.draw(there, this.limit.burst), lost: amount - there }
  }

  /** How much of a draw, or of what is left of it, can be given back. */
  giveBack(draw: Draw | undefined, amount: number, now: number): number {
    if (draw === undefined) return 0
    this.refill(now)
    const given = this.balance.giveBack(draw, Math.min(amount, this.lacks), this.limit.burst)
    this.lacks -= given
    return given
  }

  private refill(now: number): void {
    if (now <= this.at) return
    const back = (now - this.at) * this.limit.limit / this.limit.perMillis
    this.at = now
    if (back < this.lacks) {
      this.lacks -= back
      this.balance.refill(back)
    } else {
      this.lacks = 0
      this.balance.fill()
    }
  }
}
