import * as LanguageModel from "effect/ai/LanguageModel"
import * as Response from "effect/ai/Response"
import type * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { metadataKey } from "../../internal/verdict.ts"
import * as Fallback from "../../policy/Fallback.ts"

/** @internal */
export const Provenance = Schema.Struct({
  source: Schema.String,
  degraded: Schema.Boolean,
  errors: Schema.Array(Fallback.FailedStep),
  lastGood: Schema.optionalKey(Schema.Struct({ asOf: Schema.DateTimeUtcFromMillis, age: Schema.DurationFromMillis }))
})

/** @internal */
export type Provenance = typeof Provenance.Type

/** Any part of an answer, streamed or not. */
export type Part = Response.AnyPart

/** What a model has answered. */
export interface Answered {
  readonly content: ReadonlyArray<Part>
  readonly value?: unknown
}

const encode = Schema.encodeSync(Schema.toCodecJson(Provenance))
const decode = Schema.decodeUnknownOption(Schema.toCodecJson(Provenance))

const of = (metadata: unknown): Option.Option<Provenance> => {
  const entry = Predicate.hasProperty(metadata, metadataKey) ? metadata[metadataKey] : undefined
  return Predicate.hasProperty(entry, "provenance") ? decode(entry.provenance) : Option.none()
}

/** @internal */
export const provenanceIn = (
  content: Iterable<{ readonly type: string; readonly metadata?: unknown }>
): Option.Option<Provenance> => {
  let found: Option.Option<Provenance> = Option.none()
  for (const part of content) found = Option.orElse(of(part.metadata), () => found)
  return found
}

/** What the model says of itself, where it is made of several, and what is known of it here, as one. */
const joined = (inner: Option.Option<Provenance>, outer: Provenance): Provenance => {
  if (Option.isNone(inner) || outer.lastGood !== undefined) return outer
  return outer.degraded ? { ...outer, errors: [...outer.errors, ...inner.value.errors] } : inner.value
}

/**
 * Writes into a part where its answer came from.
 *
 * @internal
 */
export const mark = (part: Part, provenance: Provenance): Part =>
  Object.assign({}, part, {
    metadata: {
      ...part.metadata,
      [metadataKey]: { provenance: encode(joined(of(part.metadata), provenance)) }
    }
  })

/**
 * Writes it into the finish part of a whole answer, or, where that has none, into its last part.
 *
 * @internal
 */
export const marked = (content: ReadonlyArray<Part>, provenance: Provenance): ReadonlyArray<Part> => {
  const at = content.findLastIndex(({ type }) => type === "finish")
  return content.map((part, index) => index === (at < 0 ? content.length - 1 : at) ? mark(part, provenance) : part)
}

/** @internal */
export const isFinish = (part: Part): part is Response.FinishPart => part.type === "finish"

/** Parts that say that an answer begins, and nothing of it yet. */
const preludes = new Set(["response-metadata", "text-start", "reasoning-start", "tool-params-start"])

/** @internal */
export const isContent = (part: Part): boolean => !preludes.has(part.type)

/**
 * A tool must not start, and nobody must take an answer for whole, before it is known to be.
 *
 * @internal
 */
export const waitsForTheEnd = (part: Part): boolean =>
  part.type === "finish" || (part.type === "tool-call" && !part.providerExecuted)

/** @internal */
export const isToolCall = (part: Part): part is Response.ToolCallPart<string, unknown> => part.type === "tool-call"

type Content = ConstructorParameters<typeof LanguageModel.GenerateTextResponse>[0]

/**
 * The response that effect/ai makes of such parts: that they are those of a whole answer is known from where they came.
 *
 * @internal
 */
export const response = ({ content, ...rest }: Answered) =>
  "value" in rest
    ? new LanguageModel.GenerateObjectResponse(rest.value, [...content] as Content)
    : new LanguageModel.GenerateTextResponse([...content] as Content)

const encodeParts = Schema.encodeUnknownEffect(Schema.mutable(Schema.Array(Response.Part())))
const encodeStreamParts = Schema.encodeUnknownEffect(Schema.NonEmptyArray(Response.StreamPart()))

/** A result that a provider has made comes decoded, and is to be decoded again. */
const raw = (part: Part): Part => part.type === "tool-result" ? { ...part, result: part.encodedResult } : part

/** @internal */
export const encoded = (content: ReadonlyArray<Part>) => encodeParts(content.map(raw))

/** @internal */
export const encodedStream = (parts: ReadonlyArray<Part>) => encodeStreamParts(parts.map(raw))

const Kept = Schema.Array(Schema.Union([Response.Part(), Response.StreamPart()]))
const encodeKept = Schema.encodeUnknownEffect(Schema.toCodecJson(Kept))
const decodeKept = Schema.decodeUnknownEffect(Schema.toCodecJson(Kept))

const noUsage = new Response.Usage({
  inputTokens: { uncached: 0, total: 0, cacheRead: 0, cacheWrite: 0 },
  outputTokens: { total: 0, text: 0, reasoning: 0 }
})

/**
 * What is kept of an answer: no headers, which may have secrets in them, and no usage, since to serve it again costs none.
 *
 * @internal
 */
export const toKeep = (content: ReadonlyArray<Part>) =>
  encodeKept(
    content.map((part): Part =>
      part.type === "finish" ? Object.assign({}, part, { usage: noUsage, response: undefined }) : part
    )
  )

/** @internal */
export const fromKept = (json: unknown): Effect.Effect<ReadonlyArray<Part>, Schema.SchemaError> => decodeKept(json)
