// npm leaves a platform's binary package out of the lock file when the registry it was run against does not carry it,
// and `npm ci` then refuses the lock file everywhere. This adds the missing optional packages by name and version, so
// that the lock file serves every platform. Run it after a change of the dev dependencies: `npm run lockfile`.
import * as fs from "node:fs"

const systems = ["aix", "android", "darwin", "freebsd", "linux", "netbsd", "openbsd", "openharmony", "sunos", "win32"]
const processors = ["arm64", "arm", "ia32", "loong64", "mips64el", "ppc64", "riscv64", "s390x", "x64", "wasm32"]

const lock = JSON.parse(fs.readFileSync("package-lock.json", "utf8"))
let added = 0
for (const owner of Object.values(lock.packages)) {
  for (const [name, version] of Object.entries(owner.optionalDependencies ?? {})) {
    const key = `node_modules/${name}`
    if (lock.packages[key] !== undefined) continue
    const os = systems.find((system) => name.includes(system))
    const cpu = processors.find((processor) => name.includes(processor))
    if (os === undefined && cpu === undefined) continue
    lock.packages[key] = {
      version,
      ...(cpu === undefined ? {} : { cpu: [cpu] }),
      ...(name.includes("musl") ? { libc: ["musl"] } : /gnu|glibc/.test(name) ? { libc: ["glibc"] } : {}),
      dev: true,
      optional: true,
      ...(os === undefined ? {} : { os: [os] })
    }
    added++
  }
}
const root = lock.packages[""]
const rest = Object.keys(lock.packages).filter((key) => key !== "").toSorted()
lock.packages = { "": root, ...Object.fromEntries(rest.map((key) => [key, lock.packages[key]])) }
fs.writeFileSync("package-lock.json", `${JSON.stringify(lock, null, 2)}\n`)
process.stdout.write(`package-lock.json: ${added} optional packages added\n`)
