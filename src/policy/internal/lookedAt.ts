/**
 * Looks at options once: a policy hands in the same ones with every call.
 *
 * @internal
 */
export const lookedAt = <Options extends object, Found extends object>(look: (options: Options) => Found) => {
  const known = new WeakMap<Options, Found>()
  return (options: Options): Found => {
    const before = known.get(options)
    if (before !== undefined) return before
    const found = look(options)
    known.set(options, found)
    return found
  }
}
