const encoder = new TextEncoder()

/** The first 32 bits of the fractional part of a root of each of the first primes, as FIPS 180-4, 4.2.2 and 5.3.3. */
const fractions = (count: number, root: (prime: number) => number): Uint32Array => {
  const words = new Uint32Array(count)
  for (let found = 0, candidate = 2; found < count; candidate++) {
    let prime = true
    for (let divisor = 2; divisor * divisor <= candidate; divisor++) if (candidate % divisor === 0) prime = false
    if (prime) words[found++] = (root(candidate) % 1) * 2 ** 32
  }
  return words
}
const initial = fractions(8, Math.sqrt)
const constants = fractions(64, Math.cbrt)

/** The text in UTF-8, a one bit, zeros, and its length in bits, in whole blocks of 64 bytes. */
const padded = (text: string): DataView => {
  const bytes = encoder.encode(text)
  const blocks = new Uint8Array(Math.ceil((bytes.length + 9) / 64) * 64)
  blocks.set(bytes)
  blocks[bytes.length] = 0x80
  const view = new DataView(blocks.buffer)
  view.setBigUint64(blocks.length - 8, BigInt(bytes.length) * 8n)
  return view
}

const rotate = (word: number, bits: number): number => (word >>> bits) | (word << (32 - bits))

/**
 * SHA-256 of a text in UTF-8, in hex (FIPS 180-4).
 *
 * Effect's `Digest` runs on Web Crypto, which answers from a thread of its own after a time that no clock of a test
 * governs: a program in virtual time would not repeat exactly. This one answers at once.
 *
 * @internal
 */
export const sha256 = (text: string): string => {
  const view = padded(text)
  const state = initial.slice()
  const schedule = new Uint32Array(64)
  // Reads of typed arrays within their bounds: the fallback is never taken, and costs nothing.
  const at = (words: Uint32Array, index: number): number => words[index] ?? 0
  for (let block = 0; block < view.byteLength; block += 64) {
    for (let t = 0; t < 64; t++) {
      if (t < 16) {
        schedule[t] = view.getUint32(block + t * 4)
        continue
      }
      const early = at(schedule, t - 15)
      const late = at(schedule, t - 2)
      const sigma0 = rotate(early, 7) ^ rotate(early, 18) ^ (early >>> 3)
      const sigma1 = rotate(late, 17) ^ rotate(late, 19) ^ (late >>> 10)
      schedule[t] = at(schedule, t - 16) + sigma0 + at(schedule, t - 7) + sigma1
    }
    let [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = state
    for (let t = 0; t < 64; t++) {
      const sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)
      const choice = (e & f) ^ (~e & g)
      const temporary = h + sum1 + choice + at(constants, t) + at(schedule, t)
      const sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)
      const majority = (a & b) ^ (a & c) ^ (b & c)
      h = g
      g = f
      f = e
      e = (d + temporary) | 0
      d = c
      c = b
      b = a
      a = (temporary + sum0 + majority) | 0
    }
    const words = [a, b, c, d, e, f, g, h]
    for (let i = 0; i < 8; i++) state[i] = at(state, i) + (words[i] ?? 0)
  }
  return Array.from(state, (word) => word.toString(16).padStart(8, "0")).join("")
}
