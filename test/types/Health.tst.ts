import { Context, Effect, type Layer, type Scope } from "effect"
import type { CheckpointStore, CircuitBreaker } from "effect-resilience"
import { HealthCheck, HealthMonitor } from "effect-resilience"
import * as HealthHttp from "effect-resilience/health/HealthHttp"
import * as LettaHealth from "effect-resilience/health/LettaHealth"
import type * as Letta from "effect-resilience/model/Letta"
import type { HttpRouter } from "effect/http"
import { describe, expect, it } from "tstyche"

class Down {
  readonly _tag = "Down"
}
class Clerk extends Context.Service<Clerk, { readonly answer: string }>()("Clerk") {}

declare const ask: Effect.Effect<number, Down, Clerk>
declare const monitor: HealthMonitor.HealthMonitor["Service"]

describe("HealthMonitor.gate", () => {
  it("adds exactly one error", () => {
    type Gated = Effect.Effect<number, Down | HealthMonitor.HealthGateClosed, Clerk | HealthMonitor.HealthMonitor>
    expect(ask.pipe(HealthMonitor.gate("key"))).type.toBe<Gated>()
    expect(HealthMonitor.gate(ask, "key")).type.toBe<Gated>()
    expect(ask.pipe(monitor.gate("key"))).type.toBe<
      Effect.Effect<number, Down | HealthMonitor.HealthGateClosed, Clerk>
    >()
  })

  it("is a plain function from effect to effect, as the guard of a model call is", () => {
    expect(monitor.gate("key")).type.toBeAssignableTo<
      (self: Effect.Effect<number, Down>) => Effect.Effect<number, Down | HealthMonitor.HealthGateClosed>
    >()
  })

  it("its error can be handled by its tag", () => {
    const handled = ask.pipe(
      HealthMonitor.gate("key"),
      Effect.catchTag("HealthGateClosed", (error) => Effect.succeed(error.status))
    )
    expect(handled).type.toBe<Effect.Effect<number | "critical", Down, Clerk | HealthMonitor.HealthMonitor>>()
  })
})

describe("HealthMonitor.track", () => {
  it("adds nothing but the service", () => {
    type Tracked = Effect.Effect<number, Down, Clerk | HealthMonitor.HealthMonitor>
    expect(ask.pipe(HealthMonitor.track("key"))).type.toBe<Tracked>()
    expect(HealthMonitor.track(ask, "key")).type.toBe<Tracked>()
    expect(ask.pipe(monitor.track("key"))).type.toBe<Effect.Effect<number, Down, Clerk>>()
  })
})

describe("HealthMonitor.layer", () => {
  it("needs nothing without checks", () => {
    expect(HealthMonitor.layer()).type.toBe<Layer.Layer<HealthMonitor.HealthMonitor>>()
    expect(HealthMonitor.layer({ size: 10 })).type.toBe<Layer.Layer<HealthMonitor.HealthMonitor>>()
  })

  it("needs what its checks need, and gives each of them a scope", () => {
    const scoped = HealthCheck.reachable("scoped", Effect.acquireRelease(Clerk, () => Effect.void))
    expect(scoped).type.toBe<HealthCheck.HealthCheck<Clerk | Scope.Scope>>()
    expect(
      HealthMonitor.layer({
        checks: [
          HealthCheck.checkpointStoreWritable(),
          HealthCheck.circuits(),
          LettaHealth.reachable(),
          HealthCheck.reachable("free", Effect.void),
          scoped
        ]
      })
    ).type.toBe<
      Layer.Layer<
        HealthMonitor.HealthMonitor,
        never,
        CheckpointStore.CheckpointStore | CircuitBreaker.CircuitBreaker | Letta.Letta | Clerk
      >
    >()
  })

  it("takes no effect that is no check", () => {
    expect(HealthMonitor.layer).type.not.toBeCallableWith({ checks: [Effect.void] })
  })
})

describe("HealthMonitor.whileClosed", () => {
  it("takes an effect that cannot fail, and gives it a scope", () => {
    const held = Effect.acquireRelease(Clerk, () => Effect.void)
    expect(HealthMonitor.whileClosed("key", held)).type.toBe<
      Effect.Effect<void, never, Clerk | Scope.Scope | HealthMonitor.HealthMonitor>
    >()
    expect(HealthMonitor.whileClosed).type.not.toBeCallableWith("key", ask)
  })

  it("a circuit needs its service", () => {
    expect(HealthMonitor.isolateCircuit("key")).type.toBe<
      Effect.Effect<void, never, HealthMonitor.HealthMonitor | CircuitBreaker.CircuitBreaker | Scope.Scope>
    >()
  })
})

describe("HealthMonitor.trend", () => {
  it("is a trend or no data, told apart by the tag", () => {
    type Trend = Effect.Success<ReturnType<typeof monitor.trend>>
    expect<Extract<Trend, { _tag: "NoData" }>>().type.not.toHaveProperty("direction")
    expect<Extract<Trend, { _tag: "Trend" }>["direction"]>().type.toBe<"improving" | "degrading" | "steady">()
  })
})

describe("HealthHttp.layer", () => {
  it("needs the router and the monitor", () => {
    expect(HealthHttp.layer()).type.toBe<
      Layer.Layer<never, never, HttpRouter.HttpRouter | HealthMonitor.HealthMonitor>
    >()
  })
})
