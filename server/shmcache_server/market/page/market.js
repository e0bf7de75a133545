// The live page: shows the dashboard as /ws pushes it and /api/dashboard answers it.
//
// Numbers keep the digits they came with, a value that is not there is shown as such,
// and lines are drawn from what arrived alone. /api/dashboard is asked every few
// seconds beside /ws: that shows what the cache does, and stands in where /ws does not.

import { describe, draw, keep, series } from "/static/lines.js";
import { READINGS, STATES, VENDORS, $, clock, duration, element, now, parse, short, split, write } from "/static/words.js";

const POLL = 5; // seconds between two looks at /api/dashboard
const BUDGETS = 10; // ... and at /api/rate-limits
const BACKOFF = 30; // seconds at most between two tries of /ws
const ANSWERS = 8; // rows of the log
const QUIET = 30; // seconds between two numbers read out, at least

// --- readings -----------------------------------------------------------------------

const cards = new Map(READINGS.map((reading) => {
  const card = $("reading").content.cloneNode(true).firstElementChild;
  card.id = reading.name;
  card.className = reading.kind ?? "";
  const title = card.querySelector("h2");
  title.textContent = reading.title;
  title.id = `${reading.name}-title`;
  card.setAttribute("aria-labelledby", title.id);
  card.querySelector(".spark").setAttribute("aria-label", describe(reading));
  $("readings").append(card);
  return [reading.name, card];
}));

let shown = null; // the dashboard that is on the page
let skew = 0; // seconds that the server's clock is ahead of ours

function fill(reading, dashboard) {
  const card = cards.get(reading.name);
  const number = dashboard[reading.name] ?? null;
  const points = series.get(reading.name);
  const before = points.findLast((point) => point.number)?.number;
  const changed = number?.digits !== points.at(-1)?.number?.digits;
  const first = !points.length;
  if (!changed && !first) return false;
  keep(reading.name, number);
  const digits = card.querySelector(".digits");
  if (number) {
    const [lead, rest] = split(number);
    const parts = [element("span", {}, lead), element("wbr"), element("small", {}, rest)];
    if (reading.before) parts.unshift(element("span", { className: "unit" }, reading.before));
    if (reading.after) parts.push(element("small", {}, ` ${reading.after}`));
    digits.replaceChildren(...parts);
    write(card.querySelector(".value .unseen"), `${lead}${rest} ${reading.spoken}`);
  } else {
    digits.replaceChildren(element("span", { className: "word" }, "Unavailable"));
    write(card.querySelector(".value .unseen"), "Unavailable");
  }
  note(reading, card, dashboard, number, before);
  card.querySelector(".spark").setAttribute("aria-label", describe(reading));
  if (!first) flash(card);
  return true;
}

function note(reading, card, dashboard, number, before) {
  const words = [];
  if (!number) words.push(before ? `Last known: ${split(before).join("")}` : "No source has answered");
  else if (reading.signed) words.push(direction(number.value, "Up", "Down", "Unchanged"));
  else {
    if (reading.word && dashboard[reading.word]) words.push(dashboard[reading.word]);
    if (reading.scale && !reading.word) {
      const [low, high] = reading.scale;
      words.push(number.value < low ? "Oversold" : number.value > high ? "Overbought" : "Neutral");
    }
    const long = Math.abs(number.value) >= 1e9;
    if (long) words.push(short.format(number.value));
    if (before) {
      const from = long ? "" : ` from ${split(before).join("")}`;
      words.push(direction(number.value - before.value, `Up${from}`, `Down${from}`, `Unchanged${from}`));
    }
  }
  const nodes = words.flatMap((word, i) => (i ? [" \u00b7 ", word] : [word]));
  card.querySelector(".note").replaceChildren(...nodes);
}

function direction(by, up, down, same) {
  if (by > 0) return element("span", { className: "up" }, `\u25b2\u00a0${up}`);
  if (by < 0) return element("span", { className: "down" }, `\u25bc\u00a0${down}`);
  return element("span", {}, same);
}

function flash(card) {
  card.classList.remove("changed");
  void card.offsetWidth; // begins the animation again
  card.classList.add("changed");
}

/** Age and state of each part, which move without an answer. */
function age(reading) {
  const card = cards.get(reading.name);
  const state = card.querySelector(".state");
  const number = shown?.[reading.name];
  const { as_of: asOf, source, state: told } = shown?.parts[reading.part] ?? {};
  let [is, says] = ["fresh", "Fresh"];
  if (!shown) [is, says] = ["waiting", "Waiting"];
  else if (!number) [is, says] = ["unavailable", "Unavailable"];
  else if (trouble || link === "offline") [is, says] = ["stale", "Last known"];
  else if (told === "stale") [is, says] = ["stale", "Stale"];
  state.dataset.state = is;
  write(state, says);
  write(card.querySelector(".source"), number && source ? (VENDORS[source] ?? source) : "\u00a0");
  write(card.querySelector(".age"), number && asOf ? `${duration(now() + skew - asOf)} old` : "");
}

