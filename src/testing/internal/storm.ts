import type { Fault } from "./providerFault.ts"
import { uniform } from "./seeded.ts"

type Choice = readonly [weight: number, fault: (draw: number) => Fault]

const afterEvents = (draw: number): number => Math.floor(draw * 6)

const common: ReadonlyArray<Choice> = [
  [4, () => ({ _tag: "Overloaded" })],
  [2, () => ({ _tag: "ServerError" })],
  [1, () => ({ _tag: "Unavailable" })],
  [1, () => ({ _tag: "ResetBeforeHeaders" })],
  [2, (draw) => ({ _tag: "StreamError", afterEvents: afterEvents(draw) })]
]

const nasty: ReadonlyArray<Choice> = [
  [1, (draw) => ({ _tag: "ServerError", status: draw < 0.5 ? 502 : 504, html: true })],
  [2, () => ({ _tag: "ResetMidBody" })],
  [1, () => ({ _tag: "CloseMidBody" })],
  [2, () => ({ _tag: "TruncatedJson" })],
  [2, () => ({ _tag: "MalformedJson" })],
  [1, () => ({ _tag: "NotAMessage", variant: "html" })],
  [1, () => ({ _tag: "NotAMessage", variant: "errorBody" })],
  [1, () => ({ _tag: "NotAMessage", variant: "emptyObject" })],
  [2, (draw) => ({ _tag: "StreamClose", afterEvents: afterEvents(draw) })],
  [1, (draw) => ({ _tag: "StreamReset", afterEvents: afterEvents(draw) })],
  [1, (draw) => ({ _tag: "StreamBadJson", afterEvents: afterEvents(draw) })]
]

const pick = (choices: ReadonlyArray<Choice>, at: number, draw: number): Fault | undefined => {
  let left = at * choices.reduce((sum, [weight]) => sum + weight, 0)
  for (const [weight, fault] of choices) {
    left -= weight
    if (left < 0) return fault(draw)
  }
  return undefined
}

/** @internal */
export interface Weather {
  readonly seed: number | string
  readonly severity: "none" | "mild" | "severe"
  readonly retryAfterSeconds: number
  readonly outage: { readonly from: number; readonly until: number } | undefined
}

const share = { none: 0, mild: 0.15, severe: 0.45 }

/** @internal */
export const faultAt = (weather: Weather, index: number, millisSinceStart: number): Fault | undefined => {
  const { outage, retryAfterSeconds, seed, severity } = weather
  const draw = uniform(seed, index, "detail")
  if (outage !== undefined && millisSinceStart >= outage.from && millisSinceStart < outage.until) {
    return uniform(seed, index, "outage") < 0.7 ? { _tag: "Overloaded" } : { _tag: "ResetBeforeHeaders" }
  }
  if (uniform(seed, index, "whether") >= share[severity]) return undefined
  const throttled: Choice = [4, () => ({ _tag: "RateLimited", retryAfter: retryAfterSeconds })]
  const choices = severity === "mild" ? [throttled, ...common] : [throttled, ...common, ...nasty]
  return pick(choices, uniform(seed, index, "which"), draw)
}
