// What the doc comments of public modules lack. A public module is a file that package.json exports: every file of `src`
// outside of a folder `internal`. Every export has a comment with a description, `@category` and `@since`; every property
// of an interface of options has a comment of its own or is named in the interface's comment as `property`; every
// `{@link}` leads somewhere.
import * as fs from "node:fs"
import * as path from "node:path"
import ts from "typescript"

/** The public modules below a folder. */
export const publicModules = (root) =>
  fs.globSync("**/*.ts", { cwd: root })
    .filter((file) => !file.split(path.sep).includes("internal") && !file.endsWith(".d.ts"))
    .map((file) => path.join(root, file))
    .toSorted()

/** The program of a tsconfig.json. */
export const programOf = (configFile) => {
  const { config, error } = ts.readConfigFile(configFile, ts.sys.readFile)
  if (error !== undefined) throw new Error(ts.flattenDiagnosticMessageText(error.messageText, "\n"))
  const { errors, fileNames, options } = ts.parseJsonConfigFileContent(config, ts.sys, path.dirname(configFile))
  if (errors.length > 0) throw new Error(ts.flattenDiagnosticMessageText(errors[0].messageText, "\n"))
  return ts.createProgram(fileNames, options)
}

/** Declarations that carry no comment of their own: the later ones of an overloaded function. */
const isOverload = (declaration, index, all) =>
  ts.isFunctionLike(declaration) && all.findIndex((other) => ts.isFunctionLike(other)) !== index

/** Where the comment of an export may stand: in the list that exports it again, or before its declaration. */
const placesOf = (symbol, target) => {
  const specifiers = (symbol.declarations ?? []).filter((node) => ts.isExportSpecifier(node) && docsOf(node).length > 0)
  const declarations = (target.declarations ?? []).filter((node) => !ts.isSourceFile(node))
  if (specifiers.length > 0) return specifiers.map((node) => ({ node, declaration: declarations[0] }))
  return declarations
    .filter((declaration, index) => !isOverload(declaration, index, declarations))
    .map((declaration) => ({ node: commented(declaration), declaration }))
    .filter(({ node }) => tagOf(node, "internal") === undefined)
}

/** The node that a comment of a declaration stands before. */
const commented = (declaration) =>
  ts.isVariableDeclaration(declaration) || ts.isBindingElement(declaration)
    ? ts.findAncestor(declaration, ts.isVariableStatement) ?? declaration
    : declaration

const docsOf = (node) => ts.getJSDocCommentsAndTags(node).filter(ts.isJSDoc)

const descriptionOf = (node) => docsOf(node).map((doc) => ts.getTextOfJSDocComment(doc.comment) ?? "").join("\n").trim()

const tagOf = (node, name) => docsOf(node).flatMap((doc) => doc.tags ?? []).find((tag) => tag.tagName.text === name)

const linksIn = (node) => {
  const links = []
  const visit = (child) => {
    if (ts.isJSDocLink(child) || ts.isJSDocLinkCode(child) || ts.isJSDocLinkPlain(child)) links.push(child)
    ts.forEachChild(child, visit)
  }
  for (const doc of docsOf(node)) visit(doc)
  return links
}

const isUrl = (link) => `${link.name === undefined ? "" : link.name.getText()}${link.text}`.trim().startsWith("http")

/** The object types that a function writes out for its parameter `options`. */
const inlineOptions = (declaration) => {
  const found = []
  const visit = (node) => {
    if (ts.isBlock(node)) return
    const isOptions = ts.isParameter(node) && ts.isIdentifier(node.name) && node.name.text === "options"
    if (isOptions && node.type !== undefined && ts.isTypeLiteralNode(node.type)) found.push(node.type)
    ts.forEachChild(node, visit)
  }
  if (ts.isVariableDeclaration(declaration) || ts.isFunctionDeclaration(declaration)) visit(declaration)
  return found
}

