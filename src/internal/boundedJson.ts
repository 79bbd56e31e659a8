/** @internal */
export interface Bounds {
  /** Characters of the JSON text. */
  readonly length: number
  /** Levels of objects and arrays inside one another. */
  readonly depth: number
  /** Whether keys are refused with which a careless copy changes the prototype of every object. */
  readonly hostile?: boolean
}

/** @internal */
export type BoundedJson =
  | { readonly _tag: "Json"; readonly text: string }
  | { readonly _tag: "TooLong"; readonly start: string }
  | { readonly _tag: "TooDeep" }
  | { readonly _tag: "Hostile"; readonly key: string }
  | { readonly _tag: "NotJson"; readonly found: string }

/**
 * The beginning of a text, without half a character at its end.
 *
 * @internal
 */
export const cut = (text: string, length: number): string =>
  text.length > length ? text.slice(0, length).toWellFormed() : text

const isHostile = (key: string, value: unknown): boolean =>
  key === "__proto__" ||
  (key === "constructor" && typeof value === "object" && value !== null && Object.hasOwn(value, "prototype"))

type Stop = Exclude<BoundedJson, { readonly _tag: "Json" }>

const hasToJson = (value: object): value is { toJSON: (key: string) => unknown } =>
  "toJSON" in value && typeof value.toJSON === "function"

/**
 * Writes JSON text and stops at the bounds, so that a value from outside costs no more than the bounds allow, however
 * large, deep or circular it is. What JSON drops (`undefined`, a number that is not finite) becomes `null` or is left out,
 * as `JSON.stringify` does it.
 *
 * @internal
 */
export const boundedJson = (value: unknown, bounds: Bounds): BoundedJson => {
  const chunks: Array<string> = []
  let length = 0

  const push = (chunk: string): Stop | undefined => {
    chunks.push(chunk)
    length += chunk.length
    return length > bounds.length ? { _tag: "TooLong", start: cut(chunks.join(""), bounds.length) } : undefined
  }

  // One character too many is enough to know, and the rest of a huge text is never copied.
  const text = (value: string): Stop | undefined => push(JSON.stringify(cut(value, bounds.length - length + 1)))

  const write = (value: unknown, depth: number): Stop | undefined => {
    switch (typeof value) {
      case "string":
        return text(value)
      case "boolean":
        return push(String(value))
      case "number":
        return push(Number.isFinite(value) ? String(value) : "null")
      case "undefined":
        return push("null")
      case "object":
        if (value === null) return push("null")
        if (depth >= bounds.depth) return { _tag: "TooDeep" }
        if (hasToJson(value)) return write(value.toJSON(""), depth + 1)
        return Array.isArray(value) ? writeArray(value, depth + 1) : writeObject(value, depth + 1)
      default:
        return { _tag: "NotJson", found: `a ${typeof value}` }
    }
  }

  const writeArray = (values: ReadonlyArray<unknown>, depth: number): Stop | undefined => {
    let stop = push("[")
    for (let index = 0; stop === undefined && index < values.length; index++) {
      stop = (index > 0 ? push(",") : undefined) ?? write(values[index], depth)
    }
    return stop ?? push("]")
  }

  const writeObject = (values: object, depth: number): Stop | undefined => {
    let stop = push("{")
    let first = true
    for (const [key, value] of Object.entries(values)) {
      if (stop !== undefined) return stop
      if (value === undefined) continue
      if (bounds.hostile === true && isHostile(key, value)) return { _tag: "Hostile", key }
      stop = (first ? undefined : push(",")) ?? text(key) ?? push(":") ?? write(value, depth)
      first = false
    }
    return stop ?? push("}")
  }

  try {
    return write(value, 0) ?? { _tag: "Json", text: chunks.join("") }
  } catch {
    // Only a getter or a toJSON of the value itself can throw here.
    return { _tag: "NotJson", found: "a value that throws when read" }
  }
}
