// Lines: what has arrived of each reading since the page was opened, and its drawing.

import { READINGS, clock, now, split } from "/static/words.js";

const SPAN = 600; // seconds that a line tells at most
const FIRST = 30; // ... and at least, though less has arrived

export const series = new Map(READINGS.map(({ name }) => [name, []])); // of {at, number or null}

export function keep(name, number) {
  const points = series.get(name);
  points.push({ at: now(), number });
  while (points.length > 1 && points[1].at < now() - SPAN) points.shift();
}

/** Steps: a value holds until the next one arrives. Where there is none there is no line. */
export function draw(reading, svg) {
  const points = series.get(reading.name);
  const known = points.filter((point) => point.number).map((point) => point.number.value);
  if (!known.length) return;
  const from = Math.max(now() - SPAN, Math.min(points[0].at, now() - FIRST));
  const [low, high] = reading.scale ? [0, 100] : [Math.min(...known), Math.max(...known)];
  const x = (at) => (100 * Math.max(0, at - from)) / (now() - from);
  const y = (value) => (high > low ? 96 - (92 * (value - low)) / (high - low) : 50);
  let line = "", area = "", begun = null;
  points.forEach(({ at, number }, i) => {
    if (!number) return (begun = null);
    const until = x(points[i + 1]?.at ?? now());
    line += `${begun === null ? "M" : "L"}${x(at)} ${y(number.value)}H${until}`;
    area += `M${x(at)} ${y(number.value)}H${until}V100H${x(at)}Z`;
    begun = at;
  });
  const last = points.at(-1).number;
  svg.querySelector(".line").setAttribute("d", line);
  svg.querySelector(".area").setAttribute("d", area);
  svg.querySelector(".end").setAttribute("d", last ? `M100 ${y(last.value)}h0.001` : "");
  if (reading.scale) {
    svg.querySelector(".guides").setAttribute("d", reading.scale.map((at) => `M0 ${y(at)}H100`).join(""));
  }
}

export function describe(reading) {
  const known = series.get(reading.name).filter((point) => point.number);
  if (!known.length) return `${reading.title}: nothing has arrived`;
  const sorted = known.map((point) => point.number).sort((a, b) => a.value - b.value);
  const [low, high] = [sorted[0], sorted.at(-1)].map((number) => split(number).join(""));
  const range = low === high ? `all ${low}` : `between ${low} and ${high}`;
  return `${reading.title}: ${known.length} arrived since ${clock(known[0].at)}, ${range}`;
}
