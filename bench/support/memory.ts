import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"

// Not a flag of the npm script: whoever starts the bench otherwise would measure garbage.
setFlagsFromString("--expose-gc")
/** Collects garbage now. */
export const collect: () => void = runInNewContext("gc")

/** The bytes of the heap that are in use when everything unreachable is gone. */
export const heapBytes = (): number => {
  // What a first collection leaves to finalizers and weak references, the next ones find.
  for (let times = 0; times < 4; times++) collect()
  return process.memoryUsage().heapUsed
}
