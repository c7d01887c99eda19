// What is well and what is not: one kind (good, warn, bad, off) and one word for each node and model.

const NODE_KINDS = {
  usable: "good", ramping: "warn", suspected: "warn", inhibited: "warn", draining: "off",
  ejected: "bad", forced_open: "off", unusable: "bad", lost: "bad",
};
const NODE_WORDS = { forced_open: "held open" };
const SOON = 0.1;
export const ORDER = { bad: 0, warn: 1, off: 2, good: 3 };

export const nodeKind = (node) => NODE_KINDS[node.state] ?? "warn";
export const nodeWord = (node) => NODE_WORDS[node.state] ?? node.state;

export function modelKind(model) {
  if (model.nodes_ready && model.is_reached) return model.nodes_failed ? "warn" : "good";
  if (model.nodes_loading || model.nodes_ready) return "warn";
  return model.nodes_failed ? "bad" : "off";
}

export function modelWord(model) {
  if (model.nodes_ready && model.is_reached) return "ready";
  if (model.nodes_ready) return "out of reach";
  if (model.nodes_loading) return "loading";
  return model.nodes_failed ? "failed" : "not loaded";
}

/** Return how many nodes are of each kind. */
export function counted(nodes) {
  const found = { good: 0, warn: 0, bad: 0, off: 0 };
  for (const node of nodes.values()) found[nodeKind(node)] += 1;
  return found;
}

/** Return the part of a membership's life that is left, from 1 to 0. */
function lifeLeft(since, until) {
  const end = Date.parse(until);
  return (end - Date.now()) / (end - Date.parse(since));
}

/** Return what somebody should look at, the worst first: {kind, word, what, href, why}. */
export function attention(state) {
  const found = [];
  const add = (kind, word, what, href, why) => found.push({ kind, word, what, href, why });
  const { router } = state;
  for (const [peer, node] of state.nodes) {
    if (node.state === "lost") add("bad", "lost", { peer, node }, `#/node/${encodeURIComponent(peer)}`, node.reason);
  }
  for (const short of router.models_short ?? []) {
    add(short.nodes_ready ? "warn" : "bad", "short of nodes", `${short.name}/${short.version}`, `#/model/${encodeURIComponent(short.name)}`,
      `${short.nodes_ready || "no"} node${short.nodes_ready === 1 ? " has" : "s have"} it ready, ${short.nodes_before} had before ${short.lost.join(", ")} was lost`);
  }
  if (router.state && router.state !== "ready") add("bad", router.state, "This router", "#/fleet", router.reason);
  if (router.life_left === "tenth") {
    add("warn", "expiring", "This router's membership", "#/fleet", `it ends at ${router.expires_at}: give it a new token`);
  }
  for (const [peer, node] of state.nodes) {
    const href = `#/node/${encodeURIComponent(peer)}`;
    const kind = nodeKind(node);
    if (node.state !== "lost" && (kind === "bad" || kind === "warn")) add(kind, nodeWord(node), { peer, node }, href, node.reason);
    if (node.member_until && lifeLeft(node.member_since, node.member_until) <= SOON) {
      add("warn", "expiring", { peer, node }, href, `its membership ends at ${node.member_until}`);
    }
    if (node.models_on_cpu) {
      const more = node.models_on_cpu > node.on_cpu.length ? " and more" : "";
      add("warn", "on the CPU", { peer, node }, href, `${node.on_cpu.join(", ")}${more} run on the CPU of a node with an accelerator`);
    }
  }
  for (const [name, model] of state.models) {
    if (model.nodes_failed) {
      add(model.nodes_ready ? "warn" : "bad", "failing", name, `#/model/${encodeURIComponent(model.name)}`,
        `at ${model.nodes_failed} node${model.nodes_failed === 1 ? "" : "s"}: ${model.failed_at[0]?.reason ?? ""}`);
    } else if (model.choice) {
      add(model.is_reached ? "warn" : "bad", "two files", name, `#/model/${encodeURIComponent(model.name)}`, model.choice);
    } else if (model.nodes_ready && !model.is_reached) {
      add("bad", "out of reach", name, `#/model/${encodeURIComponent(model.name)}`, "no node that has it can be reached");
    }
  }
  return found.sort((one, other) => ORDER[one.kind] - ORDER[other.kind]);
}
