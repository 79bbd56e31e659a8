import { LruMap } from "../../internal/lruMap.ts"
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
  private readonly byKey = new LruMap<{ readonly first: CircuitOptions; seen: CircuitOptions; isWarned: boolean }>()

  /** The options that hold for a call. */
  of(key: string, options: CircuitOptions | undefined): CircuitOptions | undefined {
    return this.byKey.peek(key)?.first ?? options
  }

  /** Takes note of the options of a call, and says what to warn of. */
  meet(key: string, options: CircuitOptions | undefined, settings: ServiceSettings): string | undefined {
    const known = this.byKey.use(key)
    if (known === undefined) {
      if (options === undefined) return undefined
      this.byKey.set(key, { first: options, seen: options, isWarned: false })
      this.byKey.shrink(maxKeys)
      return undefined
    }
    if (options === undefined || options === known.seen || known.isWarned) return undefined
    known.seen = options
    const objection = settings.objection(key, known.first, options)
    known.isWarned = objection !== undefined
    return objection
  }
}
