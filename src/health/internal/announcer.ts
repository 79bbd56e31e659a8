import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as PubSub from "effect/PubSub"
import * as References from "effect/References"
import * as Stream from "effect/Stream"
import type * as Take from "effect/Take"

/**
 * Tells readers of a stream what was pushed, in the order in which it was, whichever fiber gets to publish first and
 * whichever is interrupted before it does. The stream ends with the scope; a slow reader loses the oldest.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*<A>() {
  const hub = yield* PubSub.sliding<Take.Take<A>>(256)
  yield* Effect.addFinalizer(() => PubSub.end(hub, Exit.void))
  let pending: Array<A> = []
  return {
    push: (value: A): void => {
      pending.push(value)
    },
    // A fiber that yielded between taking and publishing would let another one publish first what came later.
    publish: Effect.suspend(() => {
      const [first, ...rest] = pending
      pending = []
      return first === undefined ? Effect.void : Effect.asVoid(PubSub.publish(hub, [first, ...rest]))
    }).pipe(Effect.provideService(References.PreventSchedulerYield, true)),
    stream: Stream.fromPubSubTake(hub)
  }
})
