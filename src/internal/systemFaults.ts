import type { Verdict } from "./verdict.ts"

const codesOf = (verdict: Verdict, codes: string): ReadonlyArray<readonly [string, Verdict]> =>
  codes.split(" ").map((code) => [code, verdict])

/** The error codes of the operating system, of Node's HTTP client (undici) and of databases, as they come in `code`. */
const byCode: ReadonlyMap<string, Verdict> = new Map([
  // no connection was made, or the call had to wait for a resource: nothing was executed
  ...codesOf(
    { _tag: "Transient" },
    "ECONNREFUSED ENOTFOUND EAI_AGAIN EHOSTUNREACH EHOSTDOWN ENETUNREACH ENETDOWN EADDRNOTAVAIL " +
      "UND_ERR_CONNECT_TIMEOUT EAGAIN EBUSY EINTR EMFILE ENFILE SQLITE_BUSY SQLITE_LOCKED 57P03"
  ),
  // the connection went away, and what had been sent may have been executed
  ...codesOf(
    { _tag: "Ambiguous" },
    "ECONNRESET ECONNABORTED EPIPE ETIMEDOUT ENETRESET ESHUTDOWN ENOTCONN EIO UND_ERR_SOCKET UND_ERR_BODY_TIMEOUT " +
      "UND_ERR_CLOSED UND_ERR_DESTROYED UND_ERR_ABORTED ERR_STREAM_PREMATURE_CLOSE ERR_HTTP2_STREAM_ERROR " +
      "SQLITE_IOERR 57P01 57P02 08006"
  ),
  ...codesOf({ _tag: "TimedOut" }, "UND_ERR_HEADERS_TIMEOUT"),
  ...codesOf({ _tag: "Overloaded" }, "53300"),
  // disk full, no permission, no such file, a wrong argument, a broken database
  ...codesOf(
    { _tag: "Permanent" },
    "ENOSPC EDQUOT EROFS EFBIG EACCES EPERM ENOENT EEXIST ENOTDIR EISDIR ENOTEMPTY ENAMETOOLONG ELOOP EXDEV EINVAL " +
      "EBADF EAFNOSUPPORT EADDRINUSE UND_ERR_INVALID_ARG SQLITE_FULL SQLITE_READONLY SQLITE_CORRUPT SQLITE_NOTADB " +
      "SQLITE_CANTOPEN SQLITE_PERM SQLITE_MISMATCH SQLITE_TOOBIG 53100 25006"
  )
])

/** The primary result codes of SQLite (https://www.sqlite.org/rescode.html), as `node:sqlite` gives them. */
const bySqliteCode: ReadonlyMap<number, Verdict> = new Map<number, Verdict>([
  [3, { _tag: "Permanent" }], // PERM
  [5, { _tag: "Transient" }], // BUSY
  [6, { _tag: "Transient" }], // LOCKED
  [8, { _tag: "Permanent" }], // READONLY
  [10, { _tag: "Ambiguous" }], // IOERR
  [11, { _tag: "Permanent" }], // CORRUPT
  [13, { _tag: "Permanent" }], // FULL
  [14, { _tag: "Permanent" }], // CANTOPEN
  [26, { _tag: "Permanent" }] // NOTADB
])

const certificate = /^(?:CERT_|ERR_TLS_CERT_|DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_|UNABLE_TO_(?:GET|VERIFY)_)/
const wrongArgument = /^ERR_INVALID_/

/**
 * The verdict of an error that the system raised, by its `code`.
 *
 * @internal
 */
export const systemVerdict = (error: object): Verdict | undefined => {
  const code = "code" in error ? error.code : undefined
  if (code === "ERR_SQLITE_ERROR") {
    return "errcode" in error && typeof error.errcode === "number" ? bySqliteCode.get(error.errcode & 0xff) : undefined
  }
  if (typeof code !== "string") return undefined
  if (code === "ETIMEDOUT" && "syscall" in error && error.syscall === "connect") return { _tag: "Transient" }
  const verdict = byCode.get(code) ?? byCode.get(code.split("_", 2).join("_"))
  if (verdict !== undefined) return verdict
  return certificate.test(code) || wrongArgument.test(code) ? { _tag: "Permanent" } : undefined
}
