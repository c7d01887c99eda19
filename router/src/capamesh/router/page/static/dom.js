// Elements made from data. Every text goes in as a text node: names and reasons are other people's words.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** Return an element with attributes, listeners (`onclick: f`) and children; strings become text. */
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** Return an element of a drawing. */
export const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

/** Set the text of an element if it is another. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Return a badge: its colour tells the same as its word. */
export const badge = (kind, word) => h("span", { class: `badge ${kind}` }, word);

/** Return a tile with a number, and a function that sets it. */
export function tile(label) {
  const value = h("div", { class: "value" }, "–");
  const note = h("div", { class: "note" });
  const element = h("div", { class: "tile" }, h("div", { class: "label" }, label), value, note);
  return { element, set: (text, more = "") => { say(value, text); say(note, more); } };
}

/** Copy a text. A browser has a clipboard for scripts at https and at this machine alone: elsewhere the text is selected and copied. */
async function copy(text) {
  if (navigator.clipboard) { await navigator.clipboard.writeText(text); return; }
  const area = h("textarea", { value: text, class: "aside", "aria-hidden": "true" });
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  if (!isDone) throw new Error("Not copied");
}

let told = 0;

/** Say something for a moment, in a corner of the page and to screen readers. */
function tell(text) {
  const corner = document.getElementById("told");
  corner.textContent = text;
  corner.classList.remove("hidden");
  clearTimeout(told);
  told = setTimeout(() => corner.classList.add("hidden"), 2500);
}

/** Return a button that copies what `text` returns, a promise or not, and says whether it was. */
export function copyButton(text, word = "Copy", label = null) {
  return h("button", {
    type: "button", class: "quiet", "aria-label": label,
    onclick: async () => {
      try { await copy(await text()); tell("Copied"); }
      catch (error) { tell(`Not copied: ${error.message}`); }
    },
  }, word);
}
