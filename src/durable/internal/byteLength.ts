/**
 * How many bytes a text has in UTF-8. `TextEncoder` would copy what may be large.
 *
 * @internal
 */
export const byteLength = (text: string): number => {
  let bytes = text.length
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index)
    if (unit > 0x7f) bytes += unit > 0x7ff ? 2 : 1
    // Both halves of a pair were counted as three bytes, and they are four together.
    if (unit >= 0xdc00 && unit <= 0xdfff) bytes -= 2
  }
  return bytes
}
