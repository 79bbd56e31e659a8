/** @internal */
export const hidden = "<redacted>"

const secretText: ReadonlyArray<readonly [RegExp, string]> = [
  [/\b(bearer|basic)\s+[\w.~+/=-]{8,}/gi, `$1 ${hidden}`],
  [/\b(sk|pk|rk|ghp|gho|ghs|xox[abps]|AKIA)[-_]?[A-Za-z0-9_-]{16,}/g, hidden],
  [/\beyJ[\w-]{8,4000}\.[\w-]{8,}\.[\w-]*/g, hidden],
  [/((?:passw(?:or)?d|secret|api[-_]?key|token)["']?\s*[:=]\s*["']?)[^\s"',;&]{4,}/gi, `$1${hidden}`],
  [/(\b[a-z][a-z0-9+.-]{0,30}:\/\/[^\s:/@]*:)[^\s@/]+@/gi, `$1${hidden}@`]
]

/**
 * A text without what looks like a secret.
 *
 * @internal
 */
export const masked = (text: string): string => {
  let clean = text
  for (const [pattern, replacement] of secretText) clean = clean.replace(pattern, replacement)
  return clean
}
