import { type ClientOptions, Letta as Client } from "@letta-ai/letta-client"
import * as Predicate from "effect/Predicate"

/**
 * The client without the headers that it takes from `LETTA_CUSTOM_HEADERS` in the environment of the process, behind the
 * back of `Config`. Each client that it makes of itself takes them again, and is one of these. The name of the class is a
 * part of the `User-Agent`.
 */
class Letta extends Client {
  constructor(options: ClientOptions) {
    super(options)
    const kept: unknown = Reflect.get(this, "_options")
    if (Predicate.isObject(kept)) Reflect.set(kept, "defaultHeaders", options.defaultHeaders)
  }
}

/** @internal */
export const configuredClient = (options: ClientOptions): Client => new Letta(options)
