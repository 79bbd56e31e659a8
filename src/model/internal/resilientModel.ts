import * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import { ResponseIdTracker } from "effect/ai/ResponseIdTracker"
import type * as Toolkit from "effect/ai/Toolkit"
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type * as Pull from "effect/Pull"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Fault from "../../Fault.ts"
import * as AttemptMeter from "../../internal/attemptMeter.ts"
import * as chatSpans from "../../internal/chatSpans.ts"
import { hasRedacted } from "../../internal/hasRedacted.ts"
import * as logged from "../../internal/logged.ts"
import { millisIn } from "../../internal/monotonic.ts"
import * as spans from "../../internal/spans.ts"
import * as AdaptiveLimit from "../../policy/AdaptiveLimit.ts"
import * as Fallback from "../../policy/Fallback.ts"
import * as LastGood from "../../policy/LastGood.ts"
import * as Policy from "../../policy/Policy.ts"
import * as Quota from "../../policy/Quota.ts"
import { type Erased, erased } from "./erasedModel.ts"
import * as answers from "./resilientAnswer.ts"
import * as errors from "./resilientErrors.ts"
import * as requests from "./resilientRequest.ts"

/**
 * After how long a silence a stream has stalled.
 *
 * @internal
 */
export const defaultStall = "30 seconds"

/** One of the models that may answer, and what stands before it. */
export interface Choice {
  readonly label: string
  readonly model: Erased
  readonly policy: Policy.StreamPolicy
  readonly key: (request: requests.Request) => string
  readonly takes: Fallback.Takes
  readonly names: chatSpans.Names
  readonly maxOutputTokens: (request: requests.Request) => number | undefined
}

/** @internal */
export interface Kept {
  readonly slot: LastGood.Slot<Remembered>
  readonly label: string
  readonly maxAge: Duration.Input | undefined
  readonly takes: Fallback.Takes
  readonly key: (request: requests.Request) => Effect.Effect<string | undefined>
}

/** What holds for all of them. */
export interface Settings {
  readonly choices: Arr.NonEmptyReadonlyArray<Choice>
  readonly services: Context.Context<never>
  readonly estimate: (request: requests.Request) => number
  readonly isIdempotent: (request: requests.Request) => boolean
  readonly requireFinish: boolean
  readonly buffer: boolean
  readonly stall: Duration.Input
  readonly kept: Kept | undefined
}

const Remembered = Schema.Struct({ content: Schema.Json, value: Schema.optionalKey(Schema.Json) })

/** @internal */
export type Remembered = typeof Remembered.Type

/** @internal */
export const slot = (name: string): LastGood.Slot<Remembered> => LastGood.slot(name, Remembered)

// ---- what stands around one call

/** The guards are those that were at hand when the model was made; everything else is the caller's. */
const inContext = ({ services }: Settings) => (context: Context.Context<never>): Context.Context<never> =>
  Context.merge(context, services)

/** What is known of a call before a choice is made, for the guards of that choice. */
const forChoice = (settings: Settings, choice: Choice, request: requests.Request, isFirst: boolean) => {
  const { estimate, isIdempotent } = settings
  const cost = (): Quota.Cost => ({
    inputTokens: estimate(request),
    outputTokens: choice.maxOutputTokens(request)
  })
  return (context: Context.Context<never>): Context.Context<never> => {
    let changed = context
    if (isIdempotent(request)) changed = Context.add(changed, Fault.Idempotent, true)
    if (Context.get(context, Quota.CurrentCost) === undefined) changed = Context.add(changed, Quota.CurrentCost, cost)
    // what one model has been sent is unknown to the next
    return isFirst ? changed : Context.omit(ResponseIdTracker)(changed)
  }
}

const policyFor = (choice: Choice, request: requests.Request): Policy.StreamPolicy =>
  Policy.keyed(choice.policy, choice.key(request))

const outputTokens = (parts: ReadonlyArray<answers.Part>): number =>
  parts.find(answers.isFinish)?.usage.outputTokens.total ?? 0

const wholeAnswer = (settings: Settings, method: requests.Method) => (answer: answers.Answered) =>
  settings.requireFinish && !answer.content.some(answers.isFinish)
    ? Effect.fail(errors.unfinished(method))
    : Effect.as(AdaptiveLimit.tokens(outputTokens(answer.content)), answer)

