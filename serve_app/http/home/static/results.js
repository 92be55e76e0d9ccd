// What an answer looks like: bars, boxes, a text, a strip of numbers; JSON for anything else.

import { el, milliseconds, number, svg } from "./dom.js";

const BARS = 10;

/** Elements for an answer's fields. `sent` has the files and texts of the request, by field. */
export function shown(answer, sent) {
  if (answer.boxes && answer.class_labels) return boxes(answer, Object.values(sent).find((value) => value instanceof File));
  if (answer.class_labels && answer.probabilities) return [bars(answer.class_labels, answer.probabilities)];
  if (typeof answer.generated_text === "string") return [text(sent.prompt ?? "", answer.generated_text)];
  if (typeof answer.text === "string") return [text("", answer.text), ...segments(answer.words ?? answer.segments)];
  const vectors = Object.values(answer).find(isVectors);
  if (vectors) return vectors.slice(0, 8).map(strip);
  return [el("pre", { tabIndex: 0 }, JSON.stringify(answer, null, 2))];
}

export function text(prompt, generated) {
  return el("p.text", { "aria-live": "polite" }, el("span.dim", {}, prompt), el("span.new", {}, generated));
}

function bars(labels, values) {
  const rows = labels.slice(0, BARS).map((label, index) => {
    const bar = el("span.bar");
    bar.style.width = `${Math.max(values[index] * 100, 0.5)}%`;
    return el("li", {}, el("span.name", {}, label), el("span.track", {}, bar), el("span.value", {}, `${(values[index] * 100).toFixed(1)} %`));
  });
  return el("ol.bars", {}, ...rows);
}

function boxes(answer, file) {
  const labels = [...new Set(answer.class_labels)];
  const rows = answer.class_labels.map((label, index) =>
    el("li", { "data-series": labels.indexOf(label) % 6 }, el("span.name", {}, label), el("span.value", {}, `${(answer.scores[index] * 100).toFixed(0)} %`)));
  const list = rows.length ? el("ol.found", {}, ...rows) : el("p.dim", {}, "Nothing found above the threshold.");
  if (!file) return [list];
  const image = el("img", { src: URL.createObjectURL(file), alt: `The picture with ${rows.length} boxes` });
  const frame = el(".frame", {}, image);
  image.addEventListener("load", () => {
    URL.revokeObjectURL(image.src);
    const { naturalWidth: width, naturalHeight: height } = image;
    const drawn = answer.boxes.map(([left, top, right, bottom], index) => {
      const series = labels.indexOf(answer.class_labels[index]) % 6;
      return svg("rect", { x: left, y: top, width: Math.max(right - left, 1), height: Math.max(bottom - top, 1), "data-series": series });
    });
    frame.append(svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...drawn));
  });
  return [frame, list];
}

function segments(parts) {
  if (!Array.isArray(parts)) return [];
  const at = (part) => (part.start_s === undefined ? "" : `${part.start_s.toFixed(1)} s`);
  return [el("ol.parts", {}, ...parts.map((part) => el("li", {}, el("span.dim", {}, at(part)), ` ${part.text ?? ""}`)))];
}

const isVectors = (value) => Array.isArray(value) && Array.isArray(value[0]) && typeof value[0][0] === "number";

/** An embedding: a bar for each number, up to 256. */
function strip(vector) {
  const shownValues = vector.slice(0, 256);
  const top = Math.max(...shownValues.map(Math.abs)) || 1;
  const lines = shownValues.map((value, x) =>
    svg("rect", { x, width: 1, y: value > 0 ? 20 - (value / top) * 20 : 20, height: (Math.abs(value) / top) * 20, "data-series": value > 0 ? 0 : 1 }));
  const plot = svg("svg", { viewBox: `0 0 ${shownValues.length} 40`, preserveAspectRatio: "none", role: "img", "aria-label": `${vector.length} numbers` }, ...lines);
  return el("figure.strip", {}, plot, el("figcaption.dim", {}, `${vector.length} numbers`));
}

/** One line about the answer: how long, and how fast. */
export function speed(answer, timing) {
  const tokens = answer.usage?.completion_tokens;
  const parts = [milliseconds(timing.totalMs)];
  if (timing.firstMs !== undefined) parts.push(`first token ${milliseconds(timing.firstMs)}`);
  if (tokens) parts.push(`${tokens} tokens`);
  if (tokens > 1 && timing.firstMs !== undefined && timing.totalMs > timing.firstMs) {
    parts.push(`${number(((tokens - 1) * 1000) / (timing.totalMs - timing.firstMs))} tokens/s`);
  }
  if (answer.finish_reason) parts.push(`ended by ${answer.finish_reason}`);
  return parts.join(" · ");
}
