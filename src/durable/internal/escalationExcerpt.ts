import * as Redacted from "effect/Redacted"
import type * as Schema from "effect/Schema"
import { hidden, masked } from "../../internal/secretText.ts"

// Named by what people call secrets. A flag under such a name is a setting, and a number of tokens is a count.
const secretName =
  /^(authorization|cookie|set-cookie)$|passw(or)?d|passphrase|secret|credential|api[-_]?key|private[-_]?key|token|session[-_]?id/i

const maxDepth = 12

/**
 * A text without what looks like a secret, cut to a length.
 *
 * @internal
 */
export const excerptText = (text: string, limit: number): string => {
  // Cut first, with room to tell a secret at the end: a huge text must not be searched to its own end.
  const clean = masked(text.slice(0, limit + 500))
  if (text.length <= limit + 500 && clean.length <= limit) return clean.toWellFormed()
  const kept = clean.slice(0, limit).toWellFormed()
  return `${kept}<truncated: ${text.length - Math.min(limit, text.length)} more characters>`
}

/**
 * A value as JSON that people can read: bounded in size, with a marker wherever something was left out, and without
 * `Redacted` values, values under the name of a secret, and texts that look like one.
 *
 * @internal
 */
export const excerpt = (value: unknown, limit: number, depth = maxDepth): Schema.Json => {
  let budget = limit
  const above = new Set<object>()

  const text = (from: string): string => {
    const written = excerptText(from, Math.max(budget, 0))
    budget -= written.length
    return written
  }

  const members = (entries: ReadonlyArray<readonly [string, unknown]>): Schema.Json => {
    const written: Record<string, Schema.Json> = {}
    for (const [index, [key, member]] of entries.entries()) {
      if (budget <= 0) {
        written["<truncated>"] = `${entries.length - index} more members`
        break
      }
      if (member === undefined || typeof member === "function" || typeof member === "symbol") continue
      const name = text(key)
      const harmless = typeof member === "boolean" || member === null ||
        (typeof member === "number" && /token/i.test(key))
      // A definition and not an assignment: "__proto__" is a name like any other.
      Object.defineProperty(written, name, {
        value: secretName.test(key) && !harmless ? hidden : write(member),
        enumerable: true,
        configurable: true,
        writable: true
      })
    }
    return written
  }

  const items = (values: ReadonlyArray<unknown>): Schema.Json => {
    const written: Array<Schema.Json> = []
    for (const [index, item] of values.entries()) {
      if (budget <= 0) {
        written.push(`<truncated: ${values.length - index} more items>`)
        break
      }
      budget -= 1
      written.push(write(item))
    }
    return written
  }

  const writeObject = (object: object): Schema.Json => {
    if (Redacted.isRedacted(object)) return hidden
    if (above.has(object)) return "<circular>"
    if (above.size >= depth) return "<truncated: nested too deep>"
    above.add(object)
    try {
      if (Array.isArray(object)) return items(object)
      if (object instanceof Error) {
        const told = [["name", object.name], ["message", object.message]] as const
        return members([...told, ...Object.entries(object).filter(([key]) => key !== "name" && key !== "message")])
      }
      if (object instanceof Map) return items(Array.from(object))
      if (object instanceof Set) return items(Array.from(object))
      if ("toJSON" in object && typeof object.toJSON === "function") return write(object.toJSON(""))
      return members(Object.entries(object))
    } finally {
      above.delete(object)
    }
  }

  const write = (from: unknown): Schema.Json => {
    switch (typeof from) {
      case "string":
        return text(from)
      case "number":
        budget -= 8
        return Number.isFinite(from) ? from : String(from)
      case "boolean":
        budget -= 4
        return from
      case "bigint":
        return text(String(from))
      case "object":
        return from === null ? null : writeObject(from)
      default:
        return `<${typeof from}>`
    }
  }

  try {
    return write(value)
  } catch {
    // A getter or a toJSON of the value: what describes a failure must not fail.
    return "<unreadable>"
  }
}

/** @internal */
export const summary = (error: unknown, limit: number): { readonly tag: string; readonly message: string } => {
  try {
    if (typeof error === "object" && error !== null) {
      const name = "_tag" in error ? error._tag : "name" in error ? error.name : undefined
      const message = "message" in error && typeof error.message === "string" && error.message !== ""
        ? excerptText(error.message, limit)
        : excerptText(JSON.stringify(excerpt(error, limit)), limit)
      return { tag: typeof name === "string" ? excerptText(name, 200) : "Error", message }
    }
    return { tag: typeof error, message: excerptText(String(error), limit) }
  } catch {
    return { tag: "Error", message: "<unreadable>" }
  }
}
