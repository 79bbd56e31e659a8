import { assert, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { RetryBudget } from "effect-resilience"
import { TestClock } from "effect/testing"
import { runs } from "../support/runs.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const Command = Schema.Struct({
  dice: upTo(99),
  key: Schema.Literals(["a", "b"]),
  which: upTo(9),
  millis: Schema.Literals([1, 49, 50, 51, 333, 949, 950, 951, 999, 1_000, 1_001, 5_000])
})

const action = (dice: number) => {
  if (dice < 35) return "deposit"
  if (dice < 45) return "take back"
  if (dice < 70) return "withdraw"
  if (dice < 80) return "give back"
  return dice < 97 ? "wait" : "jump"
}

const Commands = Schema.Array(Command).check(Schema.isMinLength(20), Schema.isMaxLength(200))

const Setup = Schema.Struct({
  ratio: Schema.Literals([0, 0.1, 0.2, 0.5, 1]),
  minPerSecond: Schema.Literals([0, 0.5, 1, 3]),
  windowOfB: Schema.Literals([100, 1_000, 7_777])
})

const windowOfA = 1_000

/** A budget as one would tell it: everything remembered, everything counted anew. */
class Model {
  deposits: ReadonlyArray<{ readonly at: number }> = []
  withdrawals: ReadonlyArray<{ readonly at: number }> = []
  readonly ratio: number
  readonly floor: number
  readonly window: number
  constructor(ratio: number, minPerSecond: number, window: number) {
    this.ratio = ratio
    this.floor = minPerSecond * window / 1_000
    this.window = window
  }
  counts(now: number) {
    const slot = (time: number) => Math.floor(time * 20 / this.window)
    const isRecent = (at: number) => slot(now) - slot(at) < 20
    const firstAttempts = this.deposits.filter(({ at }) => isRecent(at)).length
    const retries = this.withdrawals.filter(({ at }) => isRecent(at)).length
    // in whole thousandths, so that no fraction is lost on the way
    const balance = Math.round(this.ratio * firstAttempts * 1_000) + Math.round(this.floor * 1_000) - retries * 1_000
    return { firstAttempts, retries, available: Math.max(0, Math.floor(balance / 1_000)) }
  }
  deposit(now: number) {
    const deposit = { at: now }
    this.deposits = [...this.deposits, deposit]
    return deposit
  }
  takeBack(deposit: { readonly at: number }) {
    this.deposits = this.deposits.filter((other) => other !== deposit)
  }
  withdraw(now: number) {
    if (this.counts(now).available < 1) return undefined
    const withdrawal = { at: now }
    this.withdrawals = [...this.withdrawals, withdrawal]
    return withdrawal
  }
  giveBack(withdrawal: { readonly at: number }) {
    this.withdrawals = this.withdrawals.filter((other) => other !== withdrawal)
  }
  /** What the budget is for, said without slots. */
  keepsItsPromise(now: number) {
    const retries = this.withdrawals.filter(({ at }) => now - at < this.window * 0.95).length
    const firstAttempts = this.deposits.filter(({ at }) => now - at < this.window).length
    return retries <= this.ratio * firstAttempts + this.floor + 1e-6
  }
}

it.effect.prop(
  "behaves like its model under random first attempts, refusals, retries, interrupted delays and clock moves",
  { setup: Setup, commands: Commands },
  ({ commands, setup }) =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.make({
        ratio: setup.ratio,
        minPerSecond: setup.minPerSecond,
        window: windowOfA,
        keys: { b: { window: setup.windowOfB } }
      })
      const models = {
        a: new Model(setup.ratio, setup.minPerSecond, windowOfA),
        b: new Model(setup.ratio, setup.minPerSecond, setup.windowOfB)
      }
      const open: Array<{
        readonly withdrawal: RetryBudget.Withdrawal
        readonly modelled: { readonly at: number }
        readonly model: Model
      }> = []
      const undone: Array<Effect.Effect<void>> = []
      let now = 0

      for (const command of commands) {
        const { key } = command
        const model = models[key]
        switch (action(command.dice)) {
          case "deposit": {
            const deposit = yield* budget.deposit(key)
            const modelled = model.deposit(now)
            if (deposit === undefined) break
            undone.push(Effect.andThen(deposit.takeBack, Effect.sync(() => model.takeBack(modelled))))
            break
          }
          case "take back": {
            // the latest first: an old one has expired
            const [takeBack] = undone.splice(-1 - command.which % Math.max(1, undone.length), 1)
            if (takeBack === undefined) break
            yield* takeBack
            if (command.millis % 2 === 0) yield* takeBack
            break
          }
          case "withdraw": {
            const withdrawal = yield* budget.withdraw(key)
            const modelled = model.withdraw(now)
            assert.strictEqual(withdrawal !== undefined, modelled !== undefined, JSON.stringify(command))
            if (withdrawal === undefined || modelled === undefined) break
            assert.isTrue(model.keepsItsPromise(now), JSON.stringify(command))
            open.push({ withdrawal, modelled, model })
            break
          }
          case "give back": {
            const [given] = open.splice(command.which % Math.max(1, open.length), 1)
            if (given === undefined) break
            yield* given.withdrawal.giveBack
            if (command.millis % 2 === 0) yield* given.withdrawal.giveBack
            given.model.giveBack(given.modelled)
            break
          }
          case "wait": {
            yield* TestClock.adjust(command.millis)
            now += command.millis
            break
          }
          case "jump": {
            const far = command.millis * 1_000
            yield* TestClock.adjust(far)
            now += far
            break
          }
        }
        for (const name of ["a", "b"] as const) {
          assert.deepStrictEqual(
            yield* budget.state(name),
            { key: name, ...models[name].counts(now) },
            JSON.stringify(command)
          )
        }
      }
    }).pipe(Effect.provide(TestClock.layer())),
  { arbitrary: { runs: runs(300, 20_000), seed: 1 }, timeout: runs(30_000, 600_000) }
)
