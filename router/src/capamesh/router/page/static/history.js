// The last day of this router, as it keeps it itself.

import { charts } from "./charts.js";
import { h } from "./dom.js";

const SPANS = [[3600, "1 hour"], [21600, "6 hours"], [86400, "24 hours"]];

export function historyView() {
  const span = h("select", { onchange: load }, SPANS.map(([seconds, word]) => h("option", { value: seconds }, word)));
  const model = h("select", { onchange: load }, h("option", { value: "" }, "all models"));
  const whole = h("div");
  let known = "", shown = null;

  function onModels(names) {
    const text = names.join("\n");
    if (text === known) return;
    known = text;
    const chosen = model.value;
    model.replaceChildren(h("option", { value: "" }, "all models"), ...names.map((name) => h("option", { value: name }, name)));
    model.value = names.includes(chosen) ? chosen : "";
  }

  function load() {
    shown?.close();
    shown = charts({ hasFleet: !model.value, onModels });
    whole.replaceChildren(shown.element);
    shown.load(model.value, Number(span.value));
  }
  load();

  return {
    elements: [
      h("div", { class: "head" }, h("h1", null, "History"), h("span", { class: "muted" }, "kept by this router since it was started, a day at most; latencies are read off buckets and are about right")),
      h("div", { class: "fields few" }, h("label", null, "Span", span), h("label", null, "Model", model)),
      whole,
    ],
    close: () => shown?.close(),
  };
}
