import type * as AiError from "effect/ai/AiError"
import type * as Response from "effect/ai/Response"
import * as Tool from "effect/ai/Tool"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { cutShort, notAMessage } from "./anthropicErrors.ts"
import {
  type Call,
  citationMetadata,
  finishPart,
  isCutReason,
  metadataPart,
  serverResult,
  thoughtMetadata,
  toolCall
} from "./anthropicResponse.ts"
import * as wire from "./anthropicWire.ts"

const decodeJson = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Unknown))

interface Open {
  readonly block: wire.Known
  readonly citations: Array<Schema.Json>
  json: string
  signature: string
}

const withoutNulls = (usage: wire.Usage): wire.Usage =>
  Object.fromEntries(Object.entries(usage).filter(([, value]) => value !== null))

/**
 * Turns the events of one message into parts. Text and thoughts pass as they come; a tool call is held back until the
 * message is known to be whole, because the program starts the tool as soon as it sees the call.
 *
 * @internal
 */
export class EventDecoder {
  readonly #call: Call
  readonly #open = new Map<number, Open>()
  readonly #calls: Array<{ readonly block: wire.ToolBlock; readonly json: string; readonly index: number }> = []
  readonly #names = new Map<string, string>()
  #started = false
  #complete = false
  #lastIndex = -1
  #usage: wire.Usage = {}
  #stopReason: string | null = null
  #stopSequence: string | null = null
  #stopDetails: Schema.Json = null

  constructor(call: Call) {
    this.#call = call
  }

