/**
 * A number from 0 (included) to 1 (excluded) that depends on nothing but its arguments, so that requests served at the
 * same time cannot change each other's draw, as they would with a generator that has state. FNV-1a over the arguments,
 * finished with the 32-bit mixer of MurmurHash3 (Appleby, 2011), without which neighbouring indices would be alike.
 *
 * @internal
 */
export const uniform = (seed: number | string, index: number, purpose: string): number => {
  let hash = 0x811c9dc5
  for (const char of `${seed}/${index}/${purpose}`) {
    hash = Math.imul(hash ^ (char.codePointAt(0) ?? 0), 0x01000193)
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32
}

/** @internal */
export const identifier = (prefix: string, seed: number | string, index: number, purpose: string): string => {
  const digits = ["a", "b", "c"].map((part) =>
    Math.floor(uniform(seed, index, `${purpose}${part}`) * 2 ** 32).toString(36).padStart(7, "0")
  )
  return `${prefix}_01${digits.join("")}`
}
