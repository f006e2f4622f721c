// Numbers as people read them.

const value = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const signed = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, signDisplay: "exceptZero" });
const count = new Intl.NumberFormat("en");
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
const signedPercent = new Intl.NumberFormat("en", {
  style: "percent", maximumFractionDigits: 1, signDisplay: "exceptZero",
});
const NOTHING = "–";

const given = (number) => typeof number === "number" && Number.isFinite(number);
const by = (format) => (number) => (given(number) ? format.format(number).replace("-", "−") : NOTHING);

export const asValue = by(value);
export const asEffect = by(signed);
export const asCount = by(count);
export const asPercent = by(percent);
export const asRelative = by(signedPercent);

/** "−0.1 … +0.3"; a dash where there is no interval. */
export const asInterval = (low, high) =>
  given(low) && given(high) ? `${asEffect(low)} … ${asEffect(high)}` : NOTHING;

/** The same of a share: "89.2 … 92.5%". */
export const asShares = (low, high) =>
  given(low) && given(high) ? `${asValue(100 * low)} … ${asPercent(high)}` : NOTHING;

/** Milliseconds as "240 ms" or "1.24 s". */
export const asDuration = (milliseconds) =>
  milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;

/** A moment in seconds since 1970, in the reader's time zone. */
export const asMoment = (seconds) =>
  given(seconds)
    ? new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" }).format(seconds * 1000)
    : NOTHING;
