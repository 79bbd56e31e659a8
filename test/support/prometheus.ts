/**
 * A strict reader of Prometheus' text format 0.0.4, for tests: what a scraper would refuse is refused.
 */
export interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export interface Family {
  readonly name: string
  readonly type: string
  readonly help: string
  readonly samples: ReadonlyArray<Sample>
}

const number = (text: string): number => {
  if (text === "+Inf") return Infinity
  if (text === "-Inf") return -Infinity
  if (text === "NaN") return NaN
  if (!/^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$/.test(text)) throw new Error(`not a value: ${text}`)
  return Number(text)
}

const unescaped = (text: string): string =>
  text.replace(/\\(.)/g, (_, char: string) => {
    if (char === "n") return "\n"
    if (char === "\\" || char === "\"") return char
    throw new Error(`unknown escape \\${char}`)
  })

const labelsOf = (text: string): Record<string, string> => {
  const labels: Record<string, string> = {}
  let rest = text
  while (rest !== "") {
    const found = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\.)*)"(,|$)/.exec(rest)
    if (found === null) throw new Error(`not a label: ${rest}`)
    const [all, name = "", value = ""] = found
    if (Object.hasOwn(labels, name)) throw new Error(`label ${name} twice`)
    labels[name] = unescaped(value)
    rest = rest.slice(all.length)
  }
  return labels
}

const suffixes: Readonly<Record<string, ReadonlyArray<string>>> = {
  histogram: ["_bucket", "_sum", "_count"],
  summary: ["", "_sum", "_count"]
}

/** The metrics of a scrape, by name. */
export const parse = (text: string): ReadonlyMap<string, Family> => {
  if (text !== "" && !text.endsWith("\n")) throw new Error("the last line has no end")
  const families = new Map<string, { name: string; type: string; help: string; samples: Array<Sample> }>()
  const seen = new Set<string>()
  const helps = new Map<string, string>()
  let current: { name: string; type: string; help: string; samples: Array<Sample> } | undefined
  for (const line of text.split("\n")) {
    if (line === "") continue
    const help = /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)$/.exec(line)
    if (help !== null) {
      const [, name = "", said = ""] = help
      if (helps.has(name)) throw new Error(`HELP of ${name} twice`)
      helps.set(name, said)
      continue
    }
    const typed = /^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary|untyped)$/.exec(line)
    if (typed !== null) {
      const [, name = "", type = ""] = typed
      if (families.has(name)) throw new Error(`TYPE of ${name} twice`)
      current = { name, type, help: helps.get(name) ?? "", samples: [] }
      families.set(name, current)
      continue
    }
    const sample = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/.exec(line)
    if (sample === null) throw new Error(`not a line: ${line}`)
    const [, name = "", labels = "", value = ""] = sample
    const family = current
    if (family === undefined || !(suffixes[family.type] ?? [""]).some((suffix) => `${family.name}${suffix}` === name)) {
      throw new Error(`${name} does not belong to ${family?.name ?? "a metric"}`)
    }
    const series = `${name}{${labels}}`
    if (seen.has(series)) throw new Error(`${series} twice`)
    seen.add(series)
    family.samples.push({ name, labels: labelsOf(labels), value: number(value) })
  }
  return families
}
