import { type Duration, type Effect, type Option, type Scope, type Stream } from "effect"
import { Deadline, type Fault } from "effect-resilience"
import { describe, expect, it } from "tstyche"

declare const effect: Effect.Effect<number, "e", Scope.Scope>
declare const infallible: Effect.Effect<string>
declare const stream: Stream.Stream<number, "e", Scope.Scope>

describe("Deadline", () => {
  it("within adds exactly DeadlineExceeded to E, in both call styles", () => {
    type Bounded = Effect.Effect<number, "e" | Deadline.DeadlineExceeded, Scope.Scope>
    expect(Deadline.within(effect, "1 second")).type.toBe<Bounded>()
    expect(Deadline.within(effect, { seconds: 1 }, { name: "job" })).type.toBe<Bounded>()
    expect(effect.pipe(Deadline.within("1 second"))).type.toBe<Bounded>()
    expect(effect.pipe(Deadline.within("1 second", { name: "job" }))).type.toBe<Bounded>()
    expect(infallible.pipe(Deadline.within(5))).type.toBe<Effect.Effect<string, Deadline.DeadlineExceeded>>()
  })

  it("attempt adds exactly AttemptTimeout to E, in both call styles", () => {
    type Timed = Effect.Effect<number, "e" | Deadline.AttemptTimeout, Scope.Scope>
    expect(Deadline.attempt(effect, "1 second")).type.toBe<Timed>()
    expect(effect.pipe(Deadline.attempt("1 second", { name: "job" }))).type.toBe<Timed>()
    expect(infallible.pipe(Deadline.attempt(5))).type.toBe<Effect.Effect<string, Deadline.AttemptTimeout>>()
  })

  it("stall adds exactly Stalled to a stream's E, in both call styles, with and without a time", () => {
    type Watched = Stream.Stream<number, "e" | Deadline.Stalled, Scope.Scope>
    expect(Deadline.stall(stream)).type.toBe<Watched>()
    expect(Deadline.stall(stream, "1 second", { name: "model" })).type.toBe<Watched>()
    expect(stream.pipe(Deadline.stall())).type.toBe<Watched>()
    expect(stream.pipe(Deadline.stall("1 second", { name: "model" }))).type.toBe<Watched>()
    expect(stream.pipe(Deadline.stall("1 second", { maxSilence: "1 minute" }))).type.toBe<Watched>()
    expect(Deadline.stall).type.not.toBeCallableWith(effect)
  })

  it("a sign of life needs nothing, and can be given from a callback", () => {
    expect(Deadline.beat).type.toBe<Effect.Effect<void>>()
    expect<Deadline.Heartbeat["alive"]>().type.toBe<() => void>()
  })

  it("watch adds exactly Stalled to the E of its work, and gives it an effect to beat with", () => {
    const watched = Deadline.watch({ idle: "1 second", name: "job" }, (beat) => {
      expect(beat).type.toBe<Effect.Effect<void>>()
      return effect
    })
    expect(watched).type.toBe<Effect.Effect<number, "e" | Deadline.Stalled, Scope.Scope>>()
  })

  it("guards fit any effect, one after the other", () => {
    const guard: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Deadline.DeadlineExceeded, R> =
      Deadline
        .within("1 second")
    expect(guard(effect)).type.toBe<Effect.Effect<number, "e" | Deadline.DeadlineExceeded, Scope.Scope>>()
    expect(infallible.pipe(Deadline.attempt("1 second"), Deadline.within("5 seconds"))).type.toBe<
      Effect.Effect<string, Deadline.AttemptTimeout | Deadline.DeadlineExceeded>
    >()
  })

  it("unbounded keeps the effect's type, and remaining needs nothing", () => {
    expect(Deadline.unbounded(effect)).type.toBe<typeof effect>()
    expect(Deadline.remaining).type.toBe<Effect.Effect<Option.Option<Duration.Duration>>>()
  })

  it("the errors tell their verdicts in their types", () => {
    expect<Deadline.AttemptTimeout[typeof Fault.verdictOf]["_tag"]>().type.toBe<"TimedOut">()
    expect<Deadline.Stalled[typeof Fault.verdictOf]["_tag"]>().type.toBe<"TimedOut">()
    expect<Deadline.DeadlineExceeded[typeof Fault.verdictOf]["_tag"]>().type.toBe<"TimedOut" | "Rejected">()
    expect<Deadline.DeadlineExceeded["after"]>().type.toBe<Duration.Duration>()
  })
})
