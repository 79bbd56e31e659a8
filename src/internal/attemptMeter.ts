import type * as Response from "effect/ai/Response"
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Fault from "../Fault.ts"

/**
 * What became of a try: what came of an answer, whole or not, with the characters of its pieces, or why nothing came.
 *
 * @internal
 */
export type Outcome =
  | { readonly _tag: "Came"; readonly parts: ReadonlyArray<Response.AnyPart>; readonly length: number }
  | { readonly _tag: "Lost"; readonly cause: Cause.Cause<unknown> }
  | { readonly _tag: "NotMade" }

/** @internal */
export type Ended = (outcome: Outcome) => Effect.Effect<void>

/**
 * Whoever pays for a request hears of each try that is made at it below the `LanguageModel` that it asks, and may refuse
 * one.
 *
 * @internal
 */
export interface AttemptMeter {
  /** From here on each try is told of, so that the answer that the caller gets is not counted once more. */
  readonly join: Effect.Effect<void>
  readonly begin: Effect.Effect<Ended, AttemptRefused>
}

/**
 * A try that whoever pays for it has no room for.
 *
 * @internal
 */
export class AttemptRefused
  extends Schema.TaggedError<AttemptRefused>("effect-resilience/internal/attemptMeter/AttemptRefused")(
    "AttemptRefused",
    { budget: Schema.String }
  )
{
  readonly [Fault.verdictOf] = Fault.rejected()
  override get message() {
    return `the budget (${this.budget}) has no room for another try, which was not made; raise it`
  }
}

/** @internal */
export const CurrentMeter = Context.Reference<AttemptMeter | undefined>(
  "effect-resilience/internal/attemptMeter/CurrentMeter",
  { defaultValue: () => undefined }
)

/** @internal */
export const join: Effect.Effect<void> = Effect.flatMap(CurrentMeter, (meter) => meter?.join ?? Effect.void)

/** What stands below a try tells of its own, where it does so at all: the first of them is this one. */
const handedOn = (meter: AttemptMeter, ended: Ended) => {
  let joined = false
  let begun = false
  const below: AttemptMeter = {
    join: Effect.sync(() => {
      joined = true
    }),
    begin: Effect.suspend(() => {
      if (begun) return meter.begin
      begun = true
      return Effect.succeed(ended)
    })
  }
  const settle = (outcome: Outcome): Effect.Effect<void> =>
    !joined ? ended(outcome) : begun ? Effect.void : ended({ _tag: "NotMade" })
  return { below, settle }
}

/**
 * Tells the meter around of a try.
 *
 * @internal
 */
export const metered = <A extends { readonly content: ReadonlyArray<Response.AnyPart> }, E, R>(
  call: Effect.Effect<A, E, R>
): Effect.Effect<A, E | AttemptRefused, R> =>
  Effect.flatMap(CurrentMeter, (meter): Effect.Effect<A, E | AttemptRefused, R> => {
    if (meter === undefined) return call
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(meter.begin, (ended) => {
        const { below, settle } = handedOn(meter, ended)
        return Effect.onExit(
          restore(Effect.provideService(call, CurrentMeter, below)),
          (exit) =>
            settle(
              Exit.isSuccess(exit)
                ? { _tag: "Came", parts: exit.value.content, length: 0 }
                : { _tag: "Lost", cause: exit.cause }
            )
        )
      })
    )
  })

const lengthOf = (part: Response.AnyPart): number =>
  "delta" in part && typeof part.delta === "string" ? part.delta.length : 0

/**
 * Tells the meter around of a try that is streamed.
 *
 * @internal
 */
export const meteredStream = <A extends Response.AnyPart, E, R>(
  parts: Stream.Stream<A, E, R>
): Stream.Stream<A, E | AttemptRefused, R> =>
  Stream.unwrap(Effect.map(CurrentMeter, (meter): Stream.Stream<A, E | AttemptRefused, R> => {
    if (meter === undefined) return parts
    return Stream.unwrap(Effect.gen(function*() {
      // Of the parts only those that say what was spent: the whole answer is its reader's.
      const kept: Array<Response.AnyPart> = []
      let length = 0
      let hasBegun = false
      const { below } = yield* Effect.acquireRelease(
        Effect.map(meter.begin, (ended) => handedOn(meter, ended)),
        ({ settle }, exit) =>
          settle(
            hasBegun || Exit.isSuccess(exit)
              ? { _tag: "Came", parts: kept, length }
              : { _tag: "Lost", cause: exit.cause }
          )
      )
      return parts.pipe(
        Stream.provideService(CurrentMeter, below),
        Stream.tap((part) =>
          Effect.sync(() => {
            hasBegun = true
            length += lengthOf(part)
            if (part.type === "finish" || part.type === "response-metadata") kept.push(part)
          })
        )
      )
    }))
  }))
