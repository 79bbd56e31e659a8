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

/** @internal */
export const join = (path: string, part: string): string => path === "" ? part : `${path}/${part}`

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

/**
 * The same for a saga: what is in it has its own scope, and only its failure has a record.
 *
 * @internal
 */
export const enterSaga = (scope: Scope, name: string): Claim => {
  const escaped = escape(name)
  const entry = `${escaped}${occurrence(scope, `${escaped}~`)}~`
  return occupy(scope, join(scope.path, entry), entry)
}

/** @internal */
export const leave = (scope: Scope): void => {
  scope.running = undefined
}

/** @internal */
export const insideStep = (claim: Claim): Scope => make(claim.id, claim.order)

/** @internal */
export const insideReconcile = (claim: Claim, attempt: number): Scope =>
  make(`${claim.id}/${reconcile}${attempt > 1 ? `#${attempt}` : ""}`, [...claim.order, -1])

/** @internal */
export const insideSaga = (claim: Claim): Scope => make(claim.id, claim.order)

/**
 * Where the failure of a saga stands.
 *
 * @internal
 */
export const failureOf = ({ id, order }: Pick<Claim, "id" | "order">): Pick<Claim, "id" | "order"> => ({
  id: `${id}/${undo}`,
  order: [...order, -1]
})

/**
 * The saga whose failure has this id, if it is one.
 *
 * @internal
 */
export const failedSaga = (id: string): string | undefined =>
  id.endsWith(`~/${undo}`) ? id.slice(0, -undo.length - 1) : undefined

/**
 * Where one of the steps of a saga is undone.
 *
 * @internal
 */
export const insideUndo = ({ id, order }: Pick<Claim, "id" | "order">, key: string): Scope =>
  make(`${id}/${undo}[${escape(key)}]`, [...order, -1])

/**
 * Whether a path leads into the steps of a saga, and not into those that undo them.
 *
 * @internal
 */
export const isInSaga = (path: string, saga: string): boolean =>
  path.startsWith(`${saga}/`) && !path.slice(saga.length).includes(`/${undo}`)

/** @internal */
export const insideGroup = (claim: Claim, key: string): Scope => make(`${claim.id}[${escape(key)}]`, claim.order)

/**
 * A branch opened by key. It has no ordinal: branches of different keys may be open at the same time, in any order. Its
 * order tells how many steps and groups the scope around had been asked for.
 *
 * @internal
 */
export const openBranch = (scope: Scope, key: string): Scope => {
  const escaped = `[${escape(key)}]`
  return make(join(scope.path, `${escaped}${occurrence(scope, escaped)}`), [...scope.order, -1 - scope.next])
}

/**
 * One part of a step's id. For a branch opened by key, `ordinal` is how many steps and groups had been asked for.
 *
 * @internal
 */
export interface Part {
  readonly kind: "step" | "group" | "branch" | "saga" | "reconcile" | "undo"
  readonly scope: string
  readonly path: string
  readonly ordinal: number
  readonly entry: string
}

/**
 * What a step's id and order tell of, from the outside to the inside.
 *
 * @internal
 */
export const parts = (id: string, order: ReadonlyArray<number>): ReadonlyArray<Part> => {
  let scope = ""
  return id.split("/").map((text, index) => {
    const ordinal = order[index] ?? -1
    const path = join(scope, text)
    const { entry, kind } = kindOf(text)
    const part: Part = { kind, scope, path, ordinal: ordinal >= 0 ? ordinal : -1 - ordinal, entry }
    scope = path
    return part
  })
}

/** @internal */
export const kindOf = (part: string): Pick<Part, "kind" | "entry"> =>
  part.startsWith("[")
    ? { kind: "branch", entry: part }
    : part.startsWith(reconcile)
    ? { kind: "reconcile", entry: part }
    : part.startsWith(undo)
    ? { kind: "undo", entry: part }
    : part.endsWith("~")
    ? { kind: "saga", entry: part }
    : part.endsWith("]")
    ? { kind: "group", entry: part.replace(/\[[^\]]*\]$/, "[]") }
    : { kind: "step", entry: part }

// No name begins like this: it is escaped in them.
const reconcile = "~reconcile"
const undo = "~undo"

/**
 * The id of the step that a scope belongs to, also in its reconcile, or the scope's own path. A step that is undone once
 * more, after somebody has decided so, is undone by the same step.
 *
 * @internal
 */
export const ownerOf = (path: string): string =>
  path.replace(/\/~reconcile(#\d+)?$/, "").replaceAll(/(\/~undo\[[^\]]*\]\/[^/#]*)#\d+/g, "$1")

/** @internal */
export const describe = (entry: string): string =>
  entry.endsWith("[]")
    ? `the branches "${entry.slice(0, -2)}"`
    : entry.endsWith("~")
    ? `the saga "${entry.slice(0, -1)}"`
    : `step "${entry}"`
