import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { LruMap } from "../../src/internal/lruMap.ts"
import { runs } from "../support/runs.ts"

const Command = Schema.Struct({
  what: Schema.Literals(["set", "set", "use", "use", "peek", "delete", "shrink"]),
  key: Schema.Literals(["a", "b", "c", "d", "e"]),
  size: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 4 }))
})

describe("LruMap", () => {
  it.effect.prop(
    "keeps and forgets what a Map in the order of last use does",
    { commands: Schema.Array(Command) },
    ({ commands }) =>
      Effect.sync(() => {
        const map = new LruMap<number>()
        const model = new Map<string, number>()
        const touch = (key: string, value: number) => {
          model.delete(key)
          model.set(key, value)
        }
        for (const [at, { key, size, what }] of commands.entries()) {
          const known = model.get(key)
          if (what === "set") {
            map.set(key, at)
            touch(key, at)
          } else if (what === "use") {
            assert.strictEqual(map.use(key), known)
            if (known !== undefined) touch(key, known)
          } else if (what === "peek") assert.strictEqual(map.peek(key), known)
          else if (what === "delete") {
            map.delete(key)
            model.delete(key)
          } else {
            map.shrink(size)
            for (const oldest of [...model.keys()].slice(0, Math.max(0, model.size - size))) model.delete(oldest)
          }
          assert.strictEqual(map.size, model.size)
          assert.deepStrictEqual([...map.entries()], [...model])
        }
      }),
    { arbitrary: { runs: runs(200, 5_000), seed: 1 } }
  )

  it("lets what it gives be deleted while it gives", () => {
    const map = new LruMap<number>()
    for (const key of ["a", "b", "c"]) map.set(key, 1)
    for (const [key] of map.entries()) map.delete(key)
    assert.strictEqual(map.size, 0)
  })
})
