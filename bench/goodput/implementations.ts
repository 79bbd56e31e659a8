import type { Implementation } from "./client.ts"
import { ours } from "./ours.ts"
import { aiSdk } from "./peers/aiSdk.ts"
import { awsAdaptive } from "./peers/awsAdaptive.ts"
import { cockatielPeer } from "./peers/cockatiel.ts"
import { naive } from "./peers/naive.ts"
import { oracle } from "./peers/oracle.ts"
import { sdkStep, sdkTask } from "./peers/sdk.ts"

/** The oracle is the first. */
export const implementations: ReadonlyArray<Implementation> = [
  oracle,
  ours,
  sdkTask,
  sdkStep,
  aiSdk,
  cockatielPeer,
  awsAdaptive,
  naive
]