/** Put a dashboard on the page, unless what is there was made later: an answer of the
    cache may be older than what was pushed. */
function show(dashboard) {
  const made = dashboard.last_updated;
  if (shown && made < shown.last_updated) return;
  shown = dashboard;
  const changed = READINGS.filter((reading) => fill(reading, dashboard));
  const price = dashboard.btc_price_usd;
  document.title = price ? `$${split(price).join("")} \u00b7 Market` : "Market";
  if (changed.length) say(changed.slice(0, 3).map(spoken).join(". "), QUIET);
  const ms = dashboard.fetch_duration_ms;
  write($("made"), `Dashboard of ${clock(made)}` +
    (typeof ms === "number" ? `, put together in ${Math.round(ms)} ms` : "") +
    (dashboard.partial_failure ? "; not every part could be had" : ""));
  tick();
}

function spoken(reading) {
  return `${reading.title}: ${cards.get(reading.name).querySelector(".value .unseen").textContent}`;
}

// --- read out -----------------------------------------------------------------------

let waiting = null; // {text, at}: what is to be read out next, and not before when
let lastSaid = 0;

/** Read out politely, at least `gap` seconds after what was read out before. */
function say(text, gap) {
  waiting = { text, at: lastSaid + gap };
}

function speak() {
  if (!waiting || now() < waiting.at) return;
  write($("announcer"), waiting.text);
  [waiting, lastSaid] = [null, now()];
}

// --- answers ------------------------------------------------------------------------

/** What the cache next to us did, by its Cache-Status (RFC 9211): [words, ttl or null]. */
function verdict(field) {
  const members = field?.match(/(?:"(?:\\.|[^"])*"|[^,"])+/g) ?? [];
  const said = members.at(-1)?.split(";").map((item) => item.trim()) ?? [];
  const value = (name) => said.find((item) => item.startsWith(`${name}=`))?.slice(name.length + 1);
  const ttl = value("ttl") === undefined ? null : Number(value("ttl"));
  if (said.includes("hit")) return [ttl !== null && ttl < 0 ? "Stale" : "Hit", ttl];
  if (said.includes("collapsed")) return ["Miss, shared", ttl];
  const reason = value("fwd");
  if (reason === "bypass" || reason === "request") return ["Bypass", ttl];
  return [reason === "stale" ? "Expired" : reason ? "Miss" : "Not told", ttl];
}

