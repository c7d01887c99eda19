// Why this node: what would become of a request now, by what it asks; and what failed or took long of late.

import { badge, h, say } from "./dom.js";
import { endedPanel } from "./ended.js";
import { explanationOf } from "./explain.js";
import { percent } from "./format.js";
import { get } from "./store.js";

const HEADERS = [["X-Capamesh-Policy", "Policy", "as configured"], ["X-Capamesh-Region", "Region", "any"], ["X-Capamesh-Device", "Device", "any"], ["X-Capamesh-Max-Price", "Most it may cost", "anything"]];

export function requestView(given) {
  const models = h("select", { onchange: ask });
  const tenant = h("input", { placeholder: "none" });
  const priority = h("input", { type: "number", placeholder: "0", min: 0 });
  const options = HEADERS.map(([, , none]) => h("input", { placeholder: none }));
  const found = h("div", { role: "status", class: "muted" }, "Choose a model.");
  let known = "";

  async function ask(event) {
    event?.preventDefault();
    if (!models.value) return;
    const query = new URLSearchParams();
    if (tenant.value) query.set("tenant", tenant.value);
    if (priority.value) query.set("priority", priority.value);
    const headers = { Accept: "application/json" };
    HEADERS.forEach(([name], at) => { if (options[at].value) headers[name] = options[at].value; });
    try {
      const reply = await fetch(`v1/models/${encodeURIComponent(models.value)}/routing?${query}`, { headers });
      const body = await reply.json();
      found.className = "";
      if (!reply.ok) { found.replaceChildren(badge("bad", String(reply.status)), ` ${body.error ?? ""}`); return; }
      const { admission } = body;
      found.replaceChildren(
        h("p", null, admission.is_admitted ? badge("good", "let in") : badge("bad", `refused: ${admission.code}`), ` class ${admission.class}, the model's nodes are ${percent(admission.level)} full. `, admission.error ?? ""),
        explanationOf(body),
        h("p", null, h("a", { href: `#/model/${encodeURIComponent(models.value)}` }, "Send one"), " to see where it really goes."));
    } catch (error) { say(found, error.message); }
  }

  return {
    elements: [
      h("div", { class: "head" }, h("h1", null, "Why this node?"), h("span", { class: "muted" }, "what would become of a request now; nothing is sent to a node")),
      h("section", { class: "panel" },
        h("form", { class: "fields", onsubmit: ask },
          h("label", null, "Model", models), h("label", null, "Tenant", tenant), h("label", null, "Priority", priority),
          HEADERS.map(([, label], at) => h("label", null, label, options[at])), h("button", { class: "primary" }, "Explain")),
        found),
      endedPanel().element,
    ],
    update({ models: all }) {
      const names = [...new Set([...all.values()].map((model) => model.name))].sort();
      const text = names.join("\n");
      if (text === known) return;
      known = text;
      const chosen = models.value || given;
      models.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
      models.value = names.includes(chosen) ? chosen : names[0] ?? "";
      ask();
    },
  };
}
