/**
 * A place in an {@link IdleList}, or outside of any.
 *
 * @internal
 */
export interface Place<A> {
  readonly of: A
  list: IdleList<A> | undefined
  before: Place<A> | undefined
  after: Place<A> | undefined
}

/**
 * What is not in use, the longest unused first. A `Map` would keep the order as well, but to take from it and to put in
 * anew with every call costs the more the larger it is.
 *
 * @internal
 */
export class IdleList<A> {
  size = 0
  private first: Place<A> | undefined
  private last: Place<A> | undefined

  get oldest(): A | undefined {
    return this.first?.of
  }

  /** From the oldest on. What is given may be removed meanwhile. */
  *[Symbol.iterator](): Generator<A> {
    for (let place = this.first; place !== undefined;) {
      const { after, of } = place
      yield of
      place = after
    }
  }

  add(place: Place<A>): void {
    place.list = this
    place.before = this.last
    if (this.last === undefined) this.first = place
    else this.last.after = place
    this.last = place
    this.size++
  }

  remove(place: Place<A>): void {
    const { after, before } = place
    if (before === undefined) this.first = after
    else before.after = after
    if (after === undefined) this.last = before
    else after.before = before
    place.list = undefined
    place.before = undefined
    place.after = undefined
    this.size--
  }
}
