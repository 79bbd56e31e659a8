/** What an invoice has to be before it may be written: well formed, right in its sums, and payable to a known account. */
import { Schema } from "effect"

/** Who may send invoices, and the account that the contract with each of them names. */
export const suppliers: ReadonlyMap<string, string> = new Map([
  ["Papyrus GmbH", "DE12500105170648489890"],
  ["Nordlicht Energie AG", "DE75512108001245126199"],
  ["Kettle & Kin Ltd", "GB33BUKB20201555555555"],
  ["Okafor Bikes", "FR7630006000011234567890189"]
])

const Line = Schema.Struct({
  description: Schema.NonEmptyString,
  quantity: Schema.Int.check(Schema.isGreaterThan(0)),
  unitCents: Schema.Int.check(Schema.isGreaterThan(0))
})

const sum = (lines: ReadonlyArray<typeof Line.Type>): number =>
  lines.reduce((total, { quantity, unitCents }) => total + quantity * unitCents, 0)

/** The rules that no single field can be asked about. The messages are read by the model, which is asked to repair. */
const isPayable = Schema.makeFilter<
  { readonly supplier: string; readonly iban: string; readonly totalCents: number } & {
    readonly lines: ReadonlyArray<typeof Line.Type>
  }
>(({ iban, lines, supplier, totalCents }) => {
  const account = suppliers.get(supplier)
  if (account === undefined) return `"${supplier}" is not one of our suppliers`
  if (account !== iban) return `${iban} is not the account of "${supplier}"`
  return sum(lines) === totalCents || `the lines come to ${sum(lines)} cents, and the total is ${totalCents}`
})

export const Invoice = Schema.Struct({
  number: Schema.String.check(Schema.isPattern(/^[A-Z]{2}-\d{4}$/)).annotate({
    description: "two letters, a dash and four digits, as printed"
  }),
  supplier: Schema.NonEmptyString,
  iban: Schema.String.check(Schema.isPattern(/^[A-Z]{2}\d{2}[A-Z0-9]+$/)).annotate({
    description: "the account to pay to, without blanks"
  }),
  date: Schema.String.check(Schema.isPattern(/^\d{4}-\d{2}-\d{2}$/)),
  lines: Schema.NonEmptyArray(Line),
  totalCents: Schema.Int.check(Schema.isGreaterThan(0))
}).check(isPayable)

export type Invoice = typeof Invoice.Type

export const euros = (cents: number): string => `${(cents / 100).toFixed(2)} EUR`