const wholeStream = <E>(
  { requireFinish }: Settings,
  parts: Stream.Stream<answers.Part, E>
): Stream.Stream<answers.Part, E | AiError.AiError> =>
  Stream.suspend(() => {
    let isFinished = !requireFinish
    const seen = Stream.tap(parts, (part) => {
      if (!answers.isFinish(part)) return Effect.void
      isFinished = true
      return AdaptiveLimit.tokens(outputTokens([part]))
    })
    return Stream.concat(
      seen,
      Stream.suspend(() => isFinished ? Stream.empty : Stream.fail(errors.unfinished("streamText")))
    )
  })

// ---- the choices in order

type Step = Fallback.Step<string, unknown, unknown, unknown, Fallback.Takes>

interface Chosen<A> {
  readonly value: A
  readonly provenance: answers.Provenance
}

/** The first choice that answers; where none does, what was remembered. */
const choose = <A>(
  settings: Settings,
  request: requests.Request,
  run: (choice: Choice, isFirst: boolean) => Effect.Effect<A, unknown, Scope.Scope>,
  recalled: (remembered: Remembered) => Effect.Effect<A, unknown>
): Effect.Effect<Chosen<A>, unknown, Scope.Scope> => {
  const { choices, kept } = settings
  const step = (choice: Choice, at: number): Step =>
    Fallback.step(choice.label, run(choice, at === 0), { takes: choice.takes })
  const [first, ...rest] = choices
  // of all steps together the type is known, and of each what it gives
  const chain = Fallback.chain(step(first, 0), ...rest.map((choice, at) => step(choice, at + 1))) as Effect.Effect<
    Fallback.Answer<A>,
    unknown,
    Scope.Scope
  >
  const fresh = Effect.map(chain, ({ degraded, errors, source, value }): Chosen<A> => ({
    value,
    provenance: { source, degraded, errors }
  }))
  if (kept === undefined) return fresh
  const old = (key: string) =>
    chain.pipe(
      LastGood.orElse(kept.slot, key, { label: kept.label, takes: kept.takes, maxAge: kept.maxAge }),
      Effect.flatMap(({ degraded, errors, source, value }): Effect.Effect<Chosen<A>, unknown> => {
        const provenance = { source, degraded, errors }
        if (!LastGood.isAged(value)) return Effect.succeed({ value, provenance })
        const { age, asOf } = value
        return Effect.map(recalled(value.value), (value) => ({
          value,
          provenance: { ...provenance, lastGood: { asOf, age } }
        }))
      })
    )
  return Effect.flatMap(kept.key(request), (key) =>
    // the service is among those that were at hand, where there is something to keep
    key === undefined ? fresh : old(key) as Effect.Effect<Chosen<A>, unknown, Scope.Scope>)
}

/**
 * Keeps a good answer of the first choice. Calls of tools are not kept, since they would be made again, nor is a secret,
 * which the store would show in clear.
 */
const keep = (
  { kept }: Settings,
  request: requests.Request,
  began: { readonly asOf: number; readonly startedAt: number },
  answer: answers.Answered
): Effect.Effect<void> => {
  if (kept === undefined || answer.content.some(answers.isToolCall)) return Effect.void
  if (request.schema !== undefined && hasRedacted(request.schema)) return Effect.void
  const { slot } = kept
  return Effect.gen(function*() {
    const key = yield* kept.key(request)
    if (key === undefined) return
    const content = yield* answers.toKeep(answer.content)
    const value = request.schema === undefined
      ? undefined
      : yield* encodeValue(request.schema, answer.value)
    const json = yield* Schema.encodeEffect(slot.codec)(value === undefined ? { content } : { content, value })
    yield* LastGood.LastGood.use((store) => store.remember(slot.name, key, { json, ...began }))
  }).pipe(
    Effect.catchCause((cause) =>
      Cause.hasInterrupts(cause)
        ? Effect.interrupt
        : logged.warning("ResilientModel could not remember an answer", cause)
    )
  ) as Effect.Effect<void>
}

type ValueSchema = Schema.Codec<unknown, unknown>

const encodeValue = (schema: Schema.Top, value: unknown) =>
  Schema.encodeUnknownEffect(Schema.toCodecJson(schema as ValueSchema))(value)

