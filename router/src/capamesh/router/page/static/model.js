// One model: its versions, its history, a request to try, and the nodes that would get it.

import { badge, h, say } from "./dom.js";
import { charts } from "./charts.js";
import { explanationOf } from "./explain.js";
import { number } from "./format.js";
import { modelKind, modelWord } from "./health.js";
import { get } from "./store.js";
import { tryIt } from "./tryit.js";
import { nodeName } from "./format.js";

const HOUR_S = 3600;

export function modelView(name) {
  const versions = h("div"), hosts = h("div", { role: "status" }, "Loading …");
  const history = charts({ hasFleet: false });
  let last = "";
  history.load(name, HOUR_S);
  explain();

  async function explain() {
    try { hosts.replaceChildren(explanationOf(await get(`v1/models/${encodeURIComponent(name)}/routing`))); }
    catch (error) { say(hosts, error.message); }
  }

  return {
    elements: [
      h("div", { class: "head" }, h("h1", null, name), h("a", { href: `#/request/${encodeURIComponent(name)}` }, "Why this node?")),
      h("section", { class: "panel" }, h("h2", null, "Versions"), versions),
      tryIt(name).element,
      history.element,
      h("section", { class: "panel" }, h("div", { class: "bar" }, h("h2", null, "Where a request would go now"), h("span", { class: "grow" }), h("button", { type: "button", class: "quiet", onclick: explain }, "Ask again")), hosts),
    ],
    update({ models, nodes }) {
      const found = [...models.values()].filter((model) => model.name === name);
      const text = JSON.stringify(found);
      if (text === last) return;
      last = text;
      versions.replaceChildren(found.length ? h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Versions" }, h("table", { class: "free", "aria-label": "Versions" },
        h("thead", null, h("tr", null, ["State", "Version", "Ready at", "Loading", "Failed", "In flight"].map((head, at) => h("th", { scope: "col", class: at > 1 ? "num" : null }, head)))),
        h("tbody", null, found.map((model) => [
          h("tr", { class: "row" }, h("td", null, badge(modelKind(model), modelWord(model))), h("td", null, `${model.version}${model.is_newest ? " ★" : ""}`),
            ...[model.nodes_ready, model.nodes_loading, model.nodes_failed, model.requests_in_flight].map((value) => h("td", { class: "num" }, number(value)))),
          model.choice && h("tr", null, h("td", null, badge("warn", "two files")), h("td", { colspan: 5 }, model.choice)),
          ...model.failed_at.map((failure) => h("tr", null, h("td", null, badge("bad", "failed")), h("td", { colspan: 5 }, `at ${nodeName(failure.peer_id, nodes.get(failure.peer_id))}: ${failure.reason}`))),
        ])))) : h("p", { class: "muted" }, "No node that this router hears of has this model."));
    },
    close: () => history.close(),
  };
}
