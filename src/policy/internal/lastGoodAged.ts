import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"

const TypeId = "~effect-resilience/policy/LastGood/Aged"

/** @internal */
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

/** @internal */
export const isAged = (u: unknown): u is Aged<unknown> => Predicate.hasProperty(u, TypeId)