/** All that is wrong with the doc comments of some modules, as lines `file:line: what`. */
export const check = (program, modules, base) => {
  const checker = program.getTypeChecker()
  const problems = []
  let exports = 0
  const say = (node, what) => {
    const file = node.getSourceFile()
    const { line } = file.getLineAndCharacterOfPosition(node.getStart(file))
    problems.push(`${path.relative(base, file.fileName)}:${line + 1}: ${what}`)
  }
  const targetOf = (symbol) => (symbol.flags & ts.SymbolFlags.Alias) === 0 ? symbol : checker.getAliasedSymbol(symbol)

  // A property is told by its own comment, by the comment around it, by one that this links to, or where another
  // interface of options has the very same property.
  const told = new Set()
  const untold = []
  const checkProperties = (type, owner, name) => {
    const texts = [descriptionOf(owner)]
    for (const link of linksIn(owner)) {
      const target = link.name === undefined ? undefined : checker.getSymbolAtLocation(link.name)
      for (const declaration of target === undefined ? [] : targetOf(target).declarations ?? []) {
        texts.push(descriptionOf(commented(declaration)))
      }
    }
    const text = texts.join("\n")
    for (const property of type.getProperties()) {
      const declarations = property.declarations ?? []
      const own = declarations.some((declaration) => descriptionOf(declaration) !== "")
      if (own || text.includes(`\`${property.name}\``)) {
        for (const declaration of declarations) told.add(declaration)
      } else untold.push({ declarations, what: `the option ${property.name} of ${name} is told nowhere`, owner })
    }
  }

  // What the public modules with something of a file export: their comments link to each other by these names.
  const names = new Map()
  const nameIn = (file, name) => {
    if (!names.has(file)) names.set(file, new Set())
    names.get(file).add(name)
  }

  for (const module of modules) {
    const file = program.getSourceFile(module)
    if (file === undefined) {
      problems.push(`${path.relative(base, module)}: is no part of the program`)
      continue
    }
    const [first] = file.statements
    const head = first === undefined ? [] : docsOf(first)
    if (!head.some((doc) => (doc.tags ?? []).some((tag) => tag.tagName.text === "since"))) {
      problems.push(`${path.relative(base, module)}:1: the module has no comment with @since`)
    }
    const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(file) ?? file.symbol)
    const files = new Set(
      exported.flatMap((symbol) => (targetOf(symbol).declarations ?? []).map((d) => d.getSourceFile()))
    )
    for (const symbol of exported) {
      for (const part of [file, ...files]) nameIn(part, symbol.name)
      const target = targetOf(symbol)
      for (const { declaration, node } of placesOf(symbol, target)) {
        if (node.getSourceFile().fileName.includes("node_modules")) continue
        exports++
        const name = `${path.basename(module, ".ts")}.${symbol.name}`
        if (descriptionOf(node) === "") say(node, `${name} has no description`)
        for (const tag of ["category", "since"]) {
          if (tagOf(node, tag) === undefined) say(node, `${name} has no @${tag}`)
        }
        if (
          declaration !== undefined && ts.isInterfaceDeclaration(declaration) && /(Options|Settings)$/.test(symbol.name)
        ) {
          checkProperties(checker.getDeclaredTypeOfSymbol(target), node, name)
        }
        if (declaration !== undefined) {
          for (const options of inlineOptions(declaration)) {
            checkProperties(checker.getTypeAtLocation(options), node, name)
          }
        }
      }
    }
  }

  for (const { declarations, owner, what } of untold) {
    if (!declarations.some((declaration) => told.has(declaration))) say(owner, what)
  }

  const leads = ({ name }) =>
    checker.getSymbolAtLocation(name) !== undefined ||
    names.get(name.getSourceFile())?.has(name.getText().split(".")[0])
  const visit = (node) => {
    for (const link of linksIn(node)) {
      if (isUrl(link)) {
        const url = `${link.name === undefined ? "" : link.name.getText()}${link.text}`.trim().split(/[\s|]/)[0]
        if (!URL.canParse(url)) say(link, `the link to ${url} is no URL`)
      } else if (link.name === undefined) say(link, `the link "${link.getText()}" names nothing`)
      else if (!leads(link)) say(link, `the link to ${link.name.getText()} leads nowhere`)
    }
    ts.forEachChild(node, visit)
  }
  for (const file of program.getSourceFiles()) {
    if (!file.isDeclarationFile && !file.fileName.includes("node_modules")) visit(file)
  }
  return { exports, problems: Array.from(new Set(problems)).toSorted() }
}

/** The names that modules export, without those that are internal. */
export const exportsOf = (program, modules) => {
  const checker = program.getTypeChecker()
  return modules.flatMap((module) => {
    const file = program.getSourceFile(module)
    const symbol = file === undefined ? undefined : checker.getSymbolAtLocation(file)
    if (symbol === undefined) throw new Error(`${module} is no module of the program`)
    return checker.getExportsOfModule(symbol)
      .filter((exported) => {
        const target = (exported.flags & ts.SymbolFlags.Alias) === 0 ? exported : checker.getAliasedSymbol(exported)
        return (target.declarations ?? []).every(ts.isSourceFile) || placesOf(exported, target).length > 0
      })
      .map((exported) => ({ module, exported: exported.name }))
  })
}

/** What the comment at the head of each module says, as it was written. */
export const headsOf = (program, modules) =>
  new Map(modules.flatMap((module) => {
    const file = program.getSourceFile(module)
    const [comment] = file === undefined ? [] : ts.getLeadingCommentRanges(file.text, 0) ?? []
    if (comment === undefined) return []
    const text = file.text.slice(comment.pos, comment.end).replaceAll(/^[ \t]*\/?\*+[ \t/]?/gm, "").trim()
    return [[module, text.replaceAll(/^@since .*$/gm, "").replace(/\*\/$/, "").trim()]]
  }))
