/** The simulated model behind both doors: the loopback provider (for the real SDK) and a script (for virtual time). */
import { Schema } from "effect"
import { ScriptedModel } from "effect-resilience/testing"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import type { Prompt } from "effect/ai"
import { type Move, type Situation, think } from "./simulated.ts"

const fromJson = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Unknown))

const jsonOr = (value: unknown): unknown => {
  const decoded = fromJson(value)
  return decoded._tag === "Some" ? decoded.value : value
}

const textOf = (content: unknown): string => {
  if (typeof content === "string") return content
  if (!Array.isArray(content)) return ""
  return content.map((block: unknown) => Schema.is(Text)(block) ? block.text : "").join("")
}
const Text = Schema.Struct({ text: Schema.String })

/** Reads the conversation from a request in the provider's wire format. */
export const situationOfRequest = (request: ProviderServer.MessagesRequest): Situation => {
  const blocks = request.messages.flatMap((turn) =>
    typeof turn.content === "string" ? [{ type: "text", text: turn.content }] : turn.content
  )
  const names = new Map<unknown, string>()
  for (const block of blocks) {
    if (block.type === "tool_use" && typeof block["name"] === "string") names.set(block["id"], block["name"])
  }
  const results = blocks.filter((block) => block.type === "tool_result").map((block) => ({
    name: names.get(block["tool_use_id"]) ?? "",
    result: jsonOr(textOf(block["content"])),
    isError: block["is_error"] === true
  }))
  return {
    system: textOf(request.system ?? ""),
    ticket: textOf(request.messages.find((turn) => turn.role === "user")?.content ?? ""),
    results,
    tools: (request.tools?.length ?? 0) > 0
  }
}

/** Reads the conversation from effect/ai's prompt. */
export const situationOfPrompt = (prompt: Prompt.Prompt, tools: boolean): Situation => {
  const results: Array<Situation["results"][number]> = []
  let system = ""
  let ticket: string | undefined
  for (const message of prompt.content) {
    if (message.role === "system") system += message.content
    if (message.role === "user") ticket ??= textOf(message.content)
    if (message.role === "tool") {
      for (const part of message.content) {
        if (part.type === "tool-result") results.push({ name: part.name, result: part.result, isError: part.isFailure })
      }
    }
  }
  return { system, ticket: ticket ?? "", results, tools }
}

const isRecord = Schema.is(Schema.Record(Schema.String, Schema.Unknown))

const toAnswer = (move: Move): ProviderServer.AnswerContent =>
  move._tag === "Say"
    ? move.text
    : {
      content: move.calls.map(({ input, name }) => ({ type: "tool_use", name, input: isRecord(input) ? input : {} }))
    }

/** What the provider server answers. */
export const answer = (request: ProviderServer.MessagesRequest): ProviderServer.AnswerContent =>
  toAnswer(think(situationOfRequest(request)))

/** The same model without HTTP, for stories in virtual time. */
export const script: Exclude<ScriptedModel.Script, ReadonlyArray<unknown>> = ({ index, prompt, tools }) => {
  const move = think(situationOfPrompt(prompt, tools.length > 0))
  return move._tag === "Say"
    ? ScriptedModel.text(move.text, { usage: { inputTokens: 800, outputTokens: 120 } })
    : ScriptedModel.turn(
      move.calls.map(({ input, name }, call) =>
        ScriptedModel.toolCall({ id: `call-${index}-${call}`, name, params: input })
      ),
      { usage: { inputTokens: 800, outputTokens: 60 } }
    )
}

/** The provider's weather for the demo: the library's storm, and a few faults that only this desk asks for. */
export const weather = (seed: number, severity: "none" | "mild" | "severe"): ProviderServer.FaultRule => {
  const storm = ProviderServer.storm({
    seed,
    severity,
    retryAfter: "1 second",
    ...(severity === "severe" ? { outage: { after: "3 seconds", lasts: "6 seconds" } } : {})
  })
  return (request) => {
    if (severity === "severe" && request.index % 41 === 17) return { _tag: "Hang" }
    if (severity === "severe" && request.index % 43 === 29) return { _tag: "HangBody" }
    if (severity !== "none" && request.index % 31 === 11 && "output_config" in request.body) {
      return { _tag: "WrongSchema" }
    }
    return storm(request)
  }
}