const decodeValue = (schema: Schema.Top, json: Schema.Json) =>
  Schema.decodeUnknownEffect(Schema.toCodecJson(schema as ValueSchema))(json)

const now = Effect.contextWith((context: Context.Context<never>) =>
  Effect.map(Clock.currentTimeMillis, (asOf) => ({ asOf, startedAt: millisIn(context) }))
)

// ---- one call, without tools that are to be run

const spanAttributes = ({ choices: [first] }: Settings, request: requests.Request) => {
  const { model, provider } = first.names
  return {
    ...(provider === undefined ? undefined : { "gen_ai.provider.name": provider }),
    ...(model === undefined ? undefined : { "gen_ai.request.model": model }),
    "resilient_model.key": first.key(request)
  }
}

/** The span of a call is that of the model that is asked. */
const traced = ({ names }: Choice) =>
  names.model === undefined && names.provider === undefined
    ? <R>(context: Context.Context<R>): Context.Context<R> => context
    : chatSpans.forCall(names)

const answerOnce = (settings: Settings, options: requests.CallOptions, request: requests.Request) => {
  const { method } = request
  const run = (choice: Choice, isFirst: boolean) => {
    const call = Effect.flatMap(
      Effect.updateContext(
        AttemptMeter.metered(choice.model[method === "generateObject" ? method : "generateText"](options)),
        traced(choice)
      ),
      wholeAnswer(
        settings,
        method
      )
    )
    const guarded = Policy.apply(call, policyFor(choice, request)) as Effect.Effect<answers.Answered, unknown>
    const bounded = Effect.updateContext(guarded, forChoice(settings, choice, request, isFirst))
    return isFirst && settings.kept !== undefined
      ? Effect.flatMap(now, (began) => Effect.tap(bounded, (answer) => keep(settings, request, began, answer)))
      : bounded
  }
  const recalled = ({ content, value }: Remembered) =>
    Effect.gen(function*() {
      const parts = yield* answers.fromKept(content)
      if (request.schema === undefined) return { content: parts }
      return { content: parts, value: yield* decodeValue(request.schema, value ?? null) }
    })
  return Effect.andThen(AttemptMeter.join, choose(settings, request, run, recalled)).pipe(
    Effect.scoped,
    Effect.map(({ provenance, value }) => {
      const content = answers.marked(value.content, provenance)
      return answers.response("value" in value ? { content, value: value.value } : { content })
    }),
    Effect.catch((error) => Effect.flatMap(errors.toAiError(method)(error), Effect.fail)),
    Effect.withSpan(`${errors.module}.${method}`, { attributes: spanAttributes(settings, request) }),
    spans.withheld,
    Effect.updateContext(inContext(settings))
  )
}

interface Opened {
  readonly head: ReadonlyArray<answers.Part>
  readonly pull: Pull.Pull<Arr.NonEmptyReadonlyArray<answers.Part>, unknown>
}

/** Waits for the first part of a stream that has its guards around it. What fails before that is closed at once. */
const opened = (parts: Stream.Stream<answers.Part, unknown>): Effect.Effect<Opened, unknown, Scope.Scope> =>
  Effect.flatMap(Effect.scope, (around) =>
    Effect.suspend(() => {
      const scope = Scope.forkUnsafe(around)
      return Effect.gen(function*() {
        const pull = yield* Scope.provide(Stream.toPull(parts), scope)
        const head = yield* pull.pipe(
          Effect.catch((error) => Cause.isDone(error) ? Effect.succeed([]) : Effect.fail(error))
        )
        return { head, pull }
      }).pipe(Effect.onExit((exit) => Exit.isSuccess(exit) ? Effect.void : Scope.close(scope, exit)))
    }))

/** A stream is whole when its finish part comes, which is the last of its parts. */
const remembering = (
  settings: Settings,
  request: requests.Request,
  parts: Stream.Stream<answers.Part, unknown>
): Stream.Stream<answers.Part, unknown> =>
  Stream.unwrap(Effect.map(now, (began) => {
    const content: Array<answers.Part> = []
    return Stream.tap(parts, (part) => {
      content.push(part)
      return answers.isFinish(part) ? keep(settings, request, began, { content }) : Effect.void
    })
  }))

