// Not in the standard types: V8 and engines that follow it have it, others ignore it.
const errors: ErrorConstructor & { stackTraceLimit?: number | undefined } = Error

const canLimit = (): boolean => {
  const property = Object.getOwnPropertyDescriptor(errors, "stackTraceLimit")
  if (property === undefined) return Object.isExtensible(errors)
  return property.writable === true || property.set !== undefined
}

/**
 * Builds an error without walking the stack, which is nine tenths of what it costs to refuse a call. Where the
 * intrinsics are frozen the error simply keeps its stack.
 *
 * @internal
 */
export const withoutStack = <A>(make: () => A): A => {
  if (!canLimit()) return make()
  const limit = errors.stackTraceLimit
  errors.stackTraceLimit = 0
  try {
    return make()
  } finally {
    errors.stackTraceLimit = limit
  }
}
