/** Reads PDF files. */
import { Context, Effect, Exit, Layer, Schema } from "effect"
import { Fault } from "effect-resilience"
import { extractText, getDocumentProxy } from "unpdf"

/** The file has no text to read. It will have none the next time either. */
export class UnreadablePdf extends Schema.TaggedError<UnreadablePdf>("document-pipeline/UnreadablePdf")(
  "UnreadablePdf",
  { document: Schema.String, problem: Schema.String }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `${this.document} cannot be read: ${this.problem}; ask for it to be sent again`
  }
}

export interface Document {
  readonly id: string
  readonly bytes: Uint8Array
}

export class Pdf extends Context.Service<Pdf, {
  readonly text: (document: Document) => Effect.Effect<string, UnreadablePdf>
}>()("document-pipeline/Pdf") {}

const read = Effect.fn("document-pipeline.read")(function*({ bytes, id: document }: Document) {
  const text = yield* Effect.tryPromise({
    try: async () => {
      // The library takes the bytes over, so it gets some of its own; and it takes no Buffer.
      const pdf = await getDocumentProxy(new Uint8Array(bytes), { verbosity: 0 })
      return (await extractText(pdf, { mergePages: true })).text.trim()
    },
    catch: (cause) =>
      new UnreadablePdf({ document, problem: cause instanceof Error ? cause.message : "it is no PDF file" })
  })
  if (text === "") return yield* new UnreadablePdf({ document, problem: "there is nothing on its pages" })
  return text
})

export const layer = Layer.succeed(Pdf, { text: read })

/** Reads the documents while the layer is built. A virtual clock does not wait for work in real time, which this is. */
export const layerReadBefore = (documents: ReadonlyArray<Document>) =>
  Layer.effect(
    Pdf,
    Effect.gen(function*() {
      const texts = new Map<string, Exit.Exit<string, UnreadablePdf>>()
      for (const document of documents) texts.set(document.id, yield* Effect.exit(read(document)))
      return Pdf.of({
        text: ({ id: document }) =>
          Effect.suspend(() =>
            texts.get(document) ?? Exit.fail(new UnreadablePdf({ document, problem: "nobody has read it before" }))
          )
      })
    })
  )
