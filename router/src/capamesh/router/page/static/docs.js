// The page at /docs: all routes as the router describes them, with a form for each.

import { h, say } from "./dom.js";
import { operationOf } from "./operation.js";
import { themed } from "./theme.js";

/** The address of the router: this file lies two folders below it. */
const ROOT = new URL("../../", import.meta.url);

themed(document.getElementById("theme"));
const main = document.getElementById("main");
// the key is kept nowhere: it is gone with the page
const key = h("input", { type: "password", autocomplete: "off", placeholder: "none", spellcheck: "false" });
const search = h("input", { type: "search", placeholder: "Find a route", "aria-label": "Find a route", oninput: () => find(search.value) });
let shown = [];

function find(text) {
  const words = text.toLowerCase().split(/\s+/);
  for (const { element, about } of shown) element.classList.toggle("hidden", !words.every((word) => about.includes(word)));
}

async function start() {
  const headers = key.value ? { Authorization: `Bearer ${key.value}` } : {};
  const reply = await fetch(new URL("openapi.json", ROOT), { headers });
  const found = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(found.error ?? `the router answered with status ${reply.status}`);
  show(found);
}

function show(description) {
  const operations = Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation })));
  shown = [];
  const groups = description.tags.map(({ name, description: text }) => {
    const routes = operations.filter(({ operation }) => operation.tags[0] === name).map((each) => {
      const element = operationOf(each, description, ROOT, () => key.value);
      shown.push({ element, about: `${each.method} ${each.path} ${each.operation.summary}`.toLowerCase() });
      return element;
    });
    return h("section", { class: "panel", "aria-label": name }, h("h2", null, name), h("p", { class: "muted" }, text), routes);
  });
  main.replaceChildren(
    h("div", { class: "head" }, h("h1", null, "API"), h("span", { class: "muted" }, `version ${description.info.version}; for programs: `, h("a", { href: new URL("openapi.json", ROOT).href }, "openapi.json"))),
    h("div", { class: "fields few" }, search, h("label", null, "Key", key)),
    ...groups);
}

const problem = h("p", { role: "status", class: "muted" });
const retry = h("form", { class: "panel", onsubmit: (event) => { event.preventDefault(); begin(); } },
  problem, h("div", { class: "fields few" }, h("label", null, "Key", key), h("button", { class: "primary" }, "Try again")));

function begin() {
  start().catch((error) => { say(problem, error.message); main.replaceChildren(h("h1", null, "API"), retry); });
}

begin();
