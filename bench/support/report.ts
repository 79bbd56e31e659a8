import type { Effect, Scope } from "effect"

/**
 * One measured value. `case` is what was done, `impl` who did it, `n` how many measurements the value is the median of.
 */
export interface Measurement {
  readonly bench: string
  readonly case: string
  readonly impl: string
  readonly unit: string
  readonly value: number
  readonly n?: number
  readonly seed?: number
}

export interface Report {
  readonly title: string
  readonly measurements: ReadonlyArray<Measurement>
  /** The order of the table's columns; by default that in which the units first come up. */
  readonly units?: ReadonlyArray<string>
  readonly notes: ReadonlyArray<string>
}

/**
 * A bench. With `quick` it runs all its code once or twice, to show that it starts; its numbers mean nothing then.
 */
export type Bench = (options: { readonly quick: boolean }) => Effect.Effect<Report, unknown, Scope.Scope>

// Four digits are more than any of these measurements can tell apart.
const rounded = (value: number): number => Number(value.toPrecision(4))

/** One JSON object a measured value, one a line. */
export const toJsonLines = ({ measurements }: Report): string =>
  measurements.map((measurement) => `${JSON.stringify({ ...measurement, value: rounded(measurement.value) })}\n`)
    .join("")

const show = (value: number | undefined): string => {
  if (value === undefined) return ""
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

/** A line for each case and implementation, a column for each unit. */
export const toTable = ({ measurements, notes, title, units: order = [] }: Report): string => {
  const found = new Set(measurements.map(({ unit }) => unit))
  const units = [...new Set([...order.filter((unit) => found.has(unit)), ...found])]
  const rows = new Map<string, { readonly case: string; readonly impl: string; readonly values: Map<string, number> }>()
  for (const { case: name, impl, seed, unit, value } of measurements) {
    // the table has room for the mean of the seeds alone
    if (seed !== undefined) continue
    const id = JSON.stringify([name, impl])
    const row = rows.get(id) ?? { case: name, impl, values: new Map() }
    row.values.set(unit, value)
    rows.set(id, row)
  }
  let before: string | undefined
  const cells = [["case", "implementation", ...units]]
  for (const { case: name, impl, values } of rows.values()) {
    cells.push([name === before ? "" : name, impl, ...units.map((unit) => show(values.get(unit)))])
    before = name
  }
  const widths = cells[0]?.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0))) ?? []
  const lines = cells.map((row) =>
    row.map((cell, column) => column < 2 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0))
      .join("  ")
      .trimEnd()
  )
  lines.splice(1, 0, widths.map((width) => "-".repeat(width)).join("  "))
  return [title, "", ...lines, "", ...notes.map((note) => `- ${note}`), ""].join("\n")
}
