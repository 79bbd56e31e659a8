import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as fs from "node:fs"
import * as os from "node:os"
import * as process from "node:process"
import type { LeaseOwner } from "../CheckpointStore.ts"

const read = (file: string): string | undefined => {
  try {
    return fs.readFileSync(file, "utf8").trim()
  } catch {
    return undefined
  }
}

const link = (file: string): string | undefined => {
  try {
    return fs.readlinkSync(file)
  } catch {
    return undefined
  }
}

// The third and the twenty-second field of proc(5)'s stat: the state, and when the process started, in ticks since the
// machine did. The second field is the command in brackets, which may hold anything.
const stat = (pid: string): { readonly state: string; readonly start: string } | undefined => {
  const fields = read(`/proc/${pid}/stat`)?.replace(/^.*\) /s, "").split(" ")
  const state = fields?.[0]
  const start = fields?.[19]
  return state === undefined || start === undefined ? undefined : { state, start }
}

// Where no boot can be told: the hardware addresses, which no other machine of this name has.
const hardware = () =>
  Object.values(os.networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .flatMap(({ internal, mac }) => internal ? [] : [mac.replaceAll(":", "")])
    .toSorted()[0] ?? ""

// Processes can be told from here only in the same namespace of process ids, and only since the machine started. The
// name of a host alone tells nothing: other machines may have it too.
const whereabouts = () => [
  os.hostname(),
  read("/proc/sys/kernel/random/boot_id") ?? hardware(),
  link("/proc/self/ns/pid")?.replace(/\D/g, "") ?? ""
]

const exists = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    // Anything but "no such process" means that there is one, which we may not signal.
    return !(Predicate.hasProperty(error, "code") && error.code === "ESRCH")
  }
}

const isGone = (owner: string): boolean => {
  const [host, boot, namespace] = whereabouts()
  const [theirHost, theirBoot, theirNamespace, pid, start] = owner.split(":")
  if (theirHost !== host || pid === undefined || !/^\d+$/.test(pid)) return false
  if (boot === "" || theirBoot !== boot || theirNamespace !== namespace) return false
  if (!exists(Number(pid))) return true
  const now = stat(pid)
  if (now === undefined || start === "") return false
  return now.start !== start || now.state === "Z" || now.state === "X"
}

/**
 * Names this process: host, boot and pid namespace, pid, and when it started, so that a pid that was given out again is
 * not taken for its former owner. A process on another host, of another boot or in another container is never held for
 * gone: its lease has to run out.
 *
 * @internal
 */
export const processOwner: Effect.Effect<LeaseOwner> = Effect.gen(function*() {
  const layer = yield* Random.nextIntBetween(0, Number.MAX_SAFE_INTEGER)
  const pid = String(process.pid)
  return {
    id: [...whereabouts(), pid, stat(pid)?.start ?? "", layer.toString(36)].join(":"),
    isGone: (owner) => Effect.sync(() => isGone(owner))
  }
})
