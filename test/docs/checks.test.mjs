// The checks of the documentation find what they are there for: each on a small page or module that is wrong.
import assert from "node:assert/strict"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { test } from "node:test"
import * as docstrings from "./docstrings.mjs"
import * as markdown from "./markdown.mjs"

/** A folder of these files, which is gone after the test. */
const folderOf = (t, files) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "effect-resilience-docs-"))
  t.after(() => fs.rmSync(folder, { recursive: true, force: true }))
  for (const [name, text] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true })
    fs.writeFileSync(path.join(folder, name), text)
  }
  return folder
}

const tsconfig = JSON.stringify({
  compilerOptions: { module: "NodeNext", target: "ES2023", strict: true, noEmit: true, types: [] },
  include: ["src"]
})

const docstringsOf = (t, files) => {
  const folder = folderOf(t, { "tsconfig.json": tsconfig, ...files })
  const program = docstrings.programOf(path.join(folder, "tsconfig.json"))
  return docstrings.check(program, docstrings.publicModules(path.join(folder, "src")), folder)
}

const head = "/**\n * A module.\n *\n * @since 0.1.0\n */\n"
const doc = (text, tags = " * @category models\n * @since 0.1.0\n") => `/**\n * ${text}\n *\n${tags} */\n`

test("a module whose comments are whole has no problems", (t) => {
  const { exports, problems } = docstringsOf(t, {
    "src/Good.ts": `${head}export type { Part } from "./internal/part.js"\n` +
      `${
        doc("Options of {@link make}, which throws for a bad `size`.")
      }export interface Options { readonly size: number }\n` +
      `${
        doc("Makes one, see {@link Part} and {@link https://effect.website}.")
      }export const make = (_: Options) => 1\n`,
    "src/internal/part.ts": `${
      doc("A part of what {@link make} makes.")
    }export type Part = 1\nexport const hidden = 1\n`
  })
  assert.deepEqual(problems, [])
  assert.equal(exports, 3)
})

test("an export without a description, a category or a version is a problem", (t) => {
  const { problems } = docstringsOf(t, {
    "src/Bad.ts": `${head}import "node:fs"\nexport const none = 1\n` +
      `${doc("Has no category.", " * @since 0.1.0\n")}export const noCategory = 1\n` +
      `${doc("Has no version.", " * @category models\n")}export const noSince = 1\n`
  })
  assert.deepEqual(
    problems,
    [
      "src/Bad.ts:13: Bad.noCategory has no @category",
      "src/Bad.ts:19: Bad.noSince has no @since",
      "src/Bad.ts:7: Bad.none has no @category",
      "src/Bad.ts:7: Bad.none has no @since",
      "src/Bad.ts:7: Bad.none has no description"
    ].toSorted()
  )
})

test("an export of an internal file that a module exports again is not forgotten", (t) => {
  const { problems } = docstringsOf(t, {
    "src/Bad.ts": `${head}export { lost } from "./internal/part.js"\n`,
    "src/internal/part.ts": "export const lost = 1\n"
  })
  assert.equal(problems.includes("src/internal/part.ts:1: Bad.lost has no description"), true)
})

test("a module without a comment is a problem", (t) => {
  const { problems } = docstringsOf(t, {
    "src/Bad.ts": `${doc("Fine.")}export const fine = 1\n`,
    "src/Worse.ts": "export {}\n"
  })
  assert.deepEqual(problems, ["src/Worse.ts:1: the module has no comment with @since"])
})

test("an option that is told nowhere is a problem, and one that another interface tells is not", (t) => {
  const { problems } = docstringsOf(t, {
    "src/Bad.ts": `${head}${doc("`size` is how many.")}export interface Options { readonly size: number }\n` +
      `${doc("More of them.")}export interface MoreOptions extends Options { readonly depth: number }\n`
  })
  assert.deepEqual(problems.map((problem) => problem.replace(/^.*?: /, "")), [
    "the option depth of Bad.MoreOptions is told nowhere"
  ])
})

test("an option that a function writes out is told, too", (t) => {
  const { problems } = docstringsOf(t, {
    "src/Bad.ts": `${head}${
      doc("Makes one of `size`.")
    }export const make = (options: { readonly size: number; readonly depth: number }) => options\n`
  })
  assert.deepEqual(problems.map((problem) => problem.replace(/^.*?: /, "")), [
    "the option depth of Bad.make is told nowhere"
  ])
})

test("a link that leads nowhere is a problem, also in an internal file", (t) => {
  const { problems } = docstringsOf(t, {
    "src/Bad.ts": `${head}${doc("See {@link gone}.")}export const here = 1\n`,
    "src/internal/part.ts": "/** See {@link lost}. */\nexport const part = 1\n"
  })
  assert.deepEqual(problems.map((problem) => problem.replace(/^.*?: /, "")), [
    "the link to gone leads nowhere",
    "the link to lost leads nowhere"
  ])
})

test("a link to a file or a heading that is not there, or to no address, is a problem", (t) => {
  const folder = folderOf(t, {
    "README.md": [
      "# A page",
      "## What `it` is, twice",
      "## What `it` is, twice",
      "[a](#what-it-is-twice-1) [b](other.md#second) [c](https://effect.website/docs) [d][ref] `[e](not-a-link.md)`",
      "```md",
      "[f](in-a-fence.md)",
      "```",
      "[g](#nowhere) [h](gone.md) [i](other.md#third) [j](../out.md) [k](http://insecure.example) ![l](gone.svg)",
      "",
      "[ref]: gone-too.md"
    ].join("\n"),
    "other.md": "## Second\n"
  })
  assert.deepEqual(markdown.checkLinks(folder, "README.md"), [
    "README.md:8: the link #nowhere names no heading",
    "README.md:8: the link gone.md names no file",
    "README.md:8: the link other.md#third names no heading",
    "README.md:8: the link ../out.md leaves the repository",
    "README.md:8: the link http://insecure.example is no address that may be linked to",
    "README.md:8: the link gone.svg names no file",
    "README.md:10: the link gone-too.md names no file"
  ])
})

test("a line of the checklist needs a module and a test that exist", (t) => {
  const page = (...rows) =>
    ["# x", "## Checklist", "", "| what | module | proof |", "| --- | --- | --- |", ...rows, ""].join("\n")
  const files = { "src/policy/Retry.ts": "", "test/Retry.test.ts": "it(\"gives up\", () => {})\n" }
  const good = folderOf(t, { ...files, "README.md": page("| a | `Retry` | `test/Retry.test.ts` \"gives up\" |") })
  assert.deepEqual(markdown.checkChecklist(good, "README.md", "Checklist"), [])
  const bad = folderOf(t, {
    ...files,
    "README.md": page(
      "| b | `Gone` | `test/Retry.test.ts` \"goes on\" |",
      "| c | Retry | `test/Gone.test.ts` \"gives up\" |",
      "| d | `Retry` | `test/Retry.test.ts` |",
      "| e | `Retry` | trust us |"
    )
  })
  assert.deepEqual(markdown.checkChecklist(bad, "README.md", "Checklist"), [
    "README.md:6: there is no module Gone",
    "README.md:6: test/Retry.test.ts has no test \"goes on\"",
    "README.md:7: \"c\" names no module",
    "README.md:7: there is no file test/Gone.test.ts",
    "README.md:8: \"d\" names no test of test/Retry.test.ts",
    "README.md:9: \"e\" names no test"
  ])
  assert.deepEqual(markdown.checkChecklist(bad, "README.md", "Missing"), ["README.md: there is no section \"Missing\""])
})
