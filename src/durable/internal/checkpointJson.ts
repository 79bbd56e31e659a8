import * as Result from "effect/Result"
import type * as Schema from "effect/Schema"

// Far above what people nest and far below what the stack holds.
const maxDepth = 512

class Refused {
  readonly path: string
  readonly found: string
  constructor(path: string, found: string) {
    this.path = path
    this.found = found
  }
}

const isPlain = (value: object): boolean => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

const copy = (value: unknown, path: string, depth: number): Schema.Json => {
  switch (typeof value) {
    case "string":
    case "boolean":
      return value
    case "number":
      if (!Number.isFinite(value)) throw new Refused(path, `the number ${value}`)
      // JSON writes -0 as 0.
      return value === 0 ? 0 : value
    case "object": {
      if (value === null) return null
      if (depth >= maxDepth) throw new Refused("$", `nested more than ${maxDepth} levels deep`)
      if (Array.isArray(value)) {
        return Array.from<unknown, Schema.Json>(value, (member, index) => copy(member, `${path}[${index}]`, depth + 1))
      }
      if (!isPlain(value)) throw new Refused(path, "an object with a class")
      return Object.fromEntries(
        Object.entries(value).flatMap(([key, member]) =>
          member === undefined ? [] : [[key, copy(member, `${path}.${key}`, depth + 1)]]
        )
      )
    }
    default:
      throw new Refused(path, typeof value === "undefined" ? "undefined" : `a ${typeof value}`)
  }
}

/**
 * Gives a value as JSON text gives it back, or says where it is not JSON. A property that is `undefined` is none.
 *
 * @internal
 */
export const toJson = (value: unknown): Result.Result<Schema.Json, string> =>
  Result.try({
    try: () => copy(value, "$", 0),
    catch: (error) => error instanceof Refused ? `${error.path} is ${error.found}, which is not JSON` : "it is not JSON"
  })
