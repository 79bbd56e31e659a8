/**
 * What the server does with one request, decided before the first byte is written: the chunks it sends, and how it ends.
 *
 * @internal
 */
export interface Reply {
  readonly delayMillis: number
  /** Without a head not even the headers are sent. */
  readonly head: { readonly status: number; readonly headers: Readonly<Record<string, string>> } | undefined
  readonly chunks: ReadonlyArray<string>
  readonly end: "finish" | "hang" | "reset" | "close"
  /** What a connection that hangs sends all the same, again and again; or so many times, and then it goes on to its end. */
  readonly beat?: {
    readonly everyMillis: number
    readonly text: string
    readonly rest?: { readonly times: number; readonly chunks: ReadonlyArray<string> } | undefined
  } | undefined
}

/** @internal */
export const json = { "content-type": "application/json" }
/** @internal */
export const eventStream = { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" }
/** @internal */
export const html = { "content-type": "text/html; charset=utf-8" }

/** @internal */
export const page = (title: string): string =>
  `<!DOCTYPE html>\n<html><head><title>${title}</title></head><body><h1>${title}</h1></body></html>\n`

const lengthOf = (text: string): Readonly<Record<string, string>> => ({
  "content-length": String(new TextEncoder().encode(text).length)
})

/** @internal */
export const finish = (status: number, headers: Readonly<Record<string, string>>, text: string): Reply => ({
  delayMillis: 0,
  head: { status, headers: { ...headers, ...lengthOf(text) } },
  chunks: text === "" ? [] : [text],
  end: "finish"
})

/** @internal */
export const succeed = (text: string): Reply => finish(200, json, text)

/** @internal */
export const noContent: Reply = { delayMillis: 0, head: { status: 204, headers: {} }, chunks: [], end: "finish" }

/** @internal */
export const silence: Reply = { delayMillis: 0, head: undefined, chunks: [], end: "hang" }

/** @internal */
export const half = (text: string): string => text.slice(0, Math.floor(text.length / 2))

/** @internal */
export const partialJson = (text: string, end: Reply["end"]): Reply => ({ ...succeed(text), chunks: [half(text)], end })

/** @internal */
export const streamOf = (chunks: ReadonlyArray<string>, end: Reply["end"] = "finish"): Reply => ({
  delayMillis: 0,
  head: { status: 200, headers: eventStream },
  chunks,
  end
})

/** @internal */
export const retryAfter = (value: number | string | undefined): Readonly<Record<string, string>> =>
  value === undefined ? {} : { "retry-after": String(value) }
