// Why a request goes where it goes: all candidates with what they are judged by.

import { badge, h } from "./dom.js";
import { micros, nodeName, number } from "./format.js";
import { state } from "./store.js";

const HEADS = ["", "Node", "In flight", "Expected", "RTT", "Price", "Region", "Why not"];

/** Return an explanation, of the header or of the route, as an element. */
export function explanationOf(explanation) {
  const rows = explanation.replicas.map((replica) => h("tr", { class: "row" },
    h("td", null, replica.is_chosen ? badge("good", "chosen") : replica.refusal ? badge("bad", "not eligible") : badge("off", "eligible")),
    h("td", { title: replica.peer_id }, h("a", { href: `#/node/${encodeURIComponent(replica.peer_id)}` }, nodeName(replica.peer_id, state.nodes.get(replica.peer_id)))),
    h("td", { class: "num" }, number(replica.requests_in_flight)),
    h("td", { class: "num" }, micros(replica.latency_us || null)),
    h("td", { class: "num" }, micros(replica.rtt_us)),
    h("td", { class: "num" }, number(replica.price_per_million)),
    h("td", null, replica.region || "–"),
    h("td", null, replica.refusal || (replica.state && replica.state !== "closed" ? replica.state : "–"))));
  const left = explanation.replica_count - explanation.replicas.length;
  return h("div", null,
    h("p", null, `Policy ${explanation.policy}, version ${explanation.version || "none"}, ${number(explanation.replica_count)} candidates${left > 0 ? `, ${left} of them not shown` : ""}.`),
    h("div", { class: "scroll short", tabindex: "0", role: "region", "aria-label": "Candidates" },
      h("table", { class: "free", "aria-label": "Candidates" }, h("thead", null, h("tr", null, HEADS.map((head, at) => h("th", { scope: "col", class: at > 1 && at < 6 ? "num" : null }, head || h("span", null, "Result"))))), h("tbody", null, rows))),
    explanation.attempts?.length > 0 && h("p", { class: "muted" }, `Attempts: ${explanation.attempts.map((attempt) => `${nodeName(attempt.peer_id, state.nodes.get(attempt.peer_id))} ${attempt.outcome}${attempt.ended_us === null ? "" : ` after ${micros(attempt.ended_us - attempt.sent_us)}`}`).join("; ")}`));
}
