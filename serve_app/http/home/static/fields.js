// A form for any request, from its schema in the OpenAPI document.

import { el, words } from "./dom.js";

const HIDDEN = new Set(["model_id", "stream"]);

/** What a schema allows beside null. */
function plain(schema) {
  const options = (schema.anyOf ?? [schema]).filter((option) => option.type !== "null");
  return options.find((option) => option.contentEncoding) ?? options[0] ?? {};
}

/** "picture", "audio", "file", "text", "number", "flag", "choice", or null for what has no input here. */
export function kindOf(name, schema) {
  const { type, contentEncoding, enum: choices } = plain(schema);
  if (contentEncoding === "base64") return /image|picture|photo/.test(name) ? "picture" : /audio|sound|speech/.test(name) ? "audio" : "file";
  if (choices) return "choice";
  if (type === "string") return "text";
  if (type === "number" || type === "integer") return "number";
  if (type === "boolean") return "flag";
  if (type === "array" && plain(schema.items ?? plain(schema).items ?? {}).type === "string") return "list";
  return null;
}

/** The fields of a request: those it needs, and the others as settings. */
export function fieldsOf(schema) {
  const needed = new Set(schema.required ?? []);
  const all = Object.entries(schema.properties ?? {}).filter(([name]) => !HIDDEN.has(name));
  const described = all.map(([name, field]) => ({ name, kind: kindOf(name, field), rules: plain(field), needed: needed.has(name) }));
  const known = described.filter((field) => field.kind);
  const isSetting = (field) => !field.needed || ["number", "flag", "choice"].includes(field.kind);
  return {
    inputs: known.filter((field) => !isSetting(field)),
    settings: known.filter((field) => isSetting(field) && !["file", "picture", "audio"].includes(field.kind)),
    streams: Boolean(schema.properties?.stream),
  };
}

/** A labelled input for a setting. Its value is read by `settingsIn`. */
export function settingInput(field, given, lane) {
  const id = `${lane}-${field.name}`;
  const common = { id, "data-setting": field.name, "data-kind": field.kind, required: field.needed };
  let input;
  if (field.kind === "flag" || field.kind === "choice") {
    const choices = field.kind === "flag" ? ["true", "false"] : field.rules.enum;
    input = el("select", common, el("option", { value: "" }, "default"), ...choices.map((value) => el("option", { value }, value)));
    input.value = given ?? "";
  } else if (field.kind === "number") {
    const least = field.rules.minimum ?? field.rules.exclusiveMinimum;
    const step = field.rules.type === "integer" ? 1 : "any";
    input = el("input", { ...common, type: "number", min: least ?? "", max: field.rules.maximum ?? "", step, placeholder: "default" });
    if (given !== undefined) input.value = given;
  } else {
    input = el("input", { ...common, type: "text", placeholder: field.kind === "list" ? "one, two" : "default" });
    if (given !== undefined) input.value = given;
  }
  return el("label", { for: id }, el("span", {}, words(field.name)), input);
}

/** The values that were given, as the request has them. */
export function settingsIn(box) {
  const values = {};
  for (const input of box.querySelectorAll("[data-setting]")) {
    const { setting, kind } = input.dataset;
    if (input.value === "") continue;
    values[setting] =
      kind === "number" ? Number(input.value)
      : kind === "flag" ? input.value === "true"
      : kind === "list" ? input.value.split(",").map((part) => part.trim()).filter(Boolean)
      : input.value;
  }
  return values;
}
