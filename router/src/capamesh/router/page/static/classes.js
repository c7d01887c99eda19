// The classes of an output of scores: which outputs have names for them, and the largest ones as people read them.

import { h } from "./dom.js";
import { valueText } from "./format.js";

/** How many of the largest scores of a row a sample request asks for. */
export const MOST_CLASSES = 3;
const MOST_SHOWN = 50, MOST_CHARS = 100;

/** Return the names of the outputs whose classes have names, by a model's configuration; none where that is not to be had. */
export const labelledOf = (config) => (config?.output ?? []).filter((output) => output.label_filename).map((output) => output.name);

/** Return the names of the outputs of which a request's body asks for classes. */
export function classifiedOf(body) {
  try { return (JSON.parse(body).outputs ?? []).filter((output) => output.parameters?.classification).map((output) => output.name); }
  catch { return []; }
}

/** Return a table of the classes of the first row of an output that came as texts "score:index:label". */
export function classesOf(output) {
  const rows = output.data.flat(Infinity).slice(0, Math.min(output.shape.at(-1), MOST_SHOWN)).map((text) => {
    const [score, index, ...label] = String(text).split(":");
    return h("tr", { class: "row" }, h("td", null, label.join(":").slice(0, MOST_CHARS) || "–"),
      h("td", { class: "num" }, valueText(Number(score))), h("td", { class: "num" }, index));
  });
  const name = `Classes of ${output.name}`;
  return h("div", { class: "scroll short", tabindex: "0", role: "region", "aria-label": name },
    h("table", { class: "free", "aria-label": name },
      h("thead", null, h("tr", null, [`Label (${output.name}, first row)`, "Score", "Class"].map((head, at) => h("th", { scope: "col", class: at ? "num" : null }, head)))),
      h("tbody", null, rows)));
}
