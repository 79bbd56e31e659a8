/** What a PromQL expression names: metrics with the labels it asks of them, and labels by which it groups. */
export interface Named {
  readonly selectors: ReadonlyArray<{
    readonly metric: string
    readonly matchers: ReadonlyArray<{ readonly label: string; readonly operator: string; readonly value: string }>
  }>
  readonly grouped: ReadonlyArray<string>
}

const token =
  /\s+|#[^\n]*|(?<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?<range>\[[^\]]*\])|(?<number>(?:0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?:ms|[smhdwy])?(?:\d+(?:ms|[smhdwy]))*)|(?<word>\$?[a-zA-Z_:][a-zA-Z0-9_:]*)|(?<sign>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},@])/y

interface Token {
  readonly kind: "text" | "range" | "number" | "word" | "sign"
  readonly text: string
}

const tokens = (expression: string): ReadonlyArray<Token> => {
  const found: Array<Token> = []
  token.lastIndex = 0
  while (token.lastIndex < expression.length) {
    const at = token.lastIndex
    const match = token.exec(expression)
    if (match === null) throw new Error(`no PromQL from here on: ${expression.slice(at)}`)
    for (const kind of ["text", "range", "number", "word", "sign"] as const) {
      const text = match.groups?.[kind]
      if (text !== undefined) found.push({ kind, text })
    }
  }
  return found
}

const grouping = new Set(["by", "without", "on", "ignoring", "group_left", "group_right"])
const operators = new Set(["and", "or", "unless", "bool", "offset", "inf", "nan"])

const unquoted = (text: string): string => text.slice(1, -1).replace(/\\(.)/g, "$1")

/** Reads an expression; throws where it is no PromQL that it understands. */
export const read = (expression: string): Named => {
  const all = tokens(expression)
  const selectors: Array<Named["selectors"][number]> = []
  const grouped: Array<string> = []
  const open: Array<string> = []
  let index = 0
  const isSign = (text: string, at = index) => all[at]?.kind === "sign" && all[at]?.text === text
  const expect = (kind: Token["kind"], text?: string): string => {
    const next = all[index++]
    if (next === undefined || next.kind !== kind || (text !== undefined && next.text !== text)) {
      throw new Error(`expected ${text ?? kind} and found ${next?.text ?? "the end"} in: ${expression}`)
    }
    return next.text
  }

  while (index < all.length) {
    const next = all[index]
    if (next === undefined) break
    if (next.kind === "sign" && next.text === "(") open.push("(")
    if (next.kind === "sign" && next.text === ")" && open.pop() === undefined) {
      throw new Error(`a parenthesis too many in: ${expression}`)
    }
    if (next.kind !== "word" || operators.has(next.text.toLowerCase()) || next.text.startsWith("$")) {
      index++
      continue
    }
    index++
    if (grouping.has(next.text)) {
      if (!isSign("(")) continue
      expect("sign", "(")
      while (!isSign(")")) {
        grouped.push(expect("word"))
        if (!isSign(")")) expect("sign", ",")
      }
      expect("sign", ")")
      continue
    }
    // A function, or an aggregation whose grouping comes first.
    if (isSign("(") || grouping.has(all[index]?.text ?? "")) continue
    const matchers: Array<Named["selectors"][number]["matchers"][number]> = []
    if (isSign("{")) {
      expect("sign", "{")
      while (!isSign("}")) {
        const label = expect("word")
        const operator = expect("sign")
        matchers.push({ label, operator, value: unquoted(expect("text")) })
        if (!isSign("}")) expect("sign", ",")
      }
      expect("sign", "}")
    }
    selectors.push({ metric: next.text, matchers })
  }
  if (open.length > 0) throw new Error(`a parenthesis too few in: ${expression}`)
  return { selectors, grouped }
}
