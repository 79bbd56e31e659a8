import { Effect } from "effect"
import { LeftOut } from "./journal.ts"

const codeOf = (cause: unknown): unknown => cause instanceof Error && "code" in cause ? cause.code : undefined

/**
 * Imports a package of `bench/package.json`, which need not be installed. Its types may be missing just as well, so a
 * peer writes down the few of them that it uses.
 */
export const load = <Face>(name: string): Effect.Effect<Face, LeftOut> =>
  Effect.tryPromise({
    try: (): Promise<Face> => import(name),
    catch: (cause) =>
      new LeftOut({
        reason: codeOf(cause) === "ERR_MODULE_NOT_FOUND"
          ? `${name} is not installed`
          : `${name} does not load: ${String(cause)}`,
        remedy: "npm --prefix bench ci"
      })
  })
