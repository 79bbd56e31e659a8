import { severity, type Status, statuses } from "./healthStatus.ts"

/**
 * What was known about one thing in each round: the severity, or {@link unknown}.
 *
 * @internal
 */
export type Lane = Uint8Array

const unknown = 255

/** @internal */
export interface Measured {
  readonly samples: number
  /** When the first of them was taken, on the clock of the rounds. */
  readonly first: number
  readonly counts: Readonly<Record<Status, number>>
  /** Mean severity of the first half of the samples, and of the second. */
  readonly earlier: number
  readonly later: number
}

const mean = (values: ReadonlyArray<number>): number => values.reduce((sum, one) => sum + one, 0) / values.length

/**
 * The last `size` rounds: a time for each, and a byte for each thing that is watched.
 *
 * @internal
 */
export class HealthHistory {
  private readonly times: Float64Array
  private rounds = 0

  constructor(size: number) {
    this.times = new Float64Array(size)
  }

  lane(): Lane {
    return new Uint8Array(this.times.length).fill(unknown)
  }

  /** Begins a round; every lane has to be put into it. */
  begin(now: number): void {
    this.times[this.rounds % this.times.length] = now
    this.rounds++
  }

  put(lane: Lane, status: Status | undefined): void {
    if (this.rounds === 0) return
    lane[(this.rounds - 1) % this.times.length] = status === undefined ? unknown : severity(status)
  }

  trend(lane: Lane, from: number): Measured | undefined {
    const { times } = this
    const known: Array<{ readonly at: number; readonly severity: number }> = []
    for (let round = Math.max(0, this.rounds - times.length); round < this.rounds; round++) {
      const slot = round % times.length
      const at = times[slot] ?? 0
      const severity = lane[slot] ?? unknown
      if (at >= from && severity !== unknown) known.push({ at, severity })
    }
    const [first] = known
    if (first === undefined) return undefined
    const severities = known.map(({ severity }) => severity)
    const count = (status: Status) => severities.filter((one) => statuses[one] === status).length
    const half = Math.floor(known.length / 2)
    return {
      samples: known.length,
      first: first.at,
      counts: {
        healthy: count("healthy"),
        slow: count("slow"),
        degraded: count("degraded"),
        critical: count("critical")
      },
      // The middle one of an odd number belongs to neither half; a single one is no development.
      earlier: mean(half === 0 ? severities : severities.slice(0, half)),
      later: mean(half === 0 ? severities : severities.slice(-half))
    }
  }
}
