// Writes every example of the documentation (doc comments in src, README.md) as a test file of its own below .doctest,
// where it is type-checked and run. A fence is marked ```ts import.meta.vitest; inside it `expression // => expected`
// is an assertion. A TypeScript fence without the mark is an error, so that no example can rot unseen. What a table right
// after an example shows in its column "in one line" is a part of this example.
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "../..")
const out = path.join(root, ".doctest")
const fence = /^[ \t]*(?:\*[ \t]?)?```(ts|typescript)\b([^\n]*)\n([\s\S]*?)^[ \t]*(?:\*[ \t]?)?```/gm
const assertion = /^(?:const (\w+)(: [^=]+)? = )?(.+?);? \/\/ => (.+)$/gm
const oneLiners = /^\s*((?:\|.*\|\n)+)/
const prelude = `import { assert as __assert, test as __test } from "vitest"
import { Equal as __Equal } from "effect"
const __same = (actual: unknown, expected: unknown) => {
  if (!__Equal.equals(actual, expected)) __assert.deepStrictEqual(actual, expected)
}
`

fs.rmSync(out, { recursive: true, force: true })
const problems = []
let examples = 0

/** The lines of code of a table that follows an example, each as a constant of its own. */
const lines = (after) => {
  const [header, , ...rows] = (oneLiners.exec(after)?.[1] ?? "").split("\n").filter((row) => row !== "")
  const column = header?.split("|").findIndex((title) => title.trim() === "in one line") ?? -1
  return column < 0 ?
    "" :
    rows.map((row, at) => `export const line${at + 1} = ${row.split("|")[column].trim().replaceAll(/^`|`$/g, "")}\n`)
      .join("")
}

for (const file of ["README.md", ".github/CONTRIBUTING.md", ...fs.globSync("src/**/*.ts", { cwd: root })]) {
  if (!fs.existsSync(path.join(root, file))) continue
  const text = fs.readFileSync(path.join(root, file), "utf8")
  for (const { 0: whole, 2: mark, 3: body, index } of text.matchAll(fence)) {
    const line = text.slice(0, index).split("\n").length
    if (!mark.includes("import.meta.vitest")) {
      problems.push(`${file}:${line}: a TypeScript example without the mark \`import.meta.vitest\` is not tested`)
      continue
    }
    const code = body
      .replaceAll(/^[ \t]*\*[ \t]?/gm, file.endsWith(".ts") ? "" : "$&")
      .replaceAll(assertion, (_, name, type, expression, expected) =>
        name === undefined
          ? `__same(${expression}, ${expected})`
          : `const ${name}${type ?? ""} = ${expression}\n__same(${name}, ${expected})`)
    const target = path.join(out, `${file}.${line}.test.ts`)
    fs.mkdirSync(path.dirname(target), { recursive: true })
    fs.writeFileSync(
      target,
      `${prelude}${code}${lines(text.slice(index + whole.length))}\n__test("${file}:${line}", () => {})\n`
    )
    examples++
  }
}
if (examples === 0) problems.push("no example was found at all")
for (const problem of problems) process.stderr.write(`${problem}\n`)
process.stdout.write(`${examples} examples\n`)
process.exit(problems.length === 0 ? 0 : 1)
