/** Parts of a balance that are smaller than this are not told apart: there is a bounded number of them. */
const finest = 1 / 4_096

/** Sums of fractions miss by a little. */
const slack = 1e-9

/**
 * A part of what a balance lacks, in the order in which it was drawn.
 *
 * @internal
 */
export interface Draw {
  left: number
  /** Whether nothing is left, and it is in no balance any more. */
  isGone: boolean
  older: Draw | undefined
  newer: Draw | undefined
}

/**
 * What a balance that refills up to its capacity lacks, and of what. A draw that turns out to have been too large gives
 * back exactly what the balance would hold more by now if it had been smaller from the start: what came back meanwhile
 * and found the balance full does not come back twice. So the balance is, after each step, what it would be if all that
 * is known by now had been known at once.
 *
 * With `r` less drawn at the time `s`, a balance that lacked `W(u)` lacks `min(r, W(u) for u from s on)` less now. What
 * comes back is therefore counted on the newest draws, and what is given back on the draw itself and those before it:
 * what is left of them is that minimum. Every step is constant time, amortized.
 *
 * @internal
 */
export class Balance {
  private newest: Draw | undefined
  private oldest: Draw | undefined

  /** So much is taken, of a balance of this capacity. */
  draw(amount: number, capacity: number): Draw {
    const draw: Draw = { left: amount, isGone: false, older: this.newest, newer: undefined }
    if (this.newest === undefined) this.oldest = draw
    else this.newest.newer = draw
    this.newest = draw
    const { older } = draw
    if (older !== undefined && older.left < capacity * finest) this.merge(older)
    return draw
  }

  /** So much has come back by itself. */
  refill(amount: number): void {
    let rest = amount
    while (rest > 0 && this.newest !== undefined) {
      const { newest } = this
      if (newest.left > rest) {
        newest.left -= rest
        return
      }
      rest -= newest.left
      newest.left = 0
      this.drop(newest)
    }
  }

  /** The balance is full. */
  fill(): void {
    this.refill(Infinity)
  }

  /** Takes back so much of a draw, or what is left of it; without a draw, of all of them. Gives back how much it is. */
  giveBack(draw: Draw | undefined, amount: number, capacity: number): number {
    let rest = amount
    let at = draw === undefined ? this.newest : here(draw)
    while (rest > 0 && at !== undefined) {
      const taken = Math.min(rest, at.left)
      rest -= taken
      at.left -= taken
      const { older } = at
      if (at.left <= slack) this.drop(at)
      else if (at.left < capacity * finest && at.newer !== undefined) this.merge(at)
      at = older
    }
    return amount - rest
  }

  /** What is lacking since before there was any draw. */
  lackBefore(amount: number): void {
    const first: Draw = { left: amount, isGone: false, older: undefined, newer: this.oldest }
    if (this.oldest === undefined) this.newest = first
    else this.oldest.older = first
    this.oldest = first
  }

  /** Counts a draw on the next one, so that of what was drawn before that one no more is given back than there is. */
  private merge(draw: Draw): void {
    const { newer } = draw
    if (newer === undefined) return
    newer.left += draw.left
    draw.left = 0
    this.drop(draw)
  }

  private drop(draw: Draw): void {
    const { newer, older } = draw
    draw.isGone = true
    draw.newer = undefined
    if (newer === undefined) this.newest = older
    else newer.older = older
    if (older === undefined) this.oldest = newer
    else older.newer = newer
  }
}

/** The draw, or the one before it of which there is still something. */
const here = (draw: Draw): Draw | undefined => {
  let at: Draw | undefined = draw
  while (at?.isGone === true) at = at.older
  if (draw.isGone) draw.older = at
  return at
}
