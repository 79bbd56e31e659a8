// Packs the package as npm would publish it, installs the tarball into an empty project next to `effect`, type-checks
// and runs a small program there, and proves that the root imports nothing but `effect`.
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "../..")
const bin = path.join(root, "node_modules/.bin")
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "effect-resilience-consumer-"))
const run = (command, args, cwd) => {
  try {
    return execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
  } catch (error) {
    throw new Error(`${command} ${args.join(" ")} failed:\n${error.stdout}\n${error.stderr}`, { cause: error })
  }
}
const fail = (message) => {
  throw new Error(message)
}

try {
  const [packed] = JSON.parse(run("npm", ["pack", "--json", "--pack-destination", folder], root))
  const names = packed.files.map((file) => file.path)
  for (
    const needed of [
      "package.json",
      "README.md",
      "LICENSE",
      "dist/index.js",
      "dist/index.d.ts",
      "src/index.ts",
      "ops/prometheus-alerts.yml"
    ]
  ) {
    if (!names.includes(needed)) fail(`the package lacks ${needed}`)
  }
  const strays = names.filter((name) =>
    !/^(dist|ops|src)\/|^(package\.json|README\.md|LICENSE|CHANGELOG\.md)$/.test(name)
  )
  if (strays.length > 0) fail(`the package carries ${strays.join(", ")}`)
  run(path.join(bin, "publint"), ["--strict", path.join(folder, packed.filename)], root)

  const version = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")).peerDependencies.effect
  fs.writeFileSync(
    path.join(folder, "package.json"),
    JSON.stringify({
      name: "consumer",
      private: true,
      type: "module",
      dependencies: { "effect": version, "effect-resilience": `file:${packed.filename}` }
    })
  )
  run("npm", ["install", "--no-audit", "--no-fund", "--legacy-peer-deps"], folder)
  fs.copyFileSync(path.join(root, "test/tools/consumer.ts"), path.join(folder, "consumer.ts"))
  fs.writeFileSync(
    path.join(folder, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: {
        module: "NodeNext",
        target: "ES2023",
        lib: ["ES2024", "ESNext.Disposable", "DOM"],
        strict: true,
        exactOptionalPropertyTypes: true,
        types: [],
        noEmitOnError: true,
        declaration: true,
        outDir: "out"
      },
      files: ["consumer.ts"]
    })
  )
  run(path.join(bin, "tsc"), ["-p", "tsconfig.json"], folder)
  const said = run(path.join(bin, "node"), ["out/consumer.js"], folder).trim()
  if (said !== "fallback after 3 attempts, circuit Closed") fail(`the consumer's program printed: ${said}`)

  // The root is loaded with a resolver that writes down every package it is asked for.
  fs.writeFileSync(
    path.join(folder, "trace.mjs"),
    `import { registerHooks } from "node:module"
const seen = new Set()
registerHooks({
  resolve(specifier, context, next) {
    if (!specifier.startsWith(".") && context.parentURL?.includes("/node_modules/effect-resilience/")) seen.add(specifier)
    return next(specifier, context)
  }
})
const root = await import("effect-resilience")
process.stdout.write(JSON.stringify({ exports: Object.keys(root), imports: [...seen] }))
`
  )
  const traced = JSON.parse(run(path.join(bin, "node"), ["trace.mjs"], folder))
  const foreign = traced.imports.filter((name) => name !== "effect" && !name.startsWith("effect/"))
  if (foreign.length > 0) fail(`the root imports ${foreign.join(", ")}`)
  if (traced.imports.length === 0) fail("the root's imports were not seen")
  const installed = fs.readdirSync(path.join(folder, "node_modules")).filter((name) => !name.startsWith("."))
  if (installed.join(" ") !== "effect effect-resilience") fail(`the consumer needed ${installed.join(", ")}`)

  // One file of each internal folder: a pattern of `exports` with two stars blocks nothing.
  for (const internal of fs.globSync("**/internal", { cwd: path.join(root, "src") })) {
    const file = fs.readdirSync(path.join(root, "src", internal)).find((name) => name.endsWith(".ts"))
    const specifier = path.posix.join("effect-resilience", internal, path.basename(file ?? "", ".ts"))
    const blocked = run(path.join(bin, "node"), [
      "--input-type=module",
      "--eval",
      `try { await import("${specifier}"); console.log("open") } catch (e) { console.log(e.code) }`
    ], folder).trim()
    if (blocked !== "ERR_PACKAGE_PATH_NOT_EXPORTED") fail(`${specifier} can be imported: ${blocked}`)
  }
  const declared = fs.readFileSync(path.join(folder, "out/consumer.d.ts"), "utf8")
  if (!declared.includes("program")) fail("the consumer's declarations were not emitted")
  if (declared.includes("/internal/")) fail(`the consumer's declarations name internals:\n${declared}`)
  process.stdout.write(
    `package ok: ${names.length} files, ${Math.round(packed.size / 1024)} KiB packed, ` +
      `root exports ${traced.exports.length} modules and imports effect alone\n`
  )
} finally {
  fs.rmSync(folder, { recursive: true, force: true })
}
