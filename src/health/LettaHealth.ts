/**
 * Checks of agents at Letta, for `HealthMonitor`.
 *
 * **When to use**
 *
 * Use them where a program depends on agents at Letta: whether the server answers, and whether an agent has the memory
 * and the tools that it should have.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Letta from "../model/Letta.ts"
import * as HealthCheck from "./HealthCheck.ts"

const resultOf = (check: Letta.Check): HealthCheck.Result => ({
  status: check.status,
  message: check.message,
  details: { ...check }
})

/**
 * Checks that Letta answers, and how fast: see `Letta.checkReachable`.
 *
 * **Example** (Checking a Letta server and an agent on it)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthMonitor } from "effect-resilience"
 * import * as LettaHealth from "effect-resilience/health/LettaHealth"
 * import * as Letta from "effect-resilience/model/Letta"
 * import * as LettaServer from "effect-resilience/testing/LettaServer"
 *
 * const program = Effect.gen(function*() {
 *   const server = yield* LettaServer.make()
 *   const letta = yield* Letta.make({ baseURL: server.url })
 *   const checks = [LettaHealth.reachable({ key: "letta" }), LettaHealth.tools("agent-1", ["refund"], { key: "letta" })]
 *   const report = yield* HealthMonitor.check.pipe(
 *     Effect.provide(HealthMonitor.layer({ checks })),
 *     Effect.provideService(Letta.Letta, letta)
 *   )
 *   return report.message
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => "letta tools of agent-1: not attached: refund"
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const reachable = (
  options: HealthCheck.Options & {
    readonly name?: string | undefined
    readonly healthy?: Duration.Input | undefined
    readonly degraded?: Duration.Input | undefined
  } = {}
): HealthCheck.HealthCheck<Letta.Letta> =>
  HealthCheck.make(options.name ?? "letta", Effect.map(Letta.checkReachable(options), resultOf), options)

/**
 * Checks that blocks of an agent's memory are there and intact: see `Letta.checkMemory`.
 *
 * @category checks
 * @since 0.1.0
 */
export const memory = (
  agentId: string,
  expected: Readonly<Record<string, Letta.MemoryExpectation>>,
  options: HealthCheck.Options & { readonly name?: string | undefined } = {}
): HealthCheck.HealthCheck<Letta.Letta> =>
  HealthCheck.make(
    options.name ?? `letta memory of ${agentId}`,
    Effect.map(Letta.checkMemory(agentId, expected), resultOf),
    options
  )

/**
 * Checks that tools are attached to an agent: see `Letta.checkTools`.
 *
 * @category checks
 * @since 0.1.0
 */
export const tools = (
  agentId: string,
  expected: ReadonlyArray<string>,
  options: HealthCheck.Options & { readonly name?: string | undefined } = {}
): HealthCheck.HealthCheck<Letta.Letta> =>
  HealthCheck.make(
    options.name ?? `letta tools of ${agentId}`,
    Effect.map(Letta.checkTools(agentId, expected), resultOf),
    options
  )
