// The page: reads /models and /metrics every two seconds while it is seen, and shows them.

import { askForKey, getJson, getText, post } from "./api.js";
import { Charts, parsed } from "./charts.js";
import { bytes, el, words } from "./dom.js";
import { Playground } from "./playground.js";

const EVERY_MS = 2000;
const by = (id) => document.getElementById(id);

function showState(ready, words) {
  by("state").textContent = words;
  by("state").dataset.state = ready ? "ready" : "failed";
}

function modelRow(status) {
  const held = status.resident_bytes.length;
  const parts = [words(status.family ?? "no family")];
  if (status.version) parts.push(`version ${status.version}`);
  if (held) parts.push(`${bytes(status.resident_bytes[0])}${held > 1 ? ` in ${held} replicas` : ""}`);
  else if (status.declared_bytes) parts.push(bytes(status.declared_bytes));
  if (status.loads) parts.push(`${status.loads} load${status.loads > 1 ? "s" : ""}, ${status.evictions} evicted`);
  const verb = status.state === "ready" ? "unload" : "load";
  const button = el("button", { type: "button", className: "quiet", "aria-label": `${verb} ${status.model_id}` }, verb);
  button.addEventListener("click", async () => {
    button.disabled = true;
    await post(`models/${status.model_id}/${verb}`).catch((failure) => showState(false, failure.message));
    refresh();
  });
  return el("li", {},
    el(".head", {}, el("strong", {}, status.model_id), el("span.pill", { "data-state": status.state }, status.state), button),
    el(".dim", {}, parts.join(" · ")),
    status.reason ? el(".error", {}, status.reason) : null);
}

function replicaRows(statuses) {
  const replicas = new Map();
  for (const status of statuses) {
    for (const { replica, process } of status.replicas) replicas.set(replica, { family: status.family, process });
  }
  return [...replicas].sort().map(([name, { family, process }]) => {
    const { accounted_bytes: used, budget_bytes: budget } = process;
    const meter = el("meter", { max: Math.max(budget, 1), value: used, "aria-label": `Memory of ${name}` });
    return el("li", {}, el(".head", {}, el("strong", { title: name }, words(family ?? "")), el("span.dim", {}, `${bytes(used)} of ${bytes(budget)}`)),
      meter, el(".dim", {}, `process ${bytes(process.process_bytes)}`));
  });
}

/** Replaces the rows unless one has the focus: a button must not vanish below a finger. */
function replaceRows(list, rows) {
  if (!list.contains(document.activeElement)) list.replaceChildren(...rows);
}

const charts = new Charts(by("charts"));
let playground = null;
let timer = 0;

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const { models, warnings } = await getJson("models");
    showState(true, "ready");
    replaceRows(by("models"), models.map(modelRow));
    by("warnings").replaceChildren(...warnings.map((line) => el("li.error", {}, line)));
    by("replicas").replaceChildren(...replicaRows(models));
    if (!playground) {
      const { components } = await getJson("openapi.json");
      playground = new Playground(JSON.parse(document.body.dataset.families), components.schemas);
    }
    playground.update(models);
    charts.add(parsed(await getText("metrics")), performance.now() / 1000);
  } catch (failure) {
    showState(false, failure.message);
  }
  timer = setTimeout(refresh, EVERY_MS);
}

document.addEventListener("visibilitychange", refresh);
by("key").addEventListener("click", () => askForKey("Another key may be used.").then(refresh));
refresh();
