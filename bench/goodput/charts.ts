/**
 * Charts as SVG, written by hand: readable on a light and on a dark page, without a background of their own.
 */

const colors: Readonly<Record<string, string>> = {
  oracle: "#8a8f98",
  "effect-resilience": "#1f9d6b",
  "aws-adaptive": "#c77d1e",
  cockatiel: "#3b82d0",
  "sdk-step": "#c2549b",
  "sdk-task": "#a45ac7",
  "ai-sdk": "#7a6ee0",
  naive: "#b05252"
}

const colorOf = (name: string): string => colors[name] ?? "#8a8f98"

const style = `<style>
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #3b4048 }
  .title { font-size: 15px; font-weight: 600 }
  .name { font-weight: 600 }
  .own { font-weight: 600 }
  text { white-space: pre }
  .small { font-size: 11px }
  .end { text-anchor: end }
  .middle { text-anchor: middle }
  .rule { stroke: #8a8f98; stroke-opacity: .35 }
  .trouble { fill: #d06a4c; fill-opacity: .13 }
  .line { fill: none; stroke-width: 1.6; stroke-linejoin: round }
  .thick { stroke-width: 2.6 }
  @media (prefers-color-scheme: dark) { text { fill: #d3d7de } }
</style>`

const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

const text = (x: number, y: number, content: string, kind = ""): string =>
  `<text x="${round(x)}" y="${round(y)}"${kind === "" ? "" : ` class="${kind}"`}>${escaped(content)}</text>`

const round = (value: number): number => Math.round(value * 10) / 10

const svg = (width: number, height: number, label: string, parts: ReadonlyArray<string>): string =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
    `role="img" aria-label="${escaped(label)}">`,
    style,
    ...parts,
    "</svg>",
    ""
  ].join("\n")

/** The bars of one case: from 0 to 1, whose end is the oracle. */
export interface Panel {
  readonly name: string
  readonly about: string
  readonly bars: ReadonlyArray<{ readonly impl: string; readonly value: number; readonly note: string }>
}

/** A panel a case, three in a row. */
export const barChart = (title: string, about: string, panels: ReadonlyArray<Panel>): string => {
  const columns = 3
  const column = 330
  const label = 118
  const bar = 116
  const row = 17
  const head = 58
  const rows = Math.max(...panels.map(({ bars }) => bars.length))
  const panelHeight = 52 + rows * row + 14
  const width = columns * column + 8
  const height = head + Math.ceil(panels.length / columns) * panelHeight
  const drawn = panels.flatMap(({ about, bars, name }, index) => {
    const left = (index % columns) * column + 8
    const top = head + Math.floor(index / columns) * panelHeight
    const axis = left + label
    return [
      text(left, top + 16, name, "name"),
      text(left, top + 31, about, "small"),
      ...[0, 0.5, 1].map((at) =>
        `<line class="rule" x1="${axis + bar * at}" x2="${axis + bar * at}" y1="${top + 38}" y2="${
          top + 44 + bars.length * row
        }"/>`
      ),
      ...bars.flatMap(({ impl, note, value }, index) => {
        const y = top + 42 + index * row
        const own = impl === "effect-resilience" ? " own" : ""
        const end = bar * Math.min(1, Math.max(0, value))
        return [
          text(axis - 6, y + 11, impl, `small end${own}`),
          `<rect x="${axis}" y="${y + 2}" width="${round(Math.max(1, end))}" height="${row - 6}" rx="1.5" fill="${
            colorOf(impl)
          }"/>`,
          text(axis + bar + 6, y + 11, note, `small${own}`)
        ]
      })
    ]
  })
  return svg(width, height, title, [text(8, 20, title, "title"), text(8, 39, about, "small"), ...drawn])
}

/** A line over time; the values belong to steps of the same length, from the start on. */
export interface Line {
  readonly impl: string
  readonly values: ReadonlyArray<number>
}

export interface Timeline {
  readonly name: string
  readonly lines: ReadonlyArray<Line>
}

/** Panels one below the other, over the same time. */
export const timelineChart = (options: {
  readonly title: string
  readonly about: string
  readonly stepSeconds: number
  readonly fromSeconds: number
  readonly trouble: { readonly from: number; readonly to: number }
  readonly panels: ReadonlyArray<Timeline>
}): string => {
  const { about, fromSeconds, panels, stepSeconds, title, trouble } = options
  const left = 44
  const plotWidth = 760
  const plotHeight = 170
  const head = 92
  const between = 52
  const steps = Math.max(...panels.flatMap(({ lines }) => lines.map(({ values }) => values.length)))
  const toSeconds = fromSeconds + steps * stepSeconds
  const x = (seconds: number) => left + plotWidth * (seconds - fromSeconds) / (toSeconds - fromSeconds)
  const width = left + plotWidth + 16
  const height = head + panels.length * (plotHeight + between)
  const names = panels[0]?.lines.map(({ impl }) => impl) ?? []
  const drawn = panels.flatMap(({ lines, name }, index) => {
    const top = head + index * (plotHeight + between)
    const bottom = top + plotHeight
    const most = Math.max(1e-9, ...lines.flatMap(({ values }) => values))
    const step = [0.5, 1, 2, 5, 10, 20].find((one) => most / one <= 5) ?? Math.ceil(most / 5)
    const y = (value: number) => bottom - plotHeight * value / (most * 1.05)
    const rules = Array.from({ length: Math.floor(most / step) + 1 }, (_, rule) => rule * step)
    const minutes = Array.from({ length: Math.floor(toSeconds / 60) + 1 }, (_, minute) => minute)
      .filter((minute) => minute * 60 >= fromSeconds)
    return [
      `<rect class="trouble" x="${round(x(trouble.from))}" y="${top}" width="${
        round(x(trouble.to) - x(trouble.from))
      }" height="${plotHeight}"/>`,
      text(left, top - 8, name, "name"),
      rules.map((value) =>
        `<line class="rule" x1="${left}" x2="${left + plotWidth}" y1="${round(y(value))}" y2="${round(y(value))}"/>` +
        text(left - 6, y(value) + 4, String(value), "small end")
      ).join("\n"),
      minutes.map((minute) => text(x(minute * 60), bottom + 16, `${minute} min`, "small middle")).join("\n"),
      lines.map(({ impl, values }) => {
        const points = values.map((value, at) =>
          `${round(x(fromSeconds + (at + 0.5) * stepSeconds))},${round(y(value))}`
        )
        return `<polyline class="line${impl === "effect-resilience" ? " thick" : ""}" stroke="${
          colorOf(impl)
        }" points="${points.join(" ")}"/>`
      }).join("\n")
    ]
  })
  let offset = left
  const legend = names.flatMap((impl) => {
    const at = offset
    offset += 34 + impl.length * 7
    return [
      `<rect x="${at}" y="50" width="14" height="4" rx="2" fill="${colorOf(impl)}"/>`,
      text(at + 19, 56, impl, impl === "effect-resilience" ? "small own" : "small")
    ]
  })
  return svg(width, height, title, [text(8, 20, title, "title"), text(8, 39, about, "small"), ...legend, ...drawn])
}
