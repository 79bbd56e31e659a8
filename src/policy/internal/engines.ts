/**
 * Tells the services that were made here from all others, and knows the engine behind each. A service of the user's own
 * has none, nor has a copy of one of ours, whose methods may be others: these are asked by their methods.
 *
 * @internal
 */
export const registry = <Engine>() => {
  const engines = new WeakMap<object, Engine>()
  return {
    engineOf: (service: object): Engine | undefined => engines.get(service),
    withEngine: <Service extends object>(service: Service, engine: Engine): Service => {
      engines.set(service, engine)
      return service
    }
  }
}