function log(what, old = null, ttl = null, ms = null) {
  if (paused) return;
  const told = [old === null ? "\u2013" : duration(old), ttl === null || ttl < 0 ? "\u2013" : duration(ttl),
    ms === null ? "\u2013" : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`];
  const row = element("tr", {}, element("td", {}, clock(now())), element("td", {}, what));
  row.append(...told.map((text) => element("td", { className: "number" }, text)));
  const rows = $("answers");
  if (rows.querySelector(".none")) rows.replaceChildren();
  rows.prepend(row);
  while (rows.children.length > ANSWERS) rows.lastElementChild.remove();
}

// --- connection ---------------------------------------------------------------------

let link = "connecting"; // a key of STATES
let trouble = ""; // why there is no dashboard, in the server's words
let paused = false;
let socket = null;
let tries = 0; // of /ws, since it was open
let misses = 0; // polls in a row without an answer
let again = 0; // when the next one is due, at the earliest
let wasLost = 0; // when the connection was lost

function become(state) {
  if (state === link) return;
  if (state === "live" && wasLost) {
    say(`Connected again after ${duration(now() - wasLost)}`, 0);
    wasLost = 0;
  } else if (state === "offline" || state === "polling") {
    wasLost ||= now();
    say(state === "offline" ? "The connection is lost" : "Live updates are refused; polling", 0);
  }
  link = state;
  tick();
}

function connect() {
  const url = new URL("/ws", location);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.onopen = () => {
    tries = 0;
    shown = shown && { ...shown, last_updated: 0 }; // what comes first counts
    become("live");
  };
  socket.onmessage = ({ data }) => {
    const dashboard = parse(data);
    log("Pushed", now() + skew - dashboard.last_updated);
    take(dashboard);
  };
  socket.onclose = () => {
    socket = null;
    again = now() + Math.min(BACKOFF, 2 ** tries++) * (0.5 + Math.random() / 2);
    if (!paused) poll(); // tells a refusal from a server that is gone
  };
}

const isOpen = () => socket?.readyState === WebSocket.OPEN;

let held = null; // what came while paused

function take(dashboard) {
  trouble = "";
  if (paused) held = dashboard;
  else show(dashboard);
}

async function ask(path) {
  return fetch(path, { cache: "no-store", signal: AbortSignal.timeout(8000) });
}

let polling = false;

async function poll() {
  if (polling) return;
  polling = true;
  const began = performance.now();
  try {
    const answer = await ask("/api/dashboard");
    const text = await answer.text();
    const [what, ttl] = verdict(answer.headers.get("Cache-Status"));
    const old = answer.headers.has("Age") ? Number(answer.headers.get("Age")) : null;
    const date = Date.parse(answer.headers.get("Date"));
    if (date) skew = Math.abs(date / 1000 + (old ?? 0) - now()) > 2 ? date / 1000 + (old ?? 0) - now() : 0;
    log(answer.ok ? what : `Error ${answer.status}`, old, ttl, took(answer) ?? performance.now() - began);
    misses = 0;
    if (link === "offline") again = 0;
    if (!socket) become("polling");
    else if (isOpen()) become("live");
    if (answer.ok) take(parse(text));
    else fail(answer);
  } catch {
    log("No answer", null, null, performance.now() - began);
    misses += 1;
    if (!isOpen() || misses > 1) become("offline");
    else beat = 0; // soon once more: an open socket may lead nowhere
  } finally {
    polling = false;
    tick();
  }
}

/** Milliseconds from the request to the answer's end, without what the page was busy with. */
function took({ url }) {
  const timing = performance.getEntriesByName(url).at(-1);
  performance.clearResourceTimings();
  return timing && timing.responseEnd - timing.requestStart;
}

function fail(answer) {
  const after = Number(answer.headers.get("Retry-After"));
  trouble = `The server has no dashboard (${answer.status})` + (after ? `; it is to be asked again in ${duration(after)}` : "");
}

// --- budgets ------------------------------------------------------------------------

let budgets = {};

async function askBudgets() {
  try {
    const answer = await ask("/api/rate-limits");
    if (answer.ok) budgets = await answer.json();
  } catch {
    return; // the dashboard's own poll tells of it
  }
  tick();
}

function showBudgets() {
  const rows = Object.entries(budgets).map(([vendor, { budget, left, blocked_until: until, breaker }]) => {
    const blocked = until && until > now() + skew;
    const used = element("i");
    used.style.width = `${budget ? (100 * left) / budget : 0}%`;
    return element("tr", {},
      element("th", { scope: "row" }, VENDORS[vendor] ?? vendor),
      element("td", {}, blocked ? `Blocked for ${duration(until - now() - skew)}`
        : breaker !== "closed" ? "Failing" : left > 0 ? "Ready" : "Used up"),
      element("td", { className: "number" }, `${left.toLocaleString("en")} of ${budget.toLocaleString("en")}`, element("span", { className: "bar" }, used)));
  });
  if (rows.length) $("vendors").replaceChildren(...rows);
}

// --- time ---------------------------------------------------------------------------

function tick() {
  if (paused) return;
  const next = socket ? "trying" : `next try in ${duration(Math.ceil(again - now()))}`;
  const details = {
    connecting: "", live: "updates as they come", polling: `every ${POLL} s; live updates are refused, ${next}`,
    offline: `the server does not answer; ${next}`, paused: "",
  };
  status(link, details[link]);
  $("retry").hidden = link !== "offline" && link !== "polling";
  $("notice").hidden = !trouble;
  write($("notice"), trouble);
  for (const reading of READINGS) {
    age(reading);
    draw(reading, cards.get(reading.name).querySelector(".spark"));
  }
  showBudgets();
  speak();
}

function status(state, detail) {
  document.querySelector(".connection").dataset.state = state;
  write($("state"), STATES[state]);
  write($("detail"), detail);
}

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  if (paused) return status("paused", `since ${clock(now())}`);
  if (held) show(held);
  held = null;
  wake();
}

/** Every second, while somebody looks. */
let beat = 0;

function second() {
  if (document.hidden) return;
  if (!socket && now() >= again) connect();
  if (paused) return;
  if (beat % POLL === 0) poll();
  if (beat % BUDGETS === 0) askBudgets();
  beat += 1;
  tick();
}

/** Look at once, and try /ws again if it is not there. */
function wake() {
  [again, beat] = [0, 0];
  second();
}

$("pause").onclick = pause;
$("retry").onclick = wake;
for (const name of ["online", "offline"]) window.addEventListener(name, wake);
document.addEventListener("visibilitychange", wake);
setInterval(second, 1000);
connect();
second();
