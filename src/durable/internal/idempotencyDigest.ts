import * as Digest from "effect/crypto/Digest"
import * as Effect from "effect/Effect"

const encoder = new TextEncoder()

/** @internal */
export const sha256 = (text: string): Effect.Effect<string> =>
  Digest.Digest.use((digest) => digest.digestHex(Digest.sha256, encoder.encode(text))).pipe(
    Effect.provide(Digest.layerWebCrypto)
  )
