import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type * as SchemaAST from "effect/SchemaAST"

const isRedacted = (ast: SchemaAST.AST): boolean => {
  const representation: unknown = ast.annotations?.["representation"]
  return Predicate.hasProperty(representation, "id") && representation.id === "effect/schema/Redacted"
}

const children = (ast: SchemaAST.AST): ReadonlyArray<SchemaAST.AST> => {
  switch (ast._tag) {
    case "Declaration":
      return ast.typeParameters
    case "TemplateLiteral":
      return ast.parts
    case "Arrays":
      return [...ast.elements, ...ast.rest]
    case "Objects":
      return [
        ...ast.propertySignatures.map((property) => property.type),
        ...ast.indexSignatures.flatMap((signature) => [signature.parameter, signature.type])
      ]
    case "Union":
      return ast.types
    case "Suspend":
      return [ast.thunk()]
    default:
      return []
  }
}

const search = (root: SchemaAST.AST): boolean => {
  const seen = new Set<SchemaAST.AST>()
  const pending = [root]
  for (let ast = pending.pop(); ast !== undefined; ast = pending.pop()) {
    if (seen.has(ast)) continue
    seen.add(ast)
    if (isRedacted(ast)) return true
    pending.push(...children(ast))
    for (const link of ast.encoding ?? []) pending.push(link.to)
  }
  return false
}

const known = new WeakMap<SchemaAST.AST, boolean>()

/**
 * Whether a schema has a `Redacted` anywhere on its way to JSON. Effect's JSON codec would write such a value in clear.
 *
 * @internal
 */
export const hasRedacted = (schema: Schema.Constraint): boolean => {
  let found = known.get(schema.ast)
  if (found === undefined) {
    found = search(schema.ast) || search(Schema.toCodecJson(schema).ast)
    known.set(schema.ast, found)
  }
  return found
}
