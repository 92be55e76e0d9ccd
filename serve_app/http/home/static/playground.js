// One family's form, in one lane or in two beside each other.

import { Failure, infer, storedKey, url } from "./api.js";
import { el, segments, words } from "./dom.js";
import { fieldsOf, settingInput, settingsIn } from "./fields.js";
import { base64, dropZone } from "./files.js";
import { shown, speed, text } from "./results.js";
import { LANGUAGES, snippet } from "./snippets.js";

const AT_FIRST = { max_tokens: 64, prompt: "ROMEO:" };
const by = (id) => document.getElementById(id);

export class Playground {
  /** `families`: [{name, request, form}]. `schemas`: those of the OpenAPI document. */
  constructor(families, schemas) {
    this.families = families.filter((family) => schemas[family.request]);
    this.schemas = schemas;
    this.models = new Map();
    this.family = null;
    this.lanes = 1;
    this.sent = {};
    this.language = "curl";
    by("form").addEventListener("submit", (event) => { event.preventDefault(); this.run(); });
    by("form").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.run(); }
    });
    by("form").addEventListener("input", () => this.#code());
    by("compare").addEventListener("click", () => this.#compare());
    by("copy").addEventListener("click", () => this.#copy());
    segments(by("languages"), "language", LANGUAGES, this.language, (value) => { this.language = value; this.#code(); });
  }

  /** Which models there are, by family. Draws anew only what has changed. */
  update(statuses) {
    const models = new Map();
    for (const { model_id: name, family } of statuses) models.set(family, [...(models.get(family) ?? []), name]);
    const same = JSON.stringify([...models]) === JSON.stringify([...this.models]);
    if (same) return;
    this.models = models;
    const there = this.families.filter((family) => models.has(family.name));
    by("empty").hidden = there.length > 0;
    by("form").hidden = by("code").hidden = there.length === 0;
    if (!there.length) return;
    if (!there.includes(this.family)) this.#choose(there[0]);
    else this.#fillModels();
    segments(by("families"), "family", there.map((family) => [family.name, words(family.name)]), this.family.name,
      (name) => this.#choose(there.find((family) => family.name === name)));
  }

  #choose(family) {
    this.family = family;
    this.fields = fieldsOf(this.schemas[family.request]);
    this.sent = {};
    by("inputs").replaceChildren(...this.fields.inputs.map((field) => this.#input(field)));
    by("lanes").replaceChildren(...Array.from({ length: this.lanes }, (_, index) => this.#lane(index)));
    this.#fillModels();
    this.#code();
  }

  #input(field) {
    if (field.kind !== "text" && field.kind !== "list") {
      return dropZone(field.kind, words(field.name), (file) => { this.sent[field.name] = file; this.#code(); });
    }
    this.sent[field.name] = field.kind === "list" ? [] : AT_FIRST[field.name] ?? "";
    const area = el("textarea", { id: `input-${field.name}`, rows: 4, value: AT_FIRST[field.name] ?? "" });
    area.addEventListener("input", () => {
      this.sent[field.name] = field.kind === "list" ? area.value.split("\n").filter(Boolean) : area.value;
    });
    return el("label.area", {}, el("span", {}, words(field.name) + (field.kind === "list" ? ", one a line" : "")), area);
  }

  #lane(index, like) {
    const name = "AB"[index];
    const settings = this.fields.settings.map((field) => settingInput(field, like?.[field.name] ?? (field.needed ? AT_FIRST[field.name] : undefined), name));
    const needed = settings.filter((label) => label.querySelector(":required"));
    const others = settings.filter((label) => !needed.includes(label));
    const lane = el("fieldset.lane", { "data-lane": name },
      el("legend", {}, this.lanes > 1 ? name : "Model"),
      el(".settings", {}, el("label.model", {}, el("span", {}, "Model"), el("select", { "aria-label": `Model ${name}` })), ...needed),
      others.length ? el("details", {}, el("summary", {}, "Settings"), el(".settings", {}, ...others)) : null,
      el("output", { "aria-live": "polite" }));
    return lane;
  }

  #fillModels() {
    const names = this.models.get(this.family.name) ?? [];
    by("lanes").querySelectorAll(".model select").forEach((select, index) => {
      const before = select.value;
      select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
      select.value = names.includes(before) ? before : names[Math.min(index, names.length - 1)];
    });
  }

  #compare() {
    this.lanes = this.lanes === 1 ? 2 : 1;
    by("compare").setAttribute("aria-pressed", String(this.lanes === 2));
    const first = by("lanes").firstElementChild;
    if (this.lanes === 2) by("lanes").append(this.#lane(1, settingsIn(first)));
    else by("lanes").lastElementChild.remove();
    first.querySelector("legend").textContent = this.lanes > 1 ? "A" : "Model";
    this.#fillModels();
  }

  #request(lane) {
    const fields = { model_id: lane.querySelector(".model select").value, ...this.sent, ...settingsIn(lane) };
    return this.fields.streams ? { ...fields, stream: true } : fields;
  }

  async run() {
    const missing = this.fields.inputs.find((field) => !["text", "list"].includes(field.kind) && !this.sent[field.name]);
    if (missing) { by("inputs").querySelector("input[type=file]").click(); return; }
    if (!by("form").reportValidity()) return;
    this.running?.abort();
    const running = (this.running = new AbortController());
    by("run").setAttribute("aria-busy", "true");
    const lanes = [...by("lanes").children];
    await Promise.all(lanes.map((lane) => this.#answer(lane, running.signal)));
    if (this.running === running) by("run").removeAttribute("aria-busy");
  }

  async #answer(lane, signal) {
    const output = lane.querySelector("output");
    const given = this.#request(lane);
    const fields = { ...given };
    const line = el("p.dim.speed", {}, "…");
    const streamed = text(typeof given.prompt === "string" ? given.prompt : "", "");
    output.replaceChildren(...(this.fields.streams ? [streamed] : []), line);
    const started = performance.now();
    const timing = {};
    const onToken = (token) => {
      timing.firstMs ??= performance.now() - started;
      streamed.lastChild.textContent += token.text;
      const seconds = (performance.now() - started - timing.firstMs) / 1000;
      if (token.index > 1 && seconds > 0.05) line.textContent = `${token.index} tokens · ${Math.round((token.index - 1) / seconds)} tokens/s`;
    };
    try {
      for (const [name, value] of Object.entries(fields)) if (value instanceof File) fields[name] = await base64(value);
      const answer = await infer({ [this.family.request]: fields }, onToken, signal);
      timing.totalMs = performance.now() - started;
      output.replaceChildren(...shown(answer, given), el("p.dim.speed", {}, speed(answer, timing)));
    } catch (failure) {
      if (failure.name === "AbortError") return;
      const { code, requestId } = failure instanceof Failure ? failure : { code: failure.name };
      const id = requestId ? el("span.dim", {}, ` request ${requestId}`) : null;
      output.replaceChildren(el("p.error", { role: "alert" }, el("strong", {}, code), ` ${failure.message}`, id));
    }
  }

  #code() {
    if (!this.family || !by("lanes").firstElementChild) return;
    const fields = this.#request(by("lanes").firstElementChild);
    for (const field of this.fields.inputs) fields[field.name] ??= new File([], field.kind === "audio" ? "speech.wav" : "photo.jpg");
    const asked = { family: this.family, fields, url: url("infer"), withKey: Boolean(storedKey()) };
    by("snippet").textContent = snippet(this.language, asked);
  }

  async #copy() {
    await navigator.clipboard.writeText(by("snippet").textContent);
    by("copy").textContent = "Copied";
    setTimeout(() => { by("copy").textContent = "Copy"; }, 1500);
  }
}
