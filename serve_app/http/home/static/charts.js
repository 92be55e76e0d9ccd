// Line charts of the last minutes, drawn as SVG. Each metric is read from /metrics, every two seconds.

import { el, milliseconds, number, svg, words } from "./dom.js";

const KEPT = 90;
/** Reads over which percentiles are taken: half a minute. */
const WINDOW = 15;
const WIDTH = 300;
const HEIGHT = 72;

/** The samples of Prometheus' text format, by name: [{labels, value}]. */
export function parsed(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = line.match(/^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/);
    if (!found) continue;
    const labels = Object.fromEntries(
      [...(found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value]),
    );
    if (!samples.has(found[1])) samples.set(found[1], []);
    samples.get(found[1]).push({ labels, value: Number(found[3]) });
  }
  return samples;
}

function sums(samples, name, label) {
  const by = {};
  for (const { labels, value } of samples.get(name) ?? []) {
    const key = label ? labels[label] : "";
    by[key] = (by[key] ?? 0) + value;
  }
  return by;
}

/** Increases per second between two reads; what is new counts from 0. */
function rates(now, before, seconds) {
  const by = {};
  for (const [key, value] of Object.entries(now)) by[key] = Math.max(0, value - (before[key] ?? 0)) / seconds;
  return by;
}

/** Counts up to each bucket's bound, by family. */
function buckets(samples, name) {
  const by = {};
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    const counts = (by[labels.family] ??= new Map());
    const bound = Number(labels.le.replace("+Inf", "Infinity"));
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return by;
}

/** The 95th percentile of what came between two reads, as Prometheus interpolates it; 0 where nothing came. */
function percentiles(now, before) {
  const by = {};
  for (const [family, counts] of Object.entries(now)) {
    const since = [...counts].sort(([a], [b]) => a - b).map(([bound, count]) => [bound, count - (before[family]?.get(bound) ?? 0)]);
    const rank = 0.95 * (since.at(-1)?.[1] ?? 0);
    const index = since.findIndex(([, count]) => count >= rank);
    const [bound, count] = since[index];
    const [low, below] = index ? since[index - 1] : [0, 0];
    by[family] = 1000 * (rank <= 0 ? 0 : Number.isFinite(bound) ? low + ((bound - low) * (rank - below)) / (count - below) : low);
  }
  return by;
}

const KINDS = [
  { title: "Requests", unit: "/s", counter: "inference_requests_total", label: "family", named: words },
  { title: "Latency, 95 % are faster", histogram: "inference_request_duration_seconds", shown: milliseconds, named: words, all: Math.max },
  { title: "Tokens generated", unit: "/s", counter: "text_generated_tokens_total" },
  { title: "Waiting for a place in a batch", gauge: "text_requests_waiting" },
];

export class Charts {
  constructor(box) {
    this.series = KINDS.map(() => new Map());
    this.reads = [];
    this.views = KINDS.map((kind) => {
      const value = el("strong", {}, "–");
      const plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
      const legend = el(".legend");
      box.append(el("figure", {}, el("figcaption", {}, kind.title, value), plot, legend));
      return { value, plot, legend };
    });
  }

  /** Adds what was read at `at`, in seconds. */
  add(samples, at) {
    const totals = KINDS.map((kind) => kind.histogram ? buckets(samples, kind.histogram) : sums(samples, kind.counter ?? kind.gauge, kind.label));
    const before = this.reads.at(-1);
    if (before) {
      const seconds = Math.max(at - before.at, 0.1);
      KINDS.forEach((kind, index) => {
        const now = kind.gauge ? totals[index]
          : kind.histogram ? percentiles(totals[index], this.reads[0].totals[index])
          : rates(totals[index], before.totals[index], seconds);
        this.#push(this.series[index], now);
        this.#draw(kind, this.series[index], this.views[index]);
      });
    }
    this.reads.push({ totals, at });
    if (this.reads.length > WINDOW) this.reads.shift();
  }

  #push(series, now) {
    const length = Math.max(0, ...[...series.values()].map((points) => points.length));
    for (const key of Object.keys(now)) if (!series.has(key)) series.set(key, Array(length).fill(0));
    for (const [key, points] of series) {
      points.push(now[key] ?? 0);
      if (points.length > KEPT) points.shift();
    }
  }

  #draw(kind, series, view) {
    const shown = kind.shown ?? ((value) => `${number(value)}${kind.unit ?? ""}`);
    const all = kind.all ?? ((...values) => values.reduce((sum, value) => sum + value, 0));
    const last = all(0, ...[...series.values()].map((points) => points.at(-1)));
    const top = Math.max(0, ...[...series.values()].flat());
    view.value.textContent = shown(last);
    view.plot.setAttribute("aria-label", `${kind.title}: now ${shown(last)}, at most ${shown(top)}`);
    const lines = [...series.values()].flatMap((points, index) => curve(points, top || 1, index));
    view.plot.replaceChildren(svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }), ...lines);
    const names = [...series.keys()].filter((key) => key);
    view.legend.replaceChildren(
      ...names.map((key, index) => el("span", { "data-series": index }, kind.named ? kind.named(key) : key)),
      el("span.top", {}, `max ${shown(top)}`),
    );
  }
}

function curve(points, top, index) {
  const step = WIDTH / (KEPT - 1);
  const from = WIDTH - (points.length - 1) * step;
  const at = points.map((value, n) => `${(from + n * step).toFixed(1)},${(HEIGHT - 2 - (value / top) * (HEIGHT - 8)).toFixed(1)}`);
  return [
    svg("polygon", { points: `${from.toFixed(1)},${HEIGHT} ${at.join(" ")} ${WIDTH},${HEIGHT}`, "data-series": index }),
    svg("polyline", { points: at.join(" "), "data-series": index }),
  ];
}
