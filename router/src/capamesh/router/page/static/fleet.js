// The fleet: what needs somebody's attention, the map of all nodes, and the table of them.

import { badge, h, say, tile } from "./dom.js";
import { firstSteps } from "./first.js";
import { bytes, micros, nodeName, number, plural, short } from "./format.js";
import { ORDER, attention, counted, nodeKind, nodeWord } from "./health.js";
import { nodeMap } from "./map.js";
import { table } from "./table.js";

const SHOWN = 8, OF_A_KIND = 2, MOST_SHOWN = 200;

export const nodeLink = (peer, node) => h("a", { href: `#/node/${encodeURIComponent(peer)}`, title: peer }, nodeName(peer, node));
export const inFlight = (node) => node.counts.reduce((sum, counts) => sum + counts[1], 0);
export const deviceText = (node) => node.devices.map((device) => device.name || device.kind).join(", ");
const answered = (node) => node.counts.reduce((sum, counts) => sum + counts[2], 0);
const failed = (node) => node.counts.reduce((sum, counts) => sum + counts[3], 0);
const fastest = (node) => node.counts.length ? Math.min(...node.counts.map((counts) => counts[0])) : null;

const COLUMNS = [
  { title: "State", width: "8rem", value: ([, node]) => `${ORDER[nodeKind(node)]} ${nodeWord(node)}`, show: ([, node]) => badge(nodeKind(node), nodeWord(node)) },
  { title: "Node", value: ([peer, node]) => node.name ? `${node.name} ${peer}` : peer, show: ([peer, node]) => nodeLink(peer, node) },
  { title: "Region", width: "7rem", isLess: true, value: ([, node]) => node.region, show: ([, node]) => node.region || "–" },
  { title: "Devices", isLess: true, value: ([, node]) => deviceText(node) },
  { title: "Memory free", width: "8rem", isNumber: true, isLess: true, value: ([, node]) => node.devices.reduce((sum, device) => sum + device.memory_free_bytes, 0), show: ([, node]) => bytes(node.devices.reduce((sum, device) => sum + device.memory_free_bytes, 0)) },
  { title: "Models", width: "6.5rem", isNumber: true, value: ([, node]) => node.models_ready, show: ([, node]) => `${node.models_ready} of ${node.models}` },
  { title: "RTT", width: "6rem", isNumber: true, isLess: true, value: ([, node]) => fastest(node), show: ([, node]) => micros(fastest(node) || null) },
  { title: "In flight", width: "6.5rem", isNumber: true, value: ([, node]) => inFlight(node) },
  { title: "Answered", width: "7rem", isNumber: true, isLess: true, value: ([, node]) => answered(node), show: ([, node]) => number(answered(node)) },
  { title: "Failed", width: "6rem", isNumber: true, isLess: true, value: ([, node]) => failed(node), show: ([, node]) => number(failed(node)) },
];

/** Return the few that are shown at first, in their order: some of each word, so that many of one hide no other. */
function worst(found) {
  const seen = new Map(), first = [], others = [];
  for (const each of found) {
    const count = seen.get(each.word) ?? 0;
    seen.set(each.word, count + 1);
    (count < OF_A_KIND ? first : others).push(each);
  }
  const shown = new Set([...first, ...others].slice(0, SHOWN));
  return found.filter((each) => shown.has(each));
}

export function fleetView() {
  const tiles = { nodes: tile("Nodes usable"), models: tile("Models ready"), requests: tile("Requests a second"), flight: tile("In flight") };
  const list = h("ul", { class: "attention" });
  const more = h("button", { type: "button", class: "quiet", onclick: () => { isWhole = !isWhole; last = ""; view.update(held); } });
  const map = nodeMap();
  const nodes = table({
    label: "Nodes", columns: COLUMNS, search: "Find a node, region or device",
    empty: "No node has been heard of.",
  });
  const first = firstSteps();
  const routers = h("p", { class: "muted", role: "status" });
  const health = h("section", { class: "panel", "aria-label": "Map of all nodes" }, h("h2", null, "Nodes by health"), map.element);
  const all = h("section", { class: "panel", "aria-label": "Table of all nodes" }, nodes.element);
  let isWhole = false, last = "", held = null;

  const view = {
    elements: [
      h("div", { class: "head" }, h("h1", null, "Fleet"), routers),
      h("div", { class: "tiles" }, Object.values(tiles).map((each) => each.element)),
      h("section", { class: "panel", "aria-label": "Attention" }, h("h2", null, "Attention"), list, more),
      first, health, all,
    ],
    update(state) {
      held = state;
      const isEmpty = !state.nodes.size;
      first.classList.toggle("hidden", !isEmpty || state.live === "loading");
      for (const each of [health, all]) each.classList.toggle("hidden", isEmpty);
      const known = state.router.routers ?? [];
      say(routers, known.length > 1 ? `${known.length} routers: ${known.map((each) => `${each.name}${each.is_this ? " (this one)" : ""}`).join(", ")}` : "");
      const kinds = counted(state.nodes);
      const usable = kinds.good + kinds.warn;
      const models = [...state.models.values()];
      tiles.nodes.set(`${number(usable)} of ${number(state.nodes.size)}`, kinds.bad ? `${plural(kinds.bad, "node")} cannot be used` : "");
      const ready = models.filter((model) => model.is_reached).length;
      tiles.models.set(`${number(ready)} of ${number(models.length)}`, ready < models.length ? `${plural(models.length - ready, "version")} not ready` : "");
      const traffic = new Map(models.map((model) => [model.name, model.traffic]));
      const sum = (name) => [...traffic.values()].reduce((total, each) => total + (each[name] ?? 0), 0);
      tiles.requests.set(short(sum("requests_per_s")), sum("errors_per_s") ? `${short(sum("errors_per_s"))} errors a second` : "in the last 10 s");
      let flight = 0;
      for (const node of state.nodes.values()) flight += inFlight(node);
      tiles.flight.set(number(flight), "at all nodes");
      drawAttention(attention(state), state);
      map.set(state.nodes);
      nodes.set([...state.nodes]);
    },
    close: () => map.close(),
  };

  function drawAttention(found, state) {
    const text = JSON.stringify([state.nodes.size > 0, found.map(({ kind, word, href, why }) => [kind, word, href, why])]);
    if (text === last) return;
    last = text;
    const shown = isWhole ? found.slice(0, MOST_SHOWN) : worst(found);
    const name = (what) => typeof what === "string" ? what : nodeName(what.peer, what.node);
    if (!found.length) {
      list.replaceChildren(h("li", null, h("span", null, badge("good", "all well")), h("span", { class: "muted" },
        state.nodes.size ? "Every node can be used and every model is served." : "Nothing is wrong, and nothing is here yet.")));
    } else {
      list.replaceChildren(...shown.map(({ kind, word, what, href, why }) => h("li", null,
        h("span", null, badge(kind, word)), h("span", null, h("a", { href }, name(what)), why && h("span", { class: "why" }, ` ${why}`)))));
    }
    more.classList.toggle("hidden", found.length <= SHOWN);
    say(more, isWhole ? "Show the worst alone" : found.length > MOST_SHOWN ? `Show the first ${MOST_SHOWN} of ${number(found.length)}` : `Show all ${found.length}`);
  }
  return view;
}
