import { IdleList, type Place } from "./idleList.ts"

interface Held<A> {
  readonly key: string
  value: A
}

/**
 * A map in the order of last use. A `Map` from which what is used is taken and put in anew keeps that order as well, but
 * each use costs the more the larger it is: the places that were left are gone through until the map is written anew.
 *
 * @internal
 */
export class LruMap<A> {
  private readonly byKey = new Map<string, Place<Held<A>>>()
  private readonly order = new IdleList<Held<A>>()

  get size(): number {
    return this.byKey.size
  }

  /** Reads without using. */
  peek(key: string): A | undefined {
    return this.byKey.get(key)?.of.value
  }

  /** Reads, and makes it the one used last. */
  use(key: string): A | undefined {
    const place = this.byKey.get(key)
    if (place === undefined) return undefined
    this.order.remove(place)
    this.order.add(place)
    return place.of.value
  }

  /** Writes, and makes it the one used last. */
  set(key: string, value: A): void {
    const known = this.byKey.get(key)
    const place = known ?? { of: { key, value }, list: undefined, before: undefined, after: undefined }
    place.of.value = value
    if (known === undefined) this.byKey.set(key, place)
    else this.order.remove(place)
    this.order.add(place)
  }

  delete(key: string): void {
    const place = this.byKey.get(key)
    if (place === undefined) return
    this.byKey.delete(key)
    this.order.remove(place)
  }

  /** Drops what was unused for longest until no more is left than this. */
  shrink(size: number): void {
    for (let oldest = this.order.oldest; oldest !== undefined && this.size > size; oldest = this.order.oldest) {
      this.delete(oldest.key)
    }
  }

  /** From the one unused for longest to the one used last. */
  *entries(): Generator<readonly [key: string, value: A]> {
    for (const { key, value } of this.order) yield [key, value]
  }
}
