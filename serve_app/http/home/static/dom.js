// Elements without a framework.

/** An element with properties, attributes (with a dash, or `role`, `for`) and children. */
export function el(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name || "div");
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Radio buttons that look like one bar; arrow keys choose. `choose` gets the value. */
export function segments(box, group, options, chosen, choose) {
  box.replaceChildren(
    ...options.map(([value, label]) =>
      el("label", {}, el("input", {
        type: "radio", name: group, value, checked: value === chosen, onchange: () => choose(value),
      }), el("span", {}, label)),
    ),
  );
}

export function bytes(count) {
  if (!count) return "0";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(Math.floor(Math.log2(count) / 10), units.length - 1);
  const value = count / 2 ** (10 * power);
  return `${value >= 100 || !power ? Math.round(value) : value.toFixed(1)} ${units[power]}`;
}

/** Three digits at most: 0.123, 1.23, 12.3, 123, 1,234. */
export function number(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 100) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}

export function milliseconds(value) {
  return value >= 10000 ? `${number(value / 1000)} s` : `${number(value)} ms`;
}

/** "image_classification" → "Image classification". */
export function words(name) {
  const spaced = name.replaceAll("_", " ");
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}
