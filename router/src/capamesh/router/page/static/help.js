// The keys of the page, and the help that tells them.

import { h } from "./dom.js";

const OFF = "keysAreOff";
const KEYS = [["1 to 6", "go to a view"], ["/", "find in the table"], ["t", "light or dark"], ["?", "this help"], ["Esc", "close it"]];

function areOff() {
  try { return localStorage.getItem(OFF) !== null; } catch { return false; }
}

function turn(isOn) {
  try { if (isOn) localStorage.removeItem(OFF); else localStorage.setItem(OFF, "1"); } catch { /* they stay on */ }
}

const isTyping = (element) => /^(INPUT|TEXTAREA|SELECT)$/.test(element?.tagName);

/** Listen for keys: `views` are the names of the views in order, `flip` changes the theme. Return the button that opens the help. */
export function keys(views, flip) {
  const box = h("input", { type: "checkbox", checked: !areOff(), onchange: () => turn(box.checked) });
  const dialog = h("dialog", { "aria-labelledby": "help-title" },
    h("h2", { id: "help-title" }, "Keys"),
    h("dl", null, KEYS.map(([key, does]) => [h("dt", null, h("kbd", null, key)), h("dd", null, does)])),
    h("p", null, h("label", { class: "check" }, box, "One key alone is enough")),
    h("form", { method: "dialog" }, h("button", null, "Close")));
  document.body.append(dialog);
  const actions = {
    "?": () => dialog.showModal(),
    "/": () => document.querySelector("main input[type=search]")?.focus(),
    t: flip,
    ...Object.fromEntries(views.map((view, at) => [String(at + 1), () => { location.hash = `#/${view}`; }])),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open || isTyping(event.target) || areOff()) return;
    const act = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (act) { event.preventDefault(); act(); }
  });
  return h("button", { type: "button", class: "quiet", "aria-label": "Keys of this page", onclick: () => dialog.showModal() }, "?");
}
