// The links from this router to the workers of all nodes.

import { badge, h } from "./dom.js";
import { micros, nodeName, number } from "./format.js";
import { ORDER } from "./health.js";
import { nodeLink } from "./fleet.js";
import { table } from "./table.js";

const isDraining = (link, node) => link.is_up && node.state === "draining";

export function linkKind(link, node) {
  if (isDraining(link, node)) return "off";
  if (!link.is_up || !link.is_usable || link.state === "ejected") return "bad";
  return link.state === "closed" && !link.is_suspected ? "good" : "warn";
}

export function linkWord(link, node) {
  if (isDraining(link, node)) return "draining";
  if (!link.is_up) return "down";
  if (!link.is_usable) return "not usable";
  if (link.state !== "closed") return link.state.replace("forced_open", "held open").replace("forced_closed", "held closed");
  return link.is_suspected ? "suspected" : "up";
}

const reason = ({ link }) => link.last_error || link.reason;

export function linksView() {
  const links = table({
    label: "Links", search: "Find a node or an address", empty: "There is no link: no node is known that can be reached.",
    columns: [
      { title: "State", width: "8rem", value: ({ link, node }) => `${ORDER[linkKind(link, node)]} ${linkWord(link, node)}`, show: ({ link, node }) => badge(linkKind(link, node), linkWord(link, node)) },
      { title: "Node", value: ({ peer, node }) => nodeName(peer, node), show: ({ peer, node }) => nodeLink(peer, node) },
      { title: "Address", value: ({ link }) => link.address, show: ({ link }) => h("span", { class: "mono" }, link.address) },
      { title: "RTT", width: "6.5rem", isNumber: true, value: ({ counts }) => counts[0], show: ({ counts }) => micros(counts[0] || null) },
      { title: "In flight", width: "6.5rem", isNumber: true, value: ({ counts }) => counts[1] },
      { title: "Answered", width: "7rem", isNumber: true, isLess: true, value: ({ counts }) => counts[2], show: ({ counts }) => number(counts[2]) },
      { title: "Failed", width: "6rem", isNumber: true, isLess: true, value: ({ counts }) => counts[3], show: ({ counts }) => number(counts[3]) },
      { title: "Reason", isLess: true, value: reason, show: (row) => reason(row) || "–" },
    ],
  });
  return {
    elements: [h("div", { class: "head" }, h("h1", null, "Links"), h("span", { class: "muted" }, "one to each worker of each node, as this router sees it")), h("section", { class: "panel" }, links.element)],
    update({ nodes }) {
      const rows = [];
      for (const [peer, node] of nodes) node.links.forEach((link, at) => rows.push({ peer, node, link, counts: node.counts[at] ?? [0, 0, 0, 0] }));
      links.set(rows);
    },
  };
}
