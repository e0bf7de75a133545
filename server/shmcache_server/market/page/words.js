// Words: what the page shows is called, and how numbers and times are written.

export const READINGS = [
  { name: "btc_price_usd", part: "btc", title: "Bitcoin", before: "$", spoken: "US dollars", kind: "first" },
  { name: "btc_change_24h", part: "btc", title: "Bitcoin over 24 hours", after: "%", spoken: "percent", signed: true, kind: "second" },
  { name: "market_cap_usd", part: "global", title: "Market capitalisation", before: "$", spoken: "US dollars" },
  { name: "volume_24h_usd", part: "global", title: "Volume in 24 hours", before: "$", spoken: "US dollars" },
  { name: "fng_value", part: "fear-greed", title: "Fear and greed", after: "of 100", spoken: "of 100", scale: [25, 75], word: "fng_classification", kind: "half" },
  { name: "rsi_14", part: "rsi", title: "Relative strength, 14 d", after: "of 100", spoken: "of 100", scale: [30, 70], kind: "half" },
];
const NAMES = new Set(READINGS.map((reading) => reading.name));
export const VENDORS = {
  alternative: "alternative.me", binance: "Binance", cmc: "CoinMarketCap", coingecko: "CoinGecko",
  coingecko_global: "CoinGecko global", finnhub: "Finnhub", taapi: "TAAPI",
};
export const STATES = {
  connecting: "Connecting", live: "Live", polling: "Polling", offline: "No connection", paused: "Paused",
};

export const $ = (id) => document.getElementById(id);
export const now = () => Date.now() / 1000;


/** The dashboard of a text: its numbers as {value, digits}, the digits as they came. */
export function parse(text) {
  return JSON.parse(text, (key, value, context) =>
    NAMES.has(key) && typeof value === "number" ? { value, digits: context?.source ?? String(value) } : value);
}

/** What of a number is read first, and the rest of its digits. */
export function split({ value, digits }) {
  if (/e/i.test(digits)) digits = value.toLocaleString("en", { useGrouping: false, maximumFractionDigits: 20 });
  const [, sign, whole, fraction] = /^(-?)(\d+)(.*)$/.exec(digits);
  const grouped = sign.replace("-", "\u2212") + whole.replace(/\B(?=(\d{3})+$)/g, ",");
  const shown = whole.length > 3 ? 0 : 3;
  return [grouped + fraction.slice(0, shown), fraction.slice(shown)];
}

export function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
export const short = new Intl.NumberFormat("en", { notation: "compact", compactDisplay: "long", maximumFractionDigits: 2 });

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Change a text only if it differs: screen readers and selections keep their place. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
