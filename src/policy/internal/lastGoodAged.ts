import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"

const TypeId = "~effect-resilience/policy/LastGood/Aged"

/**
 * A remembered answer with its age, so that nobody takes it for a new one.
 *
 * **Details**
 *
 * - `value`: the answer.
 * - `age`: how old it was when it was served, and `asOf`: when its call began.
 * - `key`: the key it was remembered under, and `exact`: whether that is the key asked for, or a similar one.
 *
 * @category models
 * @since 0.1.0
 */
export class Aged<out A> {
  readonly value: A
  readonly key: string
  readonly exact: boolean
  readonly asOf: DateTime.Utc
  readonly age: Duration.Duration

  constructor(fields: {
    readonly value: A
    readonly key: string
    readonly exact: boolean
    readonly asOf: DateTime.Utc
    readonly age: Duration.Duration
  }) {
    this.value = fields.value
    this.key = fields.key
    this.exact = fields.exact
    this.asOf = fields.asOf
    this.age = fields.age
  }

  get [TypeId](): typeof TypeId {
    return TypeId
  }
}

/**
 * Whether a value is an {@link Aged} one.
 *
 * @category guards
 * @since 0.1.0
 */
export const isAged = (u: unknown): u is Aged<unknown> => Predicate.hasProperty(u, TypeId)
