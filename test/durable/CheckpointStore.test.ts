import { CheckpointStore } from "effect-resilience"
import { suite } from "./contracts/CheckpointStoreContract.ts"

suite("memory", CheckpointStore.layerMemory)
