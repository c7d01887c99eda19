// The requests that failed or took long of late: by model and code, and the newest of each with the nodes that were asked.

import { badge, h, say, svg } from "./dom.js";
import { duration, micros, nodeName, plural } from "./format.js";
import { get, state } from "./store.js";

const HEADS = ["Node", "Sent after", "Took", "Queue", "Run", "Outcome"];
const us = (seconds) => seconds ? micros(seconds * 1e6) : "–";
const clockText = (seconds) => new Date(seconds * 1000).toLocaleTimeString();

/** Return `{ element, load() }`: a panel that is read when it is made, and again when it is asked to. */
export function endedPanel() {
  const list = h("div", { role: "status" }, "Loading …");
  const open = new Set();

  async function load() {
    try {
      const { kinds } = await get("v1/requests");
      list.replaceChildren(...(kinds.length ? kinds.map(kindOf) : [h("p", { class: "muted" }, "No request has failed or taken longer than a second since the router was started.")]));
    } catch (error) { say(list, error.message); }
  }

  function kindOf(kind) {
    const key = JSON.stringify([kind.model, kind.code]);
    const isSlow = kind.code === "ok";
    const body = h("div", { class: "requests" });
    const fill = () => { if (!body.firstChild) body.append(...requestsOf(kind)); };
    if (open.has(key)) fill();
    return h("details", {
      class: "kind", open: open.has(key),
      ontoggle: (event) => { if (event.target.open) { open.add(key); fill(); } else open.delete(key); },
    }, h("summary", null,
      badge(isSlow ? "warn" : "bad", isSlow ? "slow" : kind.code), h("span", { class: "what" }, kind.model || "a model that nobody hosts"),
      h("span", { class: "num" }, plural(kind.count, "time")), h("span", { class: "muted" }, `${duration(Math.max(0, Date.now() / 1000 - kind.last_at))} ago`),
      h("span", { class: "why" }, isSlow ? `answered after more than a second, the last after ${us(kind.newest[0]?.took_s)}` : kind.error)), body);
  }

  load();
  return {
    element: h("section", { class: "panel" },
      h("div", { class: "bar" }, h("h2", null, "Failed or slow of late"), h("span", { class: "grow" }), h("button", { type: "button", class: "quiet", onclick: load }, "Look again")),
      h("div", { class: "legend" }, [["sent", "on the way"], ["queue", "in the node's queue"], ["run", "running"]].map(([kind, word]) => h("span", null, h("i", { class: `part-${kind}` }), word))), list),
    load,
  };
}

function requestsOf(kind) {
  const left = kind.count - kind.newest.length;
  return [
    kind.model && h("p", null, h("a", { href: `#/model/${encodeURIComponent(kind.model)}` }, `Model ${kind.model}`)),
    ...kind.newest.map(requestOf),
    left > 0 && h("p", { class: "muted" }, `${plural(left, "request")} more, of which no times are kept.`),
  ].filter(Boolean);
}

function requestOf(request) {
  const version = request.version ? `, version ${request.version}` : "";
  const head = h("p", { class: "times" }, `${clockText(request.began_at)}: ${us(request.took_s)}${version}, ${plural(request.attempts.length, "attempt")}`);
  if (!request.attempts.length) return head;
  return h("div", null, head, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Attempts of the request of ${clockText(request.began_at)}` },
    h("table", { class: "free", "aria-label": "Attempts" },
      h("thead", null, h("tr", null, HEADS.map((head, at) => h("th", { scope: "col", class: at > 0 && at < 5 ? "num" : null }, head)), h("th", { scope: "col", class: "fall" }, `0 to ${us(request.took_s)}`))),
      h("tbody", null, request.attempts.map((attempt) => attemptOf(attempt, request.took_s))))));
}

function attemptOf(attempt, whole_s) {
  const isAnswer = attempt.outcome === "answered";
  return h("tr", { class: "row" },
    h("td", { title: attempt.peer_id }, h("a", { href: `#/node/${encodeURIComponent(attempt.peer_id)}` }, nodeName(attempt.peer_id, state.nodes.get(attempt.peer_id)))),
    [attempt.after_s, attempt.took_s, attempt.queue_s, attempt.run_s].map((value) => h("td", { class: "num" }, us(value))),
    h("td", null, badge(isAnswer ? "good" : "bad", isAnswer ? "answered" : "failed"), isAnswer ? "" : ` ${attempt.outcome}`),
    h("td", { class: "fall" }, waterfall(attempt, whole_s)));
}

// Where between sent and answered the node was at it is not known: half of the rest is drawn for each way.
function waterfall(attempt, whole_s) {
  const part = (seconds) => `${Math.min(100, Math.max(0, 100 * seconds / (whole_s || 1))).toFixed(2)}%`;
  const bar = (kind, from, took) => took > 0 && svg("rect", { class: kind, x: part(from), width: part(took), y: kind === "sent" ? 5 : 2, height: kind === "sent" ? 6 : 12, rx: 2 });
  const queued = attempt.after_s + Math.max(0, attempt.took_s - attempt.queue_s - attempt.run_s) / 2;
  return svg("svg", { class: "waterfall", role: "img", "aria-label": `sent after ${us(attempt.after_s)}, ended ${us(attempt.took_s)} later` },
    bar("sent", attempt.after_s, Math.max(attempt.took_s, whole_s / 200)), bar("queue", queued, attempt.queue_s), bar("run", queued + attempt.queue_s, attempt.run_s));
}
