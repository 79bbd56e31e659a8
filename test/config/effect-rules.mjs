// Lint rules for code on Effect. Time, randomness, output and JSON come from Effect services in the library.
const forbidden = {
  "Date.now": "Clock.currentTimeMillis",
  "Math.random": "Random.next",
  "performance.now": "Clock.currentTimeNanos",
  "JSON.parse": "Schema.fromJsonString",
  "process.env": "Config",
  "crypto.randomUUID": "Random"
}
const timers = {
  setTimeout: "Effect.sleep",
  setInterval: "Schedule",
  setImmediate: "Effect.yieldNow",
  queueMicrotask: "Effect.yieldNow"
}
const runs = new Set(["runSync", "runPromise", "runFork", "runCallback", "runSyncExit", "runPromiseExit"])

const services = {
  meta: { type: "problem", docs: { description: "real time, randomness and input belong to Effect services" } },
  create: (context) => ({
    MemberExpression(node) {
      if (node.computed || node.object.type !== "Identifier") return
      const name = `${node.object.name}.${node.property.name}`
      const instead = Object.hasOwn(forbidden, name) ? forbidden[name] : undefined
      if (instead !== undefined) {
        context.report({ node, message: `${name} cannot be swapped in a test: use ${instead}` })
      }
    },
    CallExpression(node) {
      if (node.callee.type !== "Identifier") return
      const instead = Object.hasOwn(timers, node.callee.name) ? timers[node.callee.name] : undefined
      if (instead !== undefined) {
        context.report({ node, message: `${node.callee.name} cannot be swapped in a test: use ${instead}` })
      }
    },
    NewExpression(node) {
      if (node.callee.type === "Identifier" && node.callee.name === "Date" && node.arguments.length === 0) {
        context.report({ node, message: "new Date() reads the machine's clock: use DateTime.now" })
      }
    }
  })
}

const noRun = {
  meta: { type: "problem", docs: { description: "a library describes effects, the program at its edge runs them" } },
  create: (context) => ({
    MemberExpression(node) {
      if (
        !node.computed && node.object.type === "Identifier" && node.object.name === "Effect" &&
        runs.has(node.property.name)
      ) {
        context.report({ node, message: `Effect.${node.property.name} in the library loses the caller's services` })
      }
    }
  })
}

const noExpect = {
  meta: { type: "problem", docs: { description: "tests assert with `assert` of @effect/vitest" } },
  create: (context) => ({
    ImportSpecifier(node) {
      const from = node.parent.source.value
      if (node.imported.name === "expect" && (from === "vitest" || from === "@effect/vitest")) {
        context.report({ node, message: "use `assert` from @effect/vitest" })
      }
    }
  })
}

const moduleImports = {
  meta: { type: "problem", docs: { description: "the library imports Effect by module, with the file ending" } },
  create: (context) => ({
    ImportDeclaration(node) {
      const from = node.source.value
      if (from === "effect") {
        context.report({ node, message: "import the module: `import * as Effect from \"effect/Effect\"`" })
      }
      if (from.startsWith(".") && !from.endsWith(".ts")) {
        context.report({ node, message: "relative imports end in .ts" })
      }
    }
  })
}

const genReturn = {
  meta: { type: "problem", docs: { description: "an effect that never comes back is returned" } },
  create: (context) => ({
    ExpressionStatement(node) {
      const inner = node.expression
      if (inner.type !== "YieldExpression" || inner.delegate !== true || inner.argument === null) return
      const call = inner.argument
      if (
        call.type === "CallExpression" && call.callee.type === "MemberExpression" &&
        call.callee.object.type === "Identifier" && call.callee.object.name === "Effect" &&
        ["fail", "die", "failCause", "never"].includes(call.callee.property.name)
      ) {
        context.report({ node, message: "write `return yield*` where the effect never comes back" })
      }
    }
  })
}

export default {
  meta: { name: "effect" },
  rules: {
    "services": services,
    "no-run": noRun,
    "no-expect": noExpect,
    "module-imports": moduleImports,
    "return-yield": genReturn
  }
}
