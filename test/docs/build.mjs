// Generates the API reference into the folder `docs`: every public module with every export of it. A warning, a link
// that leads nowhere or an export that is not in the reference is a failure.
import * as path from "node:path"
import * as typedoc from "typedoc"
import * as docstrings from "./docstrings.mjs"

const root = path.resolve(import.meta.dirname, "../..")
const modules = docstrings.publicModules(path.join(root, "src"))
const nameOf = (module) => path.relative(path.join(root, "src"), module).replace(/\.ts$/, "")
const pageOf = (module) => nameOf(module).replace(/\/index$/, "")

const app = await typedoc.Application.bootstrap({
  name: "effect-resilience",
  tsconfig: path.join(import.meta.dirname, "tsconfig.json"),
  basePath: path.join(root, "src"),
  displayBasePath: path.join(root, "src"),
  entryPoints: modules,
  readme: path.join(root, "README.md"),
  projectDocuments: [path.join(root, "CHANGELOG.md")],
  out: path.join(root, "docs"),
  excludeInternal: true,
  excludeExternals: true,
  excludePrivate: true,
  disableSources: true,
  disableGit: true,
  categorizeByGroup: false,
  highlightLanguages: ["typescript", "javascript", "shell", "json", "mermaid"],
  // A type that only helps to write another one is not exported.
  validation: { notExported: false, invalidLink: true, invalidPath: true, rewrittenLink: true },
  logLevel: typedoc.LogLevel.Warn
})
// TypeDoc takes the first comment of a file for the module's only where a tag says so; here it always is.
const heads = docstrings.headsOf(docstrings.programOf(app.options.getValue("tsconfig")), modules)
app.converter.on(typedoc.Converter.EVENT_CREATE_DECLARATION, (_, reflection) => {
  const module = reflection.kindOf(typedoc.ReflectionKind.Module) &&
    modules.find((file) => pageOf(file) === reflection.name)
  if (!module) return
  const parts = (heads.get(module) ?? "").split(/\{@link ([^}]+)\}/)
  reflection.comment = new typedoc.Comment(
    parts.map((text, at) => at % 2 === 0 ? { kind: "text", text } : { kind: "inline-tag", tag: "@link", text })
  )
})
const project = await app.convert()
if (project === undefined) throw new Error("typedoc could not read the sources")

/** The first paragraph of what is said of an export, in one line. */
const summaryOf = (reflection) => {
  const { summary = [] } = reflection.comment ?? reflection.signatures?.[0]?.comment ??
    reflection.type?.declaration?.signatures?.[0]?.comment ?? {}
  const end = summary.findIndex(({ text }) => text.includes("\n\n"))
  const parts = end < 0 ? summary : summary.slice(0, end + 1)
  return parts.map((part) => Object.assign({}, part, { text: part.text.split("\n\n")[0].replaceAll("\n", " ") }))
}

// TypeDoc lists what a module exports by name alone: its page begins with what each of them is.
for (const module of project.children ?? []) {
  if (!module.kindOf(typedoc.ReflectionKind.Module) || module.comment === undefined) continue
  const list = (module.children ?? []).flatMap((child) => {
    const summary = summaryOf(child)
    if (summary.length === 0) return []
    const link = { kind: "inline-tag", tag: "@link", text: child.name, target: child }
    return [{ kind: "text", text: "\n- " }, link, { kind: "text", text: ": " }].concat(summary)
  })
  if (list.length > 0) module.comment.summary.push({ kind: "text", text: "\n\n**Exports**\n" }, ...list)
}
app.validate(project)
await app.generateOutputs(project)

const missing = []
for (
  const { exported, module } of docstrings.exportsOf(docstrings.programOf(app.options.getValue("tsconfig")), modules)
) {
  const page = project.children?.find(({ name }) => name === pageOf(module))
  const names = new Set((page?.children ?? []).map(({ name }) => name))
  if (!names.has(exported)) missing.push(`${nameOf(module)}.${exported}`)
}
for (const name of missing) process.stderr.write(`the reference lacks ${name}\n`)
process.stdout.write(`docs: ${project.children?.length ?? 0} modules\n`)
process.exitCode = missing.length > 0 || app.logger.hasErrors() || app.logger.hasWarnings() ? 1 : 0
