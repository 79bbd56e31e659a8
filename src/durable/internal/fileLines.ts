const newline = 10
const encoder = new TextEncoder()
const decoder = new TextDecoder()

// The table of CRC-32 as IEEE 802.3 has it, by the reversed polynomial.
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? 0xedb88320 ^ (rest >>> 1) : rest >>> 1
  return rest
})

/**
 * CRC-32 of bytes, in hex. It tells every damage of up to 32 bits in a row; against forgery it is no help.
 *
 * @internal
 */
export const crc32 = (bytes: Uint8Array): string => {
  let rest = 0xffffffff
  // Reads of typed arrays within their bounds: the fallback is never taken, and costs nothing.
  for (const byte of bytes) rest = (table[(rest ^ byte) & 0xff] ?? 0) ^ (rest >>> 8)
  return ((rest ^ 0xffffffff) >>> 0).toString(16).padStart(8, "0")
}

/**
 * A line of a file: the checksum of a JSON text, its length in bytes, the text, and a newline, which JSON has none of.
 *
 * @internal
 */
export const line = (json: string): Uint8Array => {
  const text = encoder.encode(json)
  const head = encoder.encode(`${crc32(text)} ${text.length} `)
  const bytes = new Uint8Array(head.length + text.length + 1)
  bytes.set(head)
  bytes.set(text, head.length)
  bytes[bytes.length - 1] = newline
  return bytes
}

/** What the head of a line says: checksum, length of the text, and where it begins. */
const headOf = (bytes: Uint8Array) => {
  const [head, checksum, length] = /^([0-9a-f]{8}) (\d{1,15}) /.exec(decoder.decode(bytes.subarray(0, 25))) ?? []
  return head === undefined ? undefined : { checksum, length: Number(length), start: head.length }
}

/**
 * The text of a line without its newline, unless it is not what the head of the line says.
 *
 * @internal
 */
export const textOf = (bytes: Uint8Array): string | undefined => {
  const head = headOf(bytes)
  if (head === undefined || head.start + head.length !== bytes.length) return undefined
  const text = bytes.subarray(head.start)
  return crc32(text) === head.checksum ? decoder.decode(text) : undefined
}

/** @internal */
export const indexOfNewline = (bytes: Uint8Array, from = 0): number => bytes.indexOf(newline, from)

/** @internal */
export const lastIndexOfNewline = (bytes: Uint8Array, from = bytes.length - 1): number =>
  from < 0 ? -1 : bytes.lastIndexOf(newline, from)

/**
 * Whether what comes after the last newline is a whole line whose newline was damaged, and not one that was cut off
 * while it was written.
 *
 * @internal
 */
export const isUnterminated = (rest: Uint8Array): boolean => {
  const head = headOf(rest)
  if (head === undefined) return false
  const end = head.start + head.length
  return rest.length > end && textOf(rest.subarray(0, end)) !== undefined
}
