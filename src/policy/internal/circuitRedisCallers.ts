import type { CircuitOptions, ServiceSettings } from "./circuitSettings.ts"

// As many keys as a circuit breaker of the process remembers by default.
const maxKeys = 10_000

/**
 * Whose options the calls of this process follow: for each of the keys used last, those of the first caller who brought
 * any.
 *
 * @internal
 */
export class Callers {
  private readonly byKey = new Map<
    string,
    { readonly first: CircuitOptions; seen: CircuitOptions; isWarned: boolean }
  >()

  /** The options that hold for a call. */
  of(key: string, options: CircuitOptions | undefined): CircuitOptions | undefined {
    return this.byKey.get(key)?.first ?? options
  }

  /** Takes note of the options of a call, and says what to warn of. */
  meet(key: string, options: CircuitOptions | undefined, settings: ServiceSettings): string | undefined {
    const known = this.byKey.get(key)
    if (known === undefined) {
      if (options === undefined) return undefined
      const [oldest] = this.byKey.keys()
      if (oldest !== undefined && this.byKey.size >= maxKeys) this.byKey.delete(oldest)
      this.byKey.set(key, { first: options, seen: options, isWarned: false })
      return undefined
    }
    // The map keeps the order of insertion: what is used goes to its end.
    this.byKey.delete(key)
    this.byKey.set(key, known)
    if (options === undefined || options === known.seen || known.isWarned) return undefined
    known.seen = options
    const objection = settings.objection(key, known.first, options)
    known.isWarned = objection !== undefined
    return objection
  }
}
