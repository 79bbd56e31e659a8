import type * as Duration from "effect/Duration"
import type * as Stream from "effect/Stream"
import * as config from "../../internal/config.ts"
import * as Deadline from "../../policy/Deadline.ts"
import { oneOf } from "./agentOptions.ts"

/**
 * How answers are streamed.
 *
 * @internal
 */
export interface Streaming {
  readonly idleTimeout: Duration.Duration
  /** Fails a stream that is silent for too long. */
  readonly stall: <A, E, R>(self: Stream.Stream<A, E, R>) => Stream.Stream<A, E | Deadline.Stalled, R>
  readonly onCut: "askAgain" | "resume"
  readonly maxCuts: number
}

/**
 * How answers are streamed.
 *
 * **Details**
 *
 * - `idleTimeout`: how long a stream may be silent; then it is cut with `Deadline.Stalled`. Counts from the opening of the
 *   stream and from each part. The signs of life of `Anthropic` count as well, pings for example, so that a model may
 *   think and not show it; so do the parts that a `ResilientModel` collects (`buffer`), and what another provider tells
 *   with `Deadline.beat`. Signs of life without a part are enough for 10 minutes, or for `idleTimeout` where that is
 *   longer, and for no longer than the `wallTime` of the budget and the timeout of `policies.model`. Default: 30 seconds.
 * - `onCut`: what becomes of an answer whose stream breaks off, stands still or ends without its finish part. `"askAgain"`
 *   drops what had come and asks for the answer once more; `"resume"` tells the model the text that had come, asks it to
 *   go on from there, and joins the pieces, as long as it is the same model. Either way what had come is paid for, and no
 *   tool call in it is run. Default: `"askAgain"`.
 * - `maxCuts`: how often that happens for one model call, besides what `policies.model` tries again, with the waits of
 *   `Backoff.fullJitter()`. After that the call fails with the reason `CutOff`. Default: 2.
 *
 * A stream of more than 10,000,000 characters of text and thoughts is cut as well, and not asked for again.
 *
 * @category models
 * @since 0.1.0
 */
export interface StreamOptions {
  readonly idleTimeout?: Duration.Input | undefined
  readonly onCut?: "askAgain" | "resume" | undefined
  readonly maxCuts?: number | undefined
}

/** @internal */
export const make = (agent: string, options: StreamOptions = {}): Streaming => {
  const idleTimeout = config.duration("Agent", "stream.idleTimeout", options.idleTimeout ?? "30 seconds", {
    minimum: "1 millis"
  })
  return {
    idleTimeout,
    stall: Deadline.stall(idleTimeout, { name: `the answer to agent "${agent}"` }),
    onCut: oneOf("stream.onCut", options.onCut ?? "askAgain", ["askAgain", "resume"]),
    maxCuts: config.integer("Agent", "stream.maxCuts", options.maxCuts ?? 2, 0, 100)
  }
}