const streamOnce = (
  settings: Settings,
  options: requests.CallOptions,
  request: requests.Request
): Stream.Stream<answers.Part, AiError.AiError> => {
  const { buffer, kept, stall } = settings
  const run = (choice: Choice, isFirst: boolean) => {
    const guarded = Policy.applyStream(
      wholeStream(
        settings,
        Stream.updateContext(AttemptMeter.meteredStream(choice.model.streamText(options)), traced(choice))
      ),
      policyFor(choice, request),
      { buffer, stall, isFirst: answers.isContent, untilWhole: answers.waitsForTheEnd }
    ) as Stream.Stream<answers.Part, unknown>
    const bounded = Stream.updateContext(guarded, forChoice(settings, choice, request, isFirst))
    return opened(isFirst && kept !== undefined ? remembering(settings, request, bounded) : bounded)
  }
  const recalled = ({ content }: Remembered) =>
    Effect.map(answers.fromKept(content), (head): Opened => ({ head, pull: Cause.done() }))
  return Effect.andThen(AttemptMeter.join, choose(settings, request, run, recalled)).pipe(
    Effect.map(({ provenance, value: { head, pull } }) =>
      Stream.concat(Stream.fromArray(head), Stream.fromPull(Effect.succeed(pull))).pipe(
        Stream.map((part) => answers.isFinish(part) ? answers.mark(part, provenance) : part)
      )
    ),
    Stream.unwrap,
    Stream.catch((error) => Stream.fromEffect(Effect.flatMap(errors.toAiError("streamText")(error), Effect.fail))),
    Stream.withSpan(`${errors.module}.streamText`, { attributes: spanAttributes(settings, request) }),
    Stream.updateContext((context: Context.Context<never>) => spans.withholdingIn(context)),
    Stream.updateContext(inContext(settings))
  )
}

// ---- calls whose tools are to be run

/**
 * A call on its way through effect/ai's own loop of tools, which asks for the answer and then runs the tools that it calls
 * for: outside of all guards, so that no tool is run twice because an answer was asked for twice.
 */
interface Resolving {
  readonly generate: (
    prompt: LanguageModel.ProviderOptions["prompt"]
  ) => Effect.Effect<answers.Answered, AiError.AiError>
  readonly stream: (
    prompt: LanguageModel.ProviderOptions["prompt"]
  ) => Stream.Stream<answers.Part, AiError.AiError>
  readonly tracker: ResponseIdTracker["Service"] | undefined
}

const CurrentResolving = Context.Reference<Resolving | undefined>(
  "effect-resilience/model/internal/resilientModel/Resolving",
  { defaultValue: () => undefined }
)

const invalidOutput = (method: string) => (error: Schema.SchemaError) =>
  AiError.make({ module: errors.module, method, reason: AiError.InvalidOutputError.fromSchemaError(error) })

const resolving = Effect.flatMap(
  CurrentResolving,
  (call) => call === undefined ? Effect.die(new Error("a loop of tools without a call")) : Effect.succeed(call)
)

/** The ids of responses are the inner model's business, and not that of the loop around it. */
const withTracker = (tracker: Resolving["tracker"]) => (context: Context.Context<never>): Context.Context<never> =>
  tracker === undefined ? context : Context.add(context, ResponseIdTracker, tracker)

const makeLoop = LanguageModel.make({
  generateText: ({ prompt }) =>
    Effect.flatMap(resolving, (call) =>
      Effect.updateContext(call.generate(prompt), withTracker(call.tracker)).pipe(
        Effect.flatMap(({ content }) => Effect.mapError(answers.encoded(content), invalidOutput("generateText")))
      )),
  streamText: ({ prompt }) =>
    Stream.unwrap(
      Effect.map(resolving, (call) =>
        Stream.updateContext(call.stream(prompt), withTracker(call.tracker)).pipe(
          Stream.mapArrayEffect((parts) => Effect.mapError(answers.encodedStream(parts), invalidOutput("streamText")))
        ))
    )
})

/** What the loop asks for: the answer alone. Its calls of tools are checked here, where an answer may be asked for again. */
const withoutResolution = (options: requests.CallOptions, prompt: LanguageModel.ProviderOptions["prompt"]) => ({
  ...options,
  prompt,
  disableToolCallResolution: true,
  toolCallValidation: options.disableToolCallResolution === true ? options.toolCallValidation : "deferred"
} as const)

