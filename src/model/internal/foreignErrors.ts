import * as Predicate from "effect/Predicate"

/** @internal */
export const textAt = (value: unknown, key: string): string | null =>
  Predicate.hasProperty(value, key) && typeof value[key] === "string" ? value[key] : null

/** @internal */
export const excerpt = (value: string): string => value.length > 300 ? `${value.slice(0, 300)}...` : value

/** @internal */
export const causes = (error: unknown): ReadonlyArray<unknown> => {
  const chain: Array<unknown> = []
  for (let next = error; next !== undefined && next !== null && chain.length < 8;) {
    chain.push(next)
    next = Predicate.hasProperty(next, "cause") ? next.cause : undefined
  }
  return chain
}

/**
 * The innermost explanation of a network error, for example `read ECONNRESET`.
 *
 * @internal
 */
export const explain = (error: unknown): string => {
  const innermost = causes(error).at(-1)
  const message = textAt(innermost, "message") ?? String(innermost)
  const code = textAt(innermost, "code")
  return code === null || message.includes(code) ? message : `${message} (${code})`.trim()
}
