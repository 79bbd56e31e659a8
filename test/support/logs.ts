/** What is logged on the way. */
import { Effect, Logger } from "effect"

const logging =
  (line: (level: string, text: string) => string | undefined) =>
  <A, E, R>(self: (logs: Array<string>) => Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      const logs: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => {
        const text = Array.isArray(message) ? String(message[0]) : String(message)
        // The driver of Redis has warnings of its own.
        const heard = text.startsWith("NodeRedis") ? undefined : line(logLevel, text)
        if (heard !== undefined) logs.push(heard)
      })
      return Effect.provide(self(logs), Logger.layer([logger]))
    })

/** Hands in a list that is filled with what is logged, each line with its level. */
export const withLogs = logging((level, text) => `${level}: ${text}`)

/** Hands in a list that is filled with what is logged. */
export const withMessages = logging((_, text) => text)
