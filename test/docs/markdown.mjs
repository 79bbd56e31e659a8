// What is wrong with the pages of the repository: links to files and headings that do not exist, addresses that are none,
// and lines of the production checklist whose module or proof does not exist.
import * as fs from "node:fs"
import * as path from "node:path"

const fence = /^[ \t]*(```+|~~~+)[\s\S]*?^[ \t]*\1[ \t]*$/gm

/** The same text with what stands in fences and comments blanked out, so that places and lines stay. */
const prose = (text) =>
  text.replaceAll(fence, (code) => code.replaceAll(/[^\n]/g, " "))
    .replaceAll(/<!--[\s\S]*?-->/g, (comment) => comment.replaceAll(/[^\n]/g, " "))

const withoutCode = (text) => text.replaceAll(/`[^`\n]*`/g, (code) => " ".repeat(code.length))

const lineAt = (text, index) => text.slice(0, index).split("\n").length

/** The anchors that GitHub gives to the headings of a page. */
export const anchorsOf = (text) => {
  const seen = new Map()
  return new Set(
    Array.from(prose(text).matchAll(/^#{1,6}[ \t]+(.+?)[ \t#]*$/gm), ([, heading]) => {
      const slug = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1").toLowerCase()
        .replaceAll(/[^\p{L}\p{N}\p{M} _-]/gu, "").replaceAll(" ", "-")
      const before = seen.get(slug) ?? 0
      seen.set(slug, before + 1)
      return before === 0 ? slug : `${slug}-${before}`
    })
  )
}

/** Links of a page that lead nowhere. Addresses elsewhere are looked at and not called. */
export const checkLinks = (root, page) => {
  const text = fs.readFileSync(path.join(root, page), "utf8")
  const body = withoutCode(prose(text))
  const problems = []
  const targets = [
    ...body.matchAll(/\]\(<?([^)>\s]+)>?(?:\s+"[^"]*")?\)/g),
    ...body.matchAll(/^[ \t]*\[[^\]]+\]:[ \t]*<?([^>\s]+)>?/gm)
  ]
  for (const { 1: target, index } of targets) {
    const say = (what) => problems.push(`${page}:${lineAt(text, index)}: the link ${target} ${what}`)
    if (/^[a-z][a-z+.-]*:/i.test(target)) {
      if (!URL.canParse(target) || !/^(https:|mailto:)/.test(target)) say("is no address that may be linked to")
      continue
    }
    const [file = "", anchor] = target.split("#")
    const place = file === "" ? path.join(root, page) : path.resolve(root, path.dirname(page), decodeURI(file))
    if (path.relative(root, place).startsWith("..")) say("leaves the repository")
    else if (!fs.existsSync(place)) say("names no file")
    else if (anchor !== undefined && !anchorsOf(fs.readFileSync(place, "utf8")).has(anchor)) say("names no heading")
  }
  return problems
}

const sectionOf = (text, title) => {
  const start = text.search(new RegExp(`^## ${title}$`, "m"))
  if (start < 0) return undefined
  const end = text.slice(start + 3).search(/^## /m)
  return { start, body: end < 0 ? text.slice(start) : text.slice(start, start + 3 + end) }
}

const isTest = (source, title) =>
  [`"${title}"`, `'${title}'`, `\`${title}\``].some((quoted) => source.includes(`(${quoted}`))

/**
 * Lines of the checklist that promise what nothing proves. The second column names modules of `src` in code, the third
 * test files, each followed by the names of its tests in quotes.
 */
export const checkChecklist = (root, page, title) => {
  const text = fs.readFileSync(path.join(root, page), "utf8")
  const section = sectionOf(text, title)
  if (section === undefined) return [`${page}: there is no section "${title}"`]
  const modules = new Set(
    fs.globSync("src/**/*.ts", { cwd: root }).filter((file) => !file.includes("internal"))
      .map((file) => path.basename(file, ".ts"))
  )
  const problems = []
  const rows = Array.from(section.body.matchAll(/^\| (?!---)(.+) \|$/gm)).slice(1)
  if (rows.length === 0) problems.push(`${page}: the section "${title}" has no table`)
  for (const { 1: row, index } of rows) {
    const say = (what) => problems.push(`${page}:${lineAt(text, section.start + index)}: ${what}`)
    const [what, covers, proof] = row.split(" | ")
    if (proof === undefined) {
      say("a line of the checklist has three columns")
      continue
    }
    const named = Array.from(covers.matchAll(/`([^`]+)`/g), ([, name]) => name)
    if (named.length === 0) say(`"${what}" names no module`)
    for (const name of named) {
      if (!modules.has(name.split("/").at(-1).split(".")[0])) say(`there is no module ${name}`)
    }
    const proofs = Array.from(proof.matchAll(/`(test\/[^`]+)`((?:[^`"]*"[^"]+")*)/g))
    if (proofs.length === 0) say(`"${what}" names no test`)
    for (const [, file, titles] of proofs) {
      if (!fs.existsSync(path.join(root, file))) {
        say(`there is no file ${file}`)
        continue
      }
      const source = fs.readFileSync(path.join(root, file), "utf8")
      const quoted = Array.from(titles.matchAll(/"([^"]+)"/g), ([, name]) => name)
      if (quoted.length === 0) say(`"${what}" names no test of ${file}`)
      for (const name of quoted) if (!isTest(source, name)) say(`${file} has no test "${name}"`)
    }
  }
  return problems
}
