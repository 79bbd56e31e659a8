// Floors: a file imports only from its own floor or the ones below it, and never in a circle.
const floors = ["ground", "policy", "durable", "model", "health", "agent", "testing", "cli"]
const folder = (floor) =>
  floor === "ground"
    ? "^src/(Fault[.]ts|Telemetry[.]ts|internal/)"
    : floor === "cli"
    ? "^src/(cli|console)/"
    : `^src/${floor}/`

const higher = floors.slice(0, -1).map((floor, index) => ({
  name: `${floor}-imports-from-a-higher-floor`,
  severity: "error",
  from: { path: folder(floor) },
  to: { path: [...floors.slice(index + 1).map(folder), "^src/index[.]ts"] }
}))

export default {
  forbidden: [
    { name: "no-cycles", severity: "error", from: { path: "^src/" }, to: { circular: true } },
    {
      name: "no-unresolved",
      severity: "error",
      from: { path: "^src/" },
      to: { couldNotResolve: true, pathNot: "^node:" }
    },
    {
      name: "no-foreign-internals",
      severity: "error",
      from: { path: "^src/([^/]+)/" },
      to: { path: "/internal/", pathNot: ["^src/$1/", "^src/internal/", "node_modules"] }
    },
    {
      name: "the-root-needs-effect-alone",
      severity: "error",
      from: { path: "^src/index[.]ts" },
      to: { reachable: true, pathNot: ["^src/", "node_modules/effect/"] }
    },
    ...higher
  ],
  options: {
    parser: "swc",
    tsPreCompilationDeps: true,
    doNotFollow: { path: "node_modules" },
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "node", "default"],
      extensions: [".ts", ".js"]
    }
  }
}
