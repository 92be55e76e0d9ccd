// Where a picture or a sound is dropped, chosen, pasted or recorded.

import { bytes, el } from "./dom.js";

const ACCEPTED = { picture: "image/*", audio: "audio/*,video/webm", file: "" };
const ASKED = { picture: "Drop a picture here, paste it, or choose a file", audio: "Drop a recording here, or choose a file", file: "Drop a file here, or choose one" };

/** `changed` gets the file. Returns the element. */
export function dropZone(kind, label, changed) {
  const input = el("input", { type: "file", accept: ACCEPTED[kind], "aria-label": label });
  const shown = el(".shown");
  const zone = el("label.drop", { tabIndex: -1 }, input, shown, el("span.ask", {}, ASKED[kind]));
  const take = (file) => {
    if (!file) return;
    for (const old of shown.querySelectorAll("[src]")) URL.revokeObjectURL(old.src);
    shown.replaceChildren(...preview(kind, file));
    zone.classList.add("full");
    changed(file);
  };
  input.addEventListener("change", () => take(input.files[0]));
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  const box = el(".file", {}, zone);
  box.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  if (kind === "audio" && navigator.mediaDevices) box.append(recorder(take));
  return box;
}

function preview(kind, file) {
  const src = URL.createObjectURL(file);
  const note = el("span.dim", {}, `${file.name} · ${bytes(file.size)}`);
  if (kind === "picture") return [el("img", { src, alt: "The picture that is sent" }), note];
  if (kind === "audio") return [el("audio", { src, controls: true }), note];
  return [note];
}

function recorder(take) {
  const button = el("button", { type: "button" }, "● Record");
  let recording = null;
  button.addEventListener("click", async () => {
    if (recording) { recording.stop(); return; }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      button.textContent = "No microphone may be used";
      return;
    }
    const parts = [];
    recording = new MediaRecorder(stream);
    const began = performance.now();
    recording.addEventListener("dataavailable", (event) => {
      parts.push(event.data);
      if (recording) button.textContent = `■ Stop after ${Math.floor((performance.now() - began) / 1000)} s`;
    });
    recording.addEventListener("stop", () => {
      for (const track of stream.getTracks()) track.stop();
      const type = recording.mimeType;
      recording = null;
      button.textContent = "● Record";
      take(new File(parts, `recording.${type.includes("mp4") ? "mp4" : "webm"}`, { type }));
    });
    recording.start(250);
    button.textContent = "■ Stop";
  });
  return button;
}

export async function base64(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
  return url.slice(url.indexOf(",") + 1);
}
