// Fails where the documentation is not whole: a public export without a doc comment, an option that is told nowhere, a
// link that leads nowhere, a line of the production checklist without its proof.
import * as path from "node:path"
import * as docstrings from "./docstrings.mjs"
import * as markdown from "./markdown.mjs"

const root = path.resolve(import.meta.dirname, "../..")
const program = docstrings.programOf(path.join(import.meta.dirname, "tsconfig.json"))
const modules = docstrings.publicModules(path.join(root, "src"))
const { exports, problems } = docstrings.check(program, modules, root)
const pages = ["README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md"]

const all = [
  ...problems,
  ...pages.flatMap((page) => markdown.checkLinks(root, page)),
  ...markdown.checkChecklist(root, "README.md", "Production checklist")
]
for (const problem of all) process.stderr.write(`${problem}\n`)
process.stdout.write(`docs: ${exports} exports of ${modules.length} modules, ${all.length} problems\n`)
process.exitCode = all.length === 0 ? 0 : 1
