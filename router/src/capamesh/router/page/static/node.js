// One node: its devices, its links, and its models with the reasons of those that fail.

import { badge, h, say } from "./dom.js";
import { bytes, micros, nodeName, number } from "./format.js";
import { nodeKind, nodeWord } from "./health.js";
import { get } from "./store.js";
import { table } from "./table.js";
import { linkKind, linkWord } from "./links.js";

const MODEL_KINDS = { ready: "good", loading: "warn", unloading: "off", unloaded: "off", failed: "bad" };

export function nodeView(peer) {
  const title = h("h1"), state = h("span"), why = h("p", { class: "muted" }), facts = h("dl"), links = h("div");
  const failed = h("p", { class: "muted", role: "status" });
  const models = table({
    label: "Models of this node", search: "Find a model", empty: "It hosts no model.",
    columns: [
      { title: "Model", value: (model) => model.name, show: (model) => h("a", { href: `#/model/${encodeURIComponent(model.name)}` }, model.name) },
      { title: "Version", width: "6rem", value: (model) => model.version },
      { title: "State", width: "7rem", value: (model) => model.state, show: (model) => badge(MODEL_KINDS[model.state] ?? "off", model.state) },
      { title: "Runs on", isLess: true, value: (model) => [model.provider, model.precision].filter(Boolean).join(", ") },
      { title: "Memory", width: "7rem", isNumber: true, isLess: true, value: (model) => model.memory_bytes, show: (model) => bytes(model.memory_bytes) },
      { title: "A row", width: "6.5rem", isNumber: true, isLess: true, value: (model) => model.row_us, show: (model) => micros(model.row_us || null) },
      { title: "Reason", value: (model) => model.reason, show: (model) => model.reason || "–" },
    ],
  });
  let isAsked = false, last = "";

  async function load() {
    try {
      const node = await get(`v1/nodes/${encodeURIComponent(peer)}`);
      models.set(node.models);
    } catch (error) { say(failed, error.message); }
  }

  return {
    elements: [
      h("div", { class: "head" }, title, state),
      h("div", { class: "two" }, h("section", { class: "panel" }, h("h2", null, "Node"), why, facts), h("section", { class: "panel" }, h("h2", null, "Links"), links)),
      h("section", { class: "panel" }, h("h2", null, "Models"), failed, models.element),
    ],
    update({ nodes, live }) {
      const node = nodes.get(peer);
      say(title, nodeName(peer, node));
      if (!node) {
        say(why, live === "live" ? "This router does not hear of this node now." : "Loading …");
        return;
      }
      if (node.state !== "lost" && !isAsked) { isAsked = true; load(); }
      const text = JSON.stringify(node);
      if (text === last) return;
      last = text;
      state.replaceChildren(badge(nodeKind(node), nodeWord(node)));
      say(why, node.reason);
      const rows = [
        ["Peer id", h("span", { class: "mono" }, peer)], ["Region", node.region || "–"], ["Agent version", node.agent_version || "–"],
        ["Price of a million rows", number(node.price_per_million)],
        ...node.devices.map((device) => ["Device", `${device.name || device.kind} (${device.kind}), ${bytes(device.memory_free_bytes)} of ${bytes(device.memory_total_bytes)} free`]),
        ["Models ready", `${node.models_ready} of ${node.models}`], ["Lost at", node.lost_at ?? "–"],
      ];
      if (node.member_until) rows.push(["Membership ends", node.member_until]);
      facts.replaceChildren(...rows.flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
      links.replaceChildren(...(node.links.length ? node.links.map((link, at) => {
        const [rtt, flight, answered, failures] = node.counts[at] ?? [];
        return h("dl", null,
          h("dt", null, badge(linkKind(link, node), linkWord(link, node))), h("dd", { class: "mono" }, link.address),
          h("dt", null, "Round trip"), h("dd", null, micros(rtt || null)),
          h("dt", null, "Requests"), h("dd", null, `${number(flight)} in flight, ${number(answered)} answered, ${number(failures)} failed`),
          (link.last_error || link.reason) && [h("dt", null, "Reason"), h("dd", null, link.last_error || link.reason)]);
      }) : [h("p", { class: "muted" }, "There is no way to it.")]));
    },
  };
}