const knownTools = (request: requests.Request, options: requests.CallOptions) => {
  const names = request.tools.map(({ name }) => name)
  return (part: answers.Part): Effect.Effect<void, AiError.AiError> =>
    answers.isToolCall(part) && options.disableToolCallResolution !== true && !names.includes(part.name)
      ? Effect.fail(errors.unknownTool(request.method, part.name, names))
      : Effect.void
}

/** The choices, each of which fails for an answer that calls for a tool that there is not. */
const checkingTools = (settings: Settings, request: requests.Request, options: requests.CallOptions): Settings => {
  const check = knownTools(request, options)
  const checked = (answer: answers.Answered) =>
    Effect.as(Effect.forEach(answer.content, check, { discard: true }), answer)
  const [first, ...rest] = settings.choices
  const checking = (choice: Choice): Choice => ({
    ...choice,
    model: {
      generateText: (options) => Effect.flatMap(choice.model.generateText(options), checked),
      generateObject: (options) => Effect.flatMap(choice.model.generateObject(options), checked),
      streamText: (options) => Stream.tap(choice.model.streamText(options), check)
    }
  })
  return { ...settings, choices: [checking(first), ...rest.map(checking)] }
}

const isToolkit = (value: unknown): value is Toolkit.WithHandler<{}> => Predicate.hasProperty(value, "tools")

/** A toolkit may be an effect that gives it; it is looked at once for a call, and not once for each try. */
const resolved = <A, E, R>(
  options: requests.CallOptions,
  use: (options: requests.CallOptions) => Effect.Effect<A, E, R>
): Effect.Effect<A, unknown, R> => {
  const { toolkit } = options
  if (!Effect.isEffect(toolkit)) return use(options)
  return Effect.flatMap(
    toolkit as Effect.Effect<unknown, unknown>,
    (toolkit) => use(isToolkit(toolkit) ? { ...options, toolkit } : options)
  )
}

const isDirect = (options: requests.CallOptions, request: requests.Request): boolean =>
  request.tools.length === 0 || (options.disableToolCallResolution === true && !requests.hasApprovals(request))

/**
 * The model that asks the choices.
 *
 * @internal
 */
export const make = (settings: Settings): Effect.Effect<Erased> =>
  Effect.map(makeLoop, (loopModel): Erased => {
    const loop = erased(loopModel)

    const around = (
      options: requests.CallOptions,
      request: requests.Request,
      heard: (answer: answers.Answered) => void
    ) => {
      const checking = checkingTools(settings, request, options)
      return (context: Context.Context<never>): Context.Context<never> => {
        const call: Resolving = {
          generate: (prompt) =>
            Effect.tap(
              answerOnce(checking, withoutResolution(options, prompt), { ...request, prompt }),
              (answer) => Effect.sync(() => heard(answer))
            ),
          stream: (prompt) => streamOnce(checking, withoutResolution(options, prompt), { ...request, prompt }),
          tracker: Option.getOrUndefined(Context.getOption(context, ResponseIdTracker))
        }
        return Context.add(chatSpans.forLoop(Context.omit(ResponseIdTracker)(context)), CurrentResolving, call)
      }
    }

    const generate = (method: "generateText" | "generateObject") => (given: requests.CallOptions) =>
      resolved(given, (options): Effect.Effect<answers.Answered, unknown> => {
        const request = requests.makeRequest(method, options)
        if (isDirect(options, request)) return answerOnce(settings, options, request)
        return Effect.suspend(() => {
          let value: unknown
          const answered = loop.generateText(options).pipe(
            Effect.updateContext(around(options, request, (answer) => {
              value = answer.value
            }))
          )
          return method === "generateText"
            ? answered
            : Effect.map(answered, ({ content }) => answers.response({ content, value }))
        })
      })

    return {
      generateText: generate("generateText"),
      generateObject: generate("generateObject"),
      streamText: (given) =>
        Stream.unwrap(resolved(given, (options) =>
          Effect.sync(() => {
            const request = requests.makeRequest("streamText", options)
            return isDirect(options, request)
              ? streamOnce(settings, options, request)
              : Stream.updateContext(loop.streamText(options), around(options, request, () => {}))
          })))
    }
  })
