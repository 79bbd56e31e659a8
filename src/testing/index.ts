/**
 * @since 0.1.0
 */
export * as CrashPoints from "./CrashPoints.ts"
export * as FaultPlan from "./FaultPlan.ts"
export * as ScriptedModel from "./ScriptedModel.ts"
export * as StoreContract from "./StoreContract.ts"
