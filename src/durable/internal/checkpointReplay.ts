import * as Context from "effect/Context"
import { CheckpointStoreError } from "../CheckpointStore.ts"
import type * as Record from "./checkpointRecord.ts"

/**
 * Whether a run starts over, from its journal, after every step that it records. Default: `false`.
 *
 * **When to use**
 *
 * Use it in tests, to find what a program does differently when it is resumed. `CrashPoints.alwaysReplay` in
 * `effect-resilience/testing` sets it.
 *
 * **Details**
 *
 * The program is interrupted when a step has its result in the journal, unless another step is being executed then that
 * is not around it, or one around it that must not happen twice: those run to their end first.
 *
 * @category replaying
 * @since 0.1.0
 */
export const AlwaysReplay: Context.Reference<boolean> = Context.Reference(
  "effect-resilience/durable/Checkpoint/AlwaysReplay",
  { defaultValue: () => false }
)

/**
 * What a journal is broken with to let the run start over: nobody outside of the run ever sees it.
 *
 * @internal
 */
export const startOver = new CheckpointStoreError({ operation: "replay", reason: { _tag: "Unavailable" } })

/** @internal */
export const isStartOver = (error: unknown): boolean => error === startOver

const isRemembered = (record: Record.WithoutTime<Record.StepRecord>): boolean =>
  record._tag === "StepSucceeded" || record._tag === "StepRetried" ||
  (record._tag === "StepFailed" && record.error !== undefined)

/**
 * Whether a run may start over after a record. `executing` are the steps that are at work, and which of them must not
 * happen twice.
 *
 * @internal
 */
export const mayStartOver = (
  step: string,
  record: Record.WithoutTime<Record.StepRecord>,
  executing: ReadonlyMap<string, boolean>
): boolean =>
  isRemembered(record) &&
  Array.from(executing).every(([id, atMostOnce]) => id === step || (!atMostOnce && step.startsWith(`${id}/`)))
