import { assert, describe, it } from "@effect/vitest"
import { compare, type World } from "../support/limitedProvider.ts"

const plenty = 1e9

const base: World = {
  requests: 100,
  inputTokens: plenty,
  outputTokens: plenty,
  burst: 1,
  agents: 40,
  processes: 1,
  headers: false,
  charged: false,
  minutes: 15,
  seed: 1
}

/** A world of many calls varies less from one to the other. */
const seedsOf = ({ agents = base.agents }: Partial<World>) => agents > 100 ? [1, 2] : [1, 2, 3, 4]

/** Means over the seeds, of a key that is told nothing in advance. */
const meanOf = (world: Partial<World>) => {
  const all = seedsOf(world).map((seed) => compare({ ...base, ...world, seed }))
  const mean = (of: (one: (typeof all)[number]) => number) => all.reduce((sum, one) => sum + of(one), 0) / all.length
  return {
    goodput: mean(({ goodput }) => goodput),
    amplification: mean(({ amplification }) => amplification),
    fairness: mean(({ fairness }) => fairness)
  }
}

const holds = (
  world: Partial<World>,
  least: { readonly goodput: number; readonly amplification: number; readonly fairness?: number }
) => {
  const { amplification, fairness, goodput } = meanOf(world)
  assert.isAtLeast(goodput, least.goodput, "goodput")
  assert.isAtMost(amplification, least.amplification, "amplification")
  assert.isAtLeast(fairness, least.fairness ?? 0, "fairness")
}

// Which limit is the tight one; demand is more than twice of it.
const tight: Readonly<Record<string, Partial<World>>> = {
  "requests": {},
  "many requests": { requests: 600, agents: 180 },
  "input tokens": { requests: 10_000, inputTokens: 400_000, agents: 30 },
  "output tokens": { requests: 10_000, outputTokens: 30_000 },
  "all of them": { inputTokens: 480_000, outputTokens: 31_000 }
}

describe("Quota under more demand than the limit", () => {
  for (const [name, world] of Object.entries(tight)) {
    describe(name, () => {
      it("with headers, uses all of it and is hardly ever refused", () => {
        holds({ ...world, headers: true }, { goodput: 0.99, amplification: 1.005 })
        holds({ ...world, headers: true, charged: true }, { goodput: 0.99, amplification: 1.005 })
      })

      it("without headers, finds it by refusals", () => {
        holds(world, { goodput: 0.97, amplification: 1.03 })
        holds({ ...world, charged: true }, { goodput: 0.97, amplification: 1.03 })
      })

      it("ten processes that share nothing else share it evenly where headers show it", () => {
        holds(
          { ...world, processes: 10, headers: true, charged: true },
          { goodput: 0.97, amplification: 1.01, fairness: 0.97 }
        )
      })

      it("ten processes that are told nothing starve nobody, even where refused calls are charged", () => {
        holds({ ...world, processes: 10, charged: true }, { goodput: 0.93, amplification: 1.1, fairness: 0.65 })
      })
    })
  }

  it("a provider that keeps a fifth of a minute is used as well", () => {
    holds({ burst: 0.2, headers: true }, { goodput: 0.98, amplification: 1.01 })
    holds({ burst: 0.2 }, { goodput: 0.95, amplification: 1.03 })
    holds({ burst: 0.2, processes: 10, headers: true, charged: true }, { goodput: 0.93, amplification: 1.1 })
  })

  it("a limit of a few requests a minute is used as well", () => {
    holds({ requests: 10, agents: 8 }, { goodput: 0.93, amplification: 1.08 })
    holds({ requests: 10, agents: 8, headers: true }, { goodput: 0.97, amplification: 1.01 })
  })

  it("a process alone with less demand than the limit is not slowed down", () => {
    holds({ requests: 600, agents: 40, headers: true }, { goodput: 0.98, amplification: 1 })
    holds({ requests: 600, agents: 40 }, { goodput: 0.98, amplification: 1.001 })
  })
})
