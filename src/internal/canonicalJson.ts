import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { permanent, verdictOf } from "../Fault.ts"

/**
 * A value that has no canonical JSON text, with the place inside it where the text ends.
 *
 * **Details**
 *
 * `path` is written like an access from the value (`$` is the value itself): `$.user["first name"][3]`. `found` says
 * what is there. Values are never quoted: they may be secrets.
 *
 * @category errors
 * @since 0.1.0
 */
export class NotJson extends Schema.TaggedError<NotJson>("effect-resilience/internal/canonicalJson/NotJson")(
  "NotJson",
  { path: Schema.String, found: Schema.String }
) {
  readonly [verdictOf] = permanent
  override get message() {
    return `No canonical JSON: ${this.path} is ${this.found}; pass null, booleans, finite numbers, well-formed text, and arrays or plain objects of these`
  }
}

// Far above what people nest and far below what the stack holds.
const maxDepth = 512

type Path = ReadonlyArray<string | number>

const identifier = /^[A-Za-z_$][\w$]*$/

const show = (path: Path): string =>
  "$" +
  path.map((key) =>
    typeof key === "number" ? `[${key}]` : identifier.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`
  ).join("")

const nameOf = (value: object): string => {
  const constructor: unknown = value.constructor
  return typeof constructor === "function" && constructor.name !== "" ? constructor.name : "a class"
}

// A prototype with no prototype of its own is Object.prototype, of this realm or another one.
const isPlain = (value: object): value is Record<string, unknown> => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

const text = (value: string, path: Path, where: string): string => {
  if (!value.isWellFormed()) throw new NotJson({ path: show(path), found: `${where} with half of a surrogate pair` })
  return JSON.stringify(value)
}

const write = (value: unknown, path: Array<string | number>, above: Set<object>): string => {
  const refuse = (found: string) => new NotJson({ path: show(path), found })
  switch (typeof value) {
    case "string":
      return text(value, path, "a text")
    case "boolean":
      return value ? "true" : "false"
    case "number":
      if (!Number.isFinite(value)) throw refuse(`the number ${value}`)
      // ECMAScript's spelling of a number is the one that RFC 8785 prescribes, and -0 is spelled 0.
      return JSON.stringify(value)
    case "object":
      if (value === null) return "null"
      return writeObject(value, path, above, refuse)
    case "undefined":
      throw refuse("undefined")
    default:
      throw refuse(`a ${typeof value}`)
  }
}

const writeObject = (
  value: object,
  path: Array<string | number>,
  above: Set<object>,
  refuse: (found: string) => NotJson
): string => {
  if (above.has(value)) throw refuse("a reference to an object around it")
  if (above.size >= maxDepth) throw refuse(`nested more than ${maxDepth} levels deep`)
  // All secrets have the same JSON, so that two calls that differ only in a secret would count as one.
  if (Redacted.isRedacted(value)) throw refuse("a Redacted value")
  above.add(value)
  const at = (key: string | number, member: unknown): string => {
    path.push(key)
    const written = write(member, path, above)
    path.pop()
    return written
  }
  let written: string
  if ("toJSON" in value && typeof value.toJSON === "function") {
    written = write(value.toJSON(path.at(-1)?.toString() ?? ""), path, above)
  } else if (Array.isArray(value)) {
    // Array.from and not map: a hole has to be refused as the undefined that it reads as.
    written = `[${Array.from<unknown, string>(value, (member, index) => at(index, member)).join(",")}]`
  } else if (isPlain(value)) {
    written = writeMembers(value, path, refuse, at)
  } else {
    throw refuse(`an instance of ${nameOf(value)}, which has no toJSON`)
  }
  above.delete(value)
  return written
}

const writeMembers = (
  value: Record<string, unknown>,
  path: Path,
  refuse: (found: string) => NotJson,
  at: (key: string, member: unknown) => string
): string => {
  if (Object.getOwnPropertySymbols(value).some((key) => Object.prototype.propertyIsEnumerable.call(value, key))) {
    throw refuse("an object with a symbol among its keys")
  }
  const members: Array<string> = []
  // The default order is by UTF-16 code units, which is the one that RFC 8785 prescribes.
  for (const key of Object.keys(value).toSorted()) {
    const member = value[key]
    if (member !== undefined) members.push(`${text(key, path, "an object with a key")}:${at(key, member)}`)
  }
  return `{${members.join(",")}}`
}

/**
 * Writes a value as the one JSON text that all equal values share (RFC 8785, JCS): keys sorted by UTF-16 code units,
 * ECMAScript's spelling of numbers, no white space.
 *
 * An absent property and one that is `undefined` are the same value; `undefined` anywhere else, and whatever JSON
 * would drop, round or invent, is refused.
 *
 * @internal
 */
export const canonicalJson = (value: unknown): Result.Result<string, NotJson> =>
  Result.try({
    try: () => write(value, [], new Set()),
    // What is not ours comes out of a getter or a toJSON of the value.
    catch: (error) =>
      error instanceof NotJson ? error : new NotJson({ path: "$", found: "a value that throws when read" })
  })
