import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as LogLevel from "effect/LogLevel"
import { shownIn } from "./withheld.ts"

const at = (level: LogLevel.Severity) => (message: string, error: unknown): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) => Effect.logWithLevel(level)(message, shownIn(context, error)))

/**
 * Log lines about an error or a cause that may hold what people or models say: its name and frames, and its message only
 * where `Telemetry.CaptureContent` asks for it.
 *
 * @internal
 */
export const debug = at("Debug")

/** @internal */
export const warning = at("Warn")

/** @internal */
export const error = at("Error")
