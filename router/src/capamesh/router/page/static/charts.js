// The charts of a model, or of the router, read again while they are in sight.

import { chart } from "./chart.js";
import { h, say } from "./dom.js";
import { micros, short } from "./format.js";
import { get } from "./store.js";

const EVERY_MS = 10000;

/** Return panels with charts: `{ element, load(model, span_s), close() }`. `onModels` is told which models have a history. */
export function charts({ hasFleet, onModels = () => {} }) {
  const all = [
    chart({ title: "Requests and errors a second", lines: [{ name: "requests_per_s", label: "requests" }, { name: "errors_per_s", label: "errors" }], show: short }),
    chart({ title: "Latency", lines: [{ name: "p50_us", label: "p50" }, { name: "p99_us", label: "p99", colour: 4 }], show: micros }),
  ];
  if (hasFleet) {
    all.push(
      chart({ title: "Requests in flight", lines: [{ name: "requests_in_flight", label: "in flight" }], show: short }),
      chart({ title: "Nodes", lines: [{ name: "nodes", label: "known" }, { name: "nodes_usable", label: "usable", colour: 3 }], show: short }),
    );
  }
  const failed = h("p", { class: "muted", role: "status" });
  const element = h("div", null, failed, h("div", { class: "two even" }, all.map((each) => h("section", { class: "panel" }, each.element))));
  let asked = null;

  async function load(model, span) {
    const mine = asked = {};
    try {
      const found = await get(`v1/page/history?span=${span}&model=${encodeURIComponent(model)}`);
      if (asked !== mine) return;
      say(failed, "");
      onModels(found.models);
      for (const each of all) each.set(found.series, found.point_s);
    } catch (error) {
      if (asked === mine) say(failed, error.message);
    }
    if (asked === mine) setTimeout(() => { if (asked === mine) load(model, span); }, EVERY_MS);
  }

  return { element, load, close: () => { asked = null; } };
}
