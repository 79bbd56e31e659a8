/** The report on screen. */
import { Console, Effect } from "effect"
import type { Report } from "./Researcher.ts"

export const show = ({ claims, question, unavailable, unfounded }: Report) =>
  Effect.forEach(
    [
      question,
      ...claims.map(({ degraded, source, text, url, via }) =>
        `  ${text}\n    ${source}${degraded ? `, by its ${via}` : ""}: ${url}`
      ),
      ...unfounded.map((text) => `  left out, no finding says so: ${text}`),
      ...unavailable.map(({ label, message, verdict }) =>
        `  unavailable: ${label} (${verdict}): ${message.replaceAll(/\s+/g, " ").slice(0, 90)}`
      )
    ],
    (line) => Console.log(line),
    { discard: true }
  )