  /** Why the message is not whole, asked when its events are over. */
  get incomplete(): AiError.AiErrorReason | undefined {
    if (this.#complete) return undefined
    return this.#started
      ? cutShort(this.#call.reply, "the stream ended before message_stop")
      : notAMessage(this.#call.reply, "the stream had no message in it")
  }

  readonly push = (
    event: unknown
  ): Effect.Effect<ReadonlyArray<Response.StreamPartEncoded>, AiError.AiErrorReason> => {
    const type = Predicate.hasProperty(event, "type") ? event.type : undefined
    if (this.#complete || (typeof type === "string" && !wire.eventTypes.has(type))) return Effect.succeed([])
    return wire.decodeEvent(event).pipe(
      Effect.mapError((error) => notAMessage(this.#call.reply, `event ${String(type)}: ${error.message}`)),
      Effect.flatMap((decoded) => this.#step(decoded))
    )
  }

  #refuse(what: string) {
    return Effect.fail(notAMessage(this.#call.reply, what))
  }

  #step(
    event: wire.Event
  ): Effect.Effect<ReadonlyArray<Response.StreamPartEncoded>, AiError.AiErrorReason> {
    if (event.type === "message_start") {
      if (this.#started) return this.#refuse("message_start came twice")
      this.#started = true
      this.#merge(event.message.usage)
      return Effect.succeed([metadataPart(this.#call, event.message)])
    }
    if (!this.#started) return this.#refuse(`${event.type} came before message_start`)
    switch (event.type) {
      case "content_block_start":
        this.#lastIndex = event.index
        if (!wire.isOther(event.content_block) && wire.isTool(event.content_block)) {
          const { id } = event.content_block
          if (this.#names.has(id)) return this.#refuse(wire.sameId(id))
        }
        return Effect.succeed(this.#startBlock(event.index, event.content_block))
      case "content_block_delta": {
        const open = this.#open.get(event.index)
        if (open === undefined) return this.#refuse(`a delta came for block ${event.index}, which is not open`)
        return Effect.succeed(this.#delta(String(event.index), open, event.delta))
      }
      case "content_block_stop":
        return Effect.succeed(this.#stopBlock(event.index))
      case "message_delta":
        this.#merge(event.usage)
        this.#stopReason = event.delta.stop_reason ?? this.#stopReason
        this.#stopSequence = event.delta.stop_sequence ?? this.#stopSequence
        this.#stopDetails = event.delta.stop_details ?? this.#stopDetails
        return Effect.succeed([])
      case "message_stop":
        return this.#finish()
    }
  }

  // The counters are cumulative: what is there replaces what was there, and null says nothing.
  #merge(usage: wire.Usage | null | undefined): void {
    if (usage !== null && usage !== undefined) this.#usage = { ...this.#usage, ...withoutNulls(usage) }
  }

  #startBlock(index: number, block: wire.Block): ReadonlyArray<Response.StreamPartEncoded> {
    const id = String(index)
    if (wire.isOther(block)) return serverResult(block, this.#names)
    this.#open.set(index, {
      block,
      citations: [],
      json: "",
      signature: block.type === "thinking" ? block.signature ?? "" : ""
    })
    switch (block.type) {
      case "text":
        return [
          { type: "text-start", id },
          ...(block.text === "" ? [] : [{ type: "text-delta" as const, id, delta: block.text }])
        ]
      case "thinking":
        return [
          { type: "reasoning-start", id },
          ...(block.thinking === "" ? [] : [{ type: "reasoning-delta" as const, id, delta: block.thinking }])
        ]
      case "redacted_thinking":
        return [{ type: "reasoning-start", id, metadata: { anthropic: { redacted: block.data } } }]
      default: {
        const server = block.type === "server_tool_use"
        const name = server ? new Tool.NameMapper(this.#call.options.tools).getCustomName(block.name) : block.name
        this.#names.set(block.id, name)
        return [{ type: "tool-params-start", id: block.id, name, providerExecuted: server }]
      }
    }
  }

  #delta(
    id: string,
    open: Open,
    delta: Extract<wire.Event, { readonly type: "content_block_delta" }>["delta"]
  ): ReadonlyArray<Response.StreamPartEncoded> {
    if ("text" in delta) return [{ type: "text-delta", id, delta: delta.text }]
    if ("thinking" in delta) return [{ type: "reasoning-delta", id, delta: delta.thinking }]
    if ("signature" in delta) open.signature += delta.signature
    if ("citation" in delta) open.citations.push(delta.citation)
    if ("partial_json" in delta && wire.isTool(open.block)) {
      open.json += delta.partial_json
      if (delta.partial_json !== "") {
        return [{ type: "tool-params-delta", id: open.block.id, delta: delta.partial_json }]
      }
    }
    return []
  }

  #stopBlock(index: number): ReadonlyArray<Response.StreamPartEncoded> {
    const open = this.#open.get(index)
    if (open === undefined) return []
    this.#open.delete(index)
    const id = String(index)
    if (wire.isTool(open.block)) {
      const { block, json } = open
      const end = { type: "tool-params-end" as const, id: block.id }
      if (block.type === "tool_use") {
        this.#calls.push({ block, json, index })
        return [end]
      }
      // The provider runs it: nothing starts here, and its result follows at once.
      const params = json === "" ? block.input : Option.getOrElse(decodeJson(json), () => json)
      const name = this.#names.get(block.id) ?? block.name
      return [end, { type: "tool-call", id: block.id, name, params, providerExecuted: true }]
    }
    if (open.block.type === "text") return [{ type: "text-end", id, ...citationMetadata(open.citations) }]
    if (open.block.type === "redacted_thinking") return [{ type: "reasoning-end", id }]
    return [{ type: "reasoning-end", id, ...thoughtMetadata(open.signature) }]
  }

  #finish(): Effect.Effect<ReadonlyArray<Response.StreamPartEncoded>, AiError.AiErrorReason> {
    const stopReason = this.#stopReason
    if (stopReason === null) return this.#refuse("the stream had no stop reason")
    const cut = isCutReason(stopReason)
    // A message that was cut may have left its last block open; any other closes what it opened.
    if (!cut && this.#open.size > 0) return this.#refuse("message_stop came before the end of a block")
    const parts: Array<Response.StreamPartEncoded> = []
    for (const index of Array.from(this.#open.keys())) parts.push(...this.#stopBlock(index))
    const truncated = cut ? this.#calls.find(({ index }) => index === this.#lastIndex)?.block : undefined
    return Effect.gen({ self: this }, function*() {
      for (const { block, json } of this.#calls) {
        if (block === truncated) continue
        const input = json === "" ? Option.some(block.input) : decodeJson(json)
        if (Option.isNone(input)) {
          return yield* notAMessage(this.#call.reply, `the input of tool ${block.name} (${block.id}) is no JSON`)
        }
        parts.push(yield* toolCall(this.#call, block, input.value))
      }
      this.#complete = true
      parts.push(finishPart(this.#call, {
        stopReason,
        stopSequence: this.#stopSequence,
        stopDetails: this.#stopDetails,
        usage: this.#usage,
        truncated: truncated === undefined ? undefined : { id: truncated.id, name: truncated.name }
      }))
      return parts
    })
  }
}
