import { boundedJson } from "./boundedJson.ts"

/**
 * Characters of arguments as JSON, and levels of objects and arrays in them.
 *
 * @internal
 */
export interface Bounds {
  readonly arguments: number
  readonly depth: number
}

/**
 * Why a call must not run with these arguments, if they are beyond the bounds.
 *
 * @internal
 */
export const beyondBounds = (params: unknown, limits: Bounds): string | undefined => {
  const json = boundedJson(params, { length: limits.arguments, depth: limits.depth, hostile: true })
  switch (json._tag) {
    case "Json":
      return undefined
    case "TooLong":
      return `the arguments are longer than ${limits.arguments} characters`
    case "TooDeep":
      return `the arguments are nested more than ${limits.depth} levels deep`
    case "Hostile":
      return `the arguments have the key "${json.key}", which no argument may have`
    case "NotJson":
      return `the arguments are not JSON: they hold ${json.found}`
  }
}
