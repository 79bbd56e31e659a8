import { Tracer } from "effect"

/** A tracer, and the spans that it was asked for, in their order. */
export const recordingTracer = (): { readonly tracer: Tracer.Tracer; readonly spans: ReadonlyArray<Tracer.Span> } => {
  const spans: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return { tracer, spans }
}
