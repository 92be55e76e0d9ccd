// Requests to this runtime, with the key where one is set. Nothing else is asked.

const STORED = "model-runtime-key";
let asking = null;

/** What the runtime answered in place of what was asked. */
export class Failure extends Error {
  constructor(error) {
    super(error.message);
    this.code = error.code ?? "unavailable";
    this.requestId = error.request_id;
  }
}

export const url = (path) => new URL(path, document.baseURI).href;
export const storedKey = () => sessionStorage.getItem(STORED);

/** Asks for a key once, however many requests are refused meanwhile. */
export function askForKey(why) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("ask");
    const input = document.getElementById("ask-key");
    document.getElementById("ask-why").textContent = why;
    document.getElementById("key")?.removeAttribute("hidden");
    dialog.showModal();
    dialog.addEventListener("close", () => {
      asking = null;
      const given = input.value.trim();
      input.value = "";
      if (given) sessionStorage.setItem(STORED, given);
      resolve(Boolean(given));
    }, { once: true });
  });
  return asking;
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (storedKey()) headers.authorization = `Bearer ${storedKey()}`;
  let response;
  try {
    response = await fetch(url(path), { ...options, headers });
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    throw new Failure({ message: "the runtime does not answer", code: "unavailable" });
  }
  if (response.ok) return response;
  const error = await response.json().then((body) => body.Error ?? {}, () => ({}));
  const failure = new Failure({ message: `status ${response.status}`, ...error });
  if (response.status === 401 && (await askForKey(failure.message))) return send(path, options);
  throw failure;
}

export const getJson = async (path) => (await send(path)).json();
export const getText = async (path) => (await send(path)).text();
export const post = async (path) => (await send(path, { method: "POST" })).json();

/** The variant that answers a request. `onToken` gets {text, index} of a stream. */
export async function infer(request, onToken, signal) {
  const response = await send("infer", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  const type = response.headers.get("content-type") ?? "";
  const answer = type.startsWith("text/event-stream") ? await lastEvent(response, onToken) : await response.json();
  const [variant, fields] = Object.entries(answer)[0];
  if (variant === "Error") throw new Failure(fields);
  return fields;
}

async function lastEvent(response, onToken) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffered = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Failure({ message: "the stream ended without a result" });
    const events = (buffered + value).split("\n\n");
    buffered = events.pop();
    for (const event of events) {
      const data = event.match(/^data: (.*)$/m);
      if (!data) continue;
      if (event.startsWith("event: result")) return JSON.parse(data[1]);
      onToken(JSON.parse(data[1]));
    }
  }
}
