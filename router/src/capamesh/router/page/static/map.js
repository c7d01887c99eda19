// A map of all nodes: a square each, by region, coloured by health. It is drawn, so that ten thousand are no burden.

import { h, say } from "./dom.js";
import { nodeName, number, plural } from "./format.js";
import { ORDER, counted, nodeKind, nodeWord } from "./health.js";

const KINDS = [["good", "usable"], ["warn", "suspected, recovering or lately failing"], ["bad", "not usable"], ["off", "draining or held open"]];
const MOST_PX = 20, LEAST_PX = 3, ROOM_PX = 150;

const compared = (one, other) => one < other ? -1 : Number(one > other);

export function nodeMap() {
  const canvas = h("canvas", { class: "map", role: "img" });
  const legend = h("div", { class: "legend" });
  const hint = h("div", { class: "hint" });
  const element = h("div", null, canvas, h("div", { class: "below" }, legend, hint));
  let nodes = [], size = MOST_PX, columns = 1;

  function draw() {
    const width = canvas.clientWidth || 600, scale = devicePixelRatio || 1;
    size = MOST_PX;
    while (size > LEAST_PX && Math.ceil(nodes.length / Math.floor(width / size)) * size > ROOM_PX) size -= 1;
    columns = Math.max(1, Math.floor(width / size));
    const height = Math.max(size, Math.ceil(nodes.length / columns) * size);
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const colours = Object.fromEntries(KINDS.map(([kind]) => [kind, style.getPropertyValue(`--${kind}`)]));
    const gap = size > 8 ? 3 : 1;
    pen.scale(scale, scale);
    let last = "";
    nodes.forEach(([, node], at) => {
      const kind = nodeKind(node);
      if (kind !== last) pen.fillStyle = colours[last = kind];
      pen.fillRect((at % columns) * size, Math.floor(at / columns) * size, size - gap, size - gap);
    });
  }

  function at(event) {
    const column = Math.floor(event.offsetX / size);
    return column < columns ? nodes[Math.floor(event.offsetY / size) * columns + column] : undefined;
  }

  canvas.addEventListener("pointermove", (event) => {
    const found = at(event);
    say(hint, found ? `${nodeName(...found)}: ${nodeWord(found[1])}${found[1].region ? `, ${found[1].region}` : ""}${found[1].reason ? `, ${found[1].reason}` : ""}` : "");
  });
  canvas.addEventListener("click", (event) => {
    const found = at(event);
    if (found) location.hash = `#/node/${encodeURIComponent(found[0])}`;
  });
  const resized = new ResizeObserver(() => draw());
  resized.observe(element);
  const themed = new MutationObserver(() => draw());
  themed.observe(document.documentElement, { attributeFilter: ["data-theme"] });

  return {
    element,
    set(given) {
      const kinds = counted(given);
      nodes = [...given].sort(([one, a], [other, b]) => ORDER[nodeKind(a)] - ORDER[nodeKind(b)] || compared(a.region, b.region) || compared(one, other));
      const told = KINDS.filter(([kind]) => kinds[kind]);
      canvas.setAttribute("aria-label", `${plural(given.size, "node")}: ${told.map(([kind, word]) => `${number(kinds[kind])} ${word}`).join(", ")}`);
      legend.replaceChildren(...told.map(([kind, word]) => h("span", null, h("i", { class: `fill-${kind}` }), `${number(kinds[kind])} ${word}`)));
      canvas.classList.toggle("hidden", !given.size);
      draw();
    },
    close: () => { resized.disconnect(); themed.disconnect(); },
  };
}
