/**
 * How long the answers of a model may be, said by who pays for them and read by whoever asks a provider.
 *
 * **When to use**
 *
 * Use it in a model layer of your own, to ask the provider for no longer an answer than the budget of an agent can pay;
 * `Anthropic` reads it already.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

/**
 * How many tokens the answers of the model calls inside may have.
 *
 * **Details**
 *
 * - `preferred`: what to ask for where the layer of the model was told nothing.
 * - `atMost`: what must not be passed, whatever the layer was told.
 *
 * @category models
 * @since 0.1.0
 */
export interface OutputTokens {
  readonly preferred: number | undefined
  readonly atMost: number
}

/**
 * How many tokens the answers of the model calls inside may have. An agent sets it for each of its calls, by what is left
 * in its budget; `Anthropic.layer` reads it. Default: no preference, no bound.
 *
 * **When to use**
 *
 * Read it in the layer of another model, or in the guard `policies.model` of an agent, to tell a provider that has a
 * parameter for it.
 *
 * @category services
 * @since 0.1.0
 */
export const OutputTokens: Context.Reference<OutputTokens> = Context.Reference(
  "effect-resilience/model/OutputTokens",
  { defaultValue: (): OutputTokens => ({ preferred: undefined, atMost: Infinity }) }
)

/**
 * What to ask a provider for, given what its layer was told, or `undefined` where nobody has said anything.
 *
 * **Example** (Telling another provider)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { OutputTokens } from "effect-resilience"
 *
 * const asked = OutputTokens.wanted(32_000).pipe(
 *   Effect.provideService(OutputTokens.OutputTokens, { preferred: 4096, atMost: 1_000 })
 * )
 *
 * Effect.runSync(asked) // => 1_000
 * Effect.runSync(OutputTokens.wanted(32_000)) // => 32_000
 * Effect.runSync(OutputTokens.wanted(undefined)) // => undefined
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const wanted = (configured: number | undefined): Effect.Effect<number | undefined> =>
  Effect.map(OutputTokens, ({ atMost, preferred }) => {
    const tokens = Math.min(configured ?? preferred ?? Infinity, atMost)
    return Number.isFinite(tokens) ? tokens : undefined
  })
