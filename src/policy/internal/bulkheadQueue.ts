/** A place in a {@link Queue}. */
export class Place<A> {
  readonly value: A
  queue: Queue<A> | undefined
  previous: Place<A> | undefined
  next: Place<A> | undefined

  constructor(value: A, queue: Queue<A>) {
    this.value = value
    this.queue = queue
  }
}

/**
 * A queue that one can leave from anywhere in one step, however long it is. A Set would do the same, but it keeps the
 * places of those who left, and finding its first member means to walk over them.
 *
 * @internal
 */
export class Queue<A> {
  size = 0
  private head: Place<A> | undefined
  private tail: Place<A> | undefined

  push(value: A): Place<A> {
    const place = new Place(value, this)
    place.previous = this.tail
    if (this.tail === undefined) this.head = place
    else this.tail.next = place
    this.tail = place
    this.size++
    return place
  }

  /** The first, who stays. */
  get first(): A | undefined {
    return this.head?.value
  }

  /** From the first on. Nobody leaves meanwhile. */
  *[Symbol.iterator](): Iterator<A> {
    for (let place = this.head; place !== undefined; place = place.next) yield place.value
  }

  /** The first, who leaves with it. */
  shift(): A | undefined {
    const { head } = this
    if (head === undefined) return undefined
    this.remove(head)
    return head.value
  }

  /** Leaving twice does nothing. */
  remove(place: Place<A>): void {
    if (place.queue !== this) return
    if (place.previous === undefined) this.head = place.next
    else place.previous.next = place.next
    if (place.next === undefined) this.tail = place.previous
    else place.next.previous = place.previous
    place.queue = undefined
    place.previous = undefined
    place.next = undefined
    this.size--
  }
}
