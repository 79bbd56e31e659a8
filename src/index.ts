/**
 * @since 0.1.0
 */
export * as Agent from "./agent/Agent.ts"
export * as AgentBudget from "./agent/AgentBudget.ts"
export * as AgentTools from "./agent/AgentTools.ts"
export * as Checkpoint from "./durable/Checkpoint.ts"
export * as CheckpointStore from "./durable/CheckpointStore.ts"
export * as EscalationQueue from "./durable/EscalationQueue.ts"
export * as Idempotency from "./durable/Idempotency.ts"
export * as Fault from "./Fault.ts"
export * as Backoff from "./policy/Backoff.ts"
export * as Bulkhead from "./policy/Bulkhead.ts"
export * as CircuitBreaker from "./policy/CircuitBreaker.ts"
export * as Fallback from "./policy/Fallback.ts"
export * as Hedge from "./policy/Hedge.ts"
export * as Retry from "./policy/Retry.ts"
export * as RetryBudget from "./policy/RetryBudget.ts"
export * as Telemetry from "./Telemetry.ts"
