/**
 * @since 0.1.0
 */
export * as Fault from "./Fault.ts"
export * as Telemetry from "./Telemetry.ts"
