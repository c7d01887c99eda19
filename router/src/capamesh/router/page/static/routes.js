// All routes of this router, as it lists them itself.

import { h, say } from "./dom.js";
import { get } from "./store.js";
import { table } from "./table.js";

export function routesView() {
  const failed = h("p", { class: "muted", role: "status" });
  const routes = table({
    label: "Routes", sorted: 1, search: "Find a route", empty: "Loading …",
    columns: [
      { title: "Method", width: "6.5rem", value: (route) => route.method },
      { title: "Path", width: "45%", value: (route) => route.path, show: (route) => h("code", null, route.path) },
      { title: "Does", value: (route) => route.does },
    ],
  });
  get("").then((found) => routes.set(found.routes), (error) => say(failed, error.message));
  return {
    elements: [
      h("div", { class: "head" }, h("h1", null, "API"), h("a", { href: "docs" }, "Try them"), h("span", { class: "muted" }, "the same as JSON: curl this address")),
      h("section", { class: "panel" }, failed, routes.element),
    ],
  };
}
