/**
 * A place in a program where steps are called one after the other. Mutable: it counts what was called in it.
 *
 * @internal
 */
export interface Scope {
  readonly path: string
  readonly order: ReadonlyArray<number>
  readonly counts: Map<string, number>
  readonly branches: Set<string>
  next: number
  running: string | undefined
}

/**
 * What a scope gave to one step, or to one group of branches.
 *
 * @internal
 */
export interface Claim {
  readonly id: string
  readonly entry: string
  readonly ordinal: number
  readonly order: ReadonlyArray<number>
}

const make = (path: string, order: ReadonlyArray<number>): Scope => ({
  path,
  order,
  counts: new Map(),
  branches: new Set(),
  next: 0,
  running: undefined
})

/** @internal */
export const root = (): Scope => make("", [])

const join = (path: string, part: string): string => path === "" ? part : `${path}/${part}`

// The first of these characters build a path, so a name may hold them only escaped; control characters and halves of
// surrogate pairs do not come back from every store as they went in.
const escape = (name: string): string =>
  name.replaceAll(/[%/#[\]~\p{Cc}\p{Cs}]/gu, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)

const occurrence = (scope: Scope, escaped: string): string => {
  const n = (scope.counts.get(escaped) ?? 0) + 1
  scope.counts.set(escaped, n)
  return n === 1 ? "" : `#${n}`
}

const occupy = (scope: Scope, id: string, entry: string): Claim => {
  scope.running = id
  const ordinal = scope.next++
  return { id, entry, ordinal, order: [...scope.order, ordinal] }
}

/**
 * Gives the next step of this name its identity and its place; the scope is taken until `leave`.
 *
 * @internal
 */
export const enterStep = (scope: Scope, name: string): Claim => {
  const escaped = escape(name)
  const entry = `${escaped}${occurrence(scope, escaped)}`
  return occupy(scope, join(scope.path, entry), entry)
}

/**
 * The same for a group of parallel branches.
 *
 * @internal
 */
export const enterGroup = (scope: Scope, name: string): Claim => {
  const escaped = escape(name)
  const label = `${escaped}${occurrence(scope, `${escaped}[]`)}`
  return occupy(scope, join(scope.path, label), `${label}[]`)
}

/** @internal */
export const leave = (scope: Scope): void => {
  scope.running = undefined
}

/** @internal */
export const insideStep = (claim: Claim): Scope => make(claim.id, claim.order)

/** @internal */
export const insideReconcile = (claim: Claim, attempt: number): Scope =>
  make(`${claim.id}/~reconcile${attempt > 1 ? `#${attempt}` : ""}`, [...claim.order, -1])

/** @internal */
export const insideGroup = (claim: Claim, key: string): Scope => make(`${claim.id}[${escape(key)}]`, claim.order)

/**
 * A branch opened by key. It has no ordinal: branches of different keys may be open at the same time, in any order.
 *
 * @internal
 */
export const openBranch = (scope: Scope, key: string): Scope => {
  const escaped = `[${escape(key)}]`
  return make(join(scope.path, `${escaped}${occurrence(scope, escaped)}`), [...scope.order, -1])
}

/**
 * The entries, each with the scope it stands in and its ordinal there, that a step's id and order tell of.
 *
 * @internal
 */
export const entries = (
  id: string,
  order: ReadonlyArray<number>
): ReadonlyArray<{ readonly scope: string; readonly ordinal: number; readonly entry: string }> => {
  const found: Array<{ readonly scope: string; readonly ordinal: number; readonly entry: string }> = []
  let scope = ""
  id.split("/").forEach((part, index) => {
    const ordinal = order[index] ?? -1
    if (ordinal >= 0) found.push({ scope, ordinal, entry: part.replace(/\[[^\]]*\]$/, "[]") })
    scope = join(scope, part)
  })
  return found
}

/** @internal */
export const describe = (entry: string): string =>
  entry.endsWith("[]") ? `the branches "${entry.slice(0, -2)}"` : `step "${entry}"`
