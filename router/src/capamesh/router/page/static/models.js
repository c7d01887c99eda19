// All models of the fleet.

import { badge, copyButton, h } from "./dom.js";
import { micros, number, short } from "./format.js";
import { ORDER, modelKind, modelWord } from "./health.js";
import { curlFor } from "./sample.js";
import { table } from "./table.js";

export function modelsView() {
  const models = table({
    label: "Models", sorted: 1, search: "Find a model",
    empty: "No node hosts a model. Put NAME.onnx into the models folder of a node: it serves it a few seconds later.",
    columns: [
      { title: "State", width: "7.5rem", value: (model) => `${ORDER[modelKind(model)]} ${modelWord(model)}`, show: (model) => badge(modelKind(model), modelWord(model)) },
      { title: "Model", value: (model) => model.name, show: (model) => h("a", { href: `#/model/${encodeURIComponent(model.name)}` }, model.name) },
      { title: "Version", width: "5.5rem", value: (model) => model.version, show: (model) => model.is_newest ? `${model.version} ★` : model.version },
      { title: "Nodes", width: "5rem", isNumber: true, value: (model) => model.nodes_ready },
      { title: "Loading", width: "6rem", isNumber: true, isLess: true, value: (model) => model.nodes_loading },
      { title: "Failed", width: "5.2rem", isNumber: true, isLess: true, value: (model) => model.nodes_failed },
      { title: "In flight", width: "6rem", isNumber: true, isLess: true, value: (model) => model.requests_in_flight },
      { title: "Req/s", width: "5rem", isNumber: true, value: (model) => model.traffic.requests_per_s ?? 0, show: (model) => short(model.traffic.requests_per_s ?? 0) },
      { title: "Errors/s", width: "6rem", isNumber: true, isLess: true, value: (model) => model.traffic.errors_per_s ?? 0, show: (model) => short(model.traffic.errors_per_s ?? 0) },
      { title: "p50", width: "5.5rem", isNumber: true, isLess: true, value: (model) => model.traffic.p50_us, show: (model) => micros(model.traffic.p50_us) },
      { title: "p99", width: "5.5rem", isNumber: true, value: (model) => model.traffic.p99_us, show: (model) => micros(model.traffic.p99_us) },
      { title: "Request", width: "7.5rem", isLess: true, value: () => "", show: (model) => copyButton(() => curlFor(model.name), "Copy curl", `Copy curl for ${model.name}`) },
    ],
  });
  return {
    elements: [
      h("div", { class: "head" }, h("h1", null, "Models"), h("span", { class: "muted" }, "★ is the version of a request that names none; requests, errors and latencies are of the last 10 s and of all versions")),
      h("section", { class: "panel" }, models.element),
    ],
    update: ({ models: found }) => models.set([...found.values()]),
  };
}
