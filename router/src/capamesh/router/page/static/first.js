// What to do first at a router that knows no node.

import { copyButton, h } from "./dom.js";

const STEPS = [
  ["On another machine, with what capamesh token prints where capamesh up runs:", "capamesh join TOKEN --models ./models"],
  ["In a network whose parts you run one by one, with a token for nodes:", "capamesh node run --data my-network/node --models ./models --token-file my-network/node.token"],
  ["If a node runs and is not shown here, it says itself why:", "capamesh node status --data my-network/node"],
];

/** Return a panel with the commands that add a node. */
export const firstSteps = () => h("section", { class: "panel first", "aria-label": "First steps" },
  h("h2", null, "No node is here yet"),
  h("p", { class: "muted" }, "Nodes run the models; this router sends them requests. A node is shown here a few seconds after it was started."),
  STEPS.map(([what, command]) => [h("p", null, what), h("div", { class: "command" }, h("pre", { tabindex: "0", "aria-label": "Command" }, command), copyButton(() => command))]));
