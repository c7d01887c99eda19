// What a model has answered, as people read it: each output, and where its first row is largest.

import { classesOf } from "./classes.js";
import { h } from "./dom.js";
import { valueText } from "./format.js";

const MOST_VALUES = 8;

function largestOf(output) {
  const size = output.shape.at(-1);
  if (!/^(FP|BF)/.test(output.datatype) || output.shape.length < 2 || size < 2) return "–";
  const row = output.data.flat(Infinity).slice(0, size);
  const at = row.indexOf(Math.max(...row));
  return at < 0 ? "–" : `${valueText(row[at])} at index ${at}`;
}

/** Return the outputs of an answer, and the classes of those that are `classified`; null where its body has none as JSON. */
export function outputsOf(body, classified) {
  const outputs = (body?.outputs ?? []).filter((output) => Array.isArray(output.data) && Array.isArray(output.shape));
  if (!outputs.length) return null;
  const table = h("div", { class: "scroll short", tabindex: "0", role: "region", "aria-label": "Outputs" },
    h("table", { class: "free", "aria-label": "Outputs" },
      h("thead", null, h("tr", null, ["Output", "Type", "Values", "Largest of the first row"].map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", null, outputs.map((output) => {
        const values = output.data.flat(Infinity);
        return h("tr", { class: "row" }, h("td", null, output.name), h("td", null, `${output.datatype} [${output.shape.join(", ")}]`),
          h("td", { class: "mono" }, `${values.slice(0, MOST_VALUES).map(valueText).join(", ")}${values.length > MOST_VALUES ? ", …" : ""}`), h("td", null, largestOf(output)));
      }))));
  const scored = outputs.filter((output) => classified.includes(output.name) && output.datatype === "BYTES");
  return scored.length ? h("div", null, scored.map(classesOf), table) : table;
}
