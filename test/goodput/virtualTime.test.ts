import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { VirtualTime } from "../../bench/goodput/virtualTime.ts"

/** Fibers that sleep again and again, and what they saw of the time. */
const sleepers = (seen: Array<string>) =>
  Effect.forEach(
    [30, 20, 20, 50],
    Effect.fnUntraced(function*(millis, index) {
      for (let times = 0; times < 4; times++) {
        yield* Effect.sleep(millis)
        yield* Effect.yieldNow
        const elapsed = Number(yield* Clock.monotonicTimeNanos) / 1_000_000
        seen.push(`${index} at ${elapsed}`)
      }
    }),
    { concurrency: "unbounded", discard: true }
  )

describe("VirtualTime", () => {
  it.effect("wakes sleepers when and in the order in which TestClock does", () =>
    Effect.gen(function*() {
      const expected: Array<string> = []
      const fiber = yield* Effect.forkChild(sleepers(expected), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)

      const time = new VirtualTime()
      const seen: Array<string> = []
      time.fork(sleepers(seen), Context.empty())
      time.runUntil(1_000)
      assert.deepStrictEqual(seen, expected)
      assert.strictEqual(time.now, 1_000)
    }))

  it("does what is to happen in the order of its time, and of its coming where that is the same", () => {
    const time = new VirtualTime()
    const seen: Array<string> = []
    const at = (millis: number, name: string) => time.after(millis, () => seen.push(`${name} at ${time.now}`))
    for (let index = 40; index > 0; index--) at(index % 7, `${index}`)
    const sorted = Array.from({ length: 40 }, (_, index) => 40 - index)
      .toSorted((one, other) => one % 7 - other % 7)
      .map((index) => `${index} at ${index % 7}`)
    time.runUntil(10)
    assert.deepStrictEqual(seen, sorted)
  })

  it("passes over what was called off, and lets no time pass for it", () => {
    const time = new VirtualTime()
    const seen: Array<number> = []
    const cancel = time.after(5, () => seen.push(time.now))
    time.after(3, () => cancel())
    time.after(9, () => seen.push(time.now))
    time.runUntil(20)
    assert.deepStrictEqual(seen, [9])
  })

  it("leaves nothing of a sleep that was interrupted", () => {
    const time = new VirtualTime()
    let ended = ""
    const fiber = time.fork(
      Effect.onInterrupt(Effect.sleep(50), () => Effect.sync(() => ended = `interrupted at ${time.now}`)),
      Context.empty()
    )
    time.after(20, () => fiber.interruptUnsafe())
    time.runUntil(100)
    assert.strictEqual(ended, "interrupted at 20")
  })

  it("waits for promises before it goes on", async () => {
    const time = new VirtualTime()
    const seen: Array<number> = []
    const program = Effect.gen(function*() {
      for (let times = 0; times < 3; times++) {
        yield* Effect.promise(async () => {
          await Promise.resolve()
          await new Promise<void>((resolve) => time.after(10, resolve))
        })
        seen.push(time.now)
      }
    })
    time.fork(program, Context.empty())
    time.after(25, () => seen.push(time.now))
    await time.runPromisesUntil(100)
    assert.deepStrictEqual(seen, [10, 20, 25, 30])
  })
})
