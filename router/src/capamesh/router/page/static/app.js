// The frame of the page: which view is shown, whether it is current, light or dark.

import { h, say } from "./dom.js";
import { keys } from "./help.js";
import { start, state, watch } from "./store.js";
import { themed } from "./theme.js";
import { fleetView } from "./fleet.js";
import { nodeView } from "./node.js";
import { modelsView } from "./models.js";
import { modelView } from "./model.js";
import { requestView } from "./request.js";
import { linksView } from "./links.js";
import { historyView } from "./history.js";
import { routesView } from "./routes.js";

const VIEWS = {
  fleet: ["Fleet", fleetView], models: ["Models", modelsView], request: ["Request", requestView],
  links: ["Links", linksView], history: ["History", historyView], routes: ["API", routesView],
  node: [null, nodeView, "fleet"], model: [null, modelView, "models"],
};
const LIVE = { loading: ["", "loading"], live: ["on", "live"], lost: ["lost", "reconnecting"], refused: ["lost", "not allowed"], slow: ["", "every 15 s"] };

const main = document.getElementById("main");
const live = document.getElementById("live");
const banner = document.getElementById("banner");
const theme = document.getElementById("theme");
const links = new Map();
let shown = null;

const flip = themed(theme);

for (const [name, [title]] of Object.entries(VIEWS)) {
  if (title === null) continue;
  const link = h("a", { href: `#/${name}` }, title);
  links.set(name, link);
  document.getElementById("nav").append(link);
}

theme.before(keys([...links.keys()], flip));
if ("login" in document.documentElement.dataset) {
  const leave = () => fetch("logout", { method: "POST", redirect: "manual" }).then(() => location.reload(), () => location.reload());
  theme.after(h("button", { type: "button", class: "quiet", onclick: leave }, "Log out"));
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function route(event) {
  const [name = "fleet", parameter = ""] = location.hash.replace(/^#\/?/, "").split("/");
  const view = Object.hasOwn(VIEWS, name) ? name : "fleet";
  const [title, make, parent = view] = VIEWS[view];
  for (const [each, link] of links) {
    if (each === parent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  shown?.close?.();
  shown = make(decoded(parameter));
  main.replaceChildren(...shown.elements);
  document.title = `${title ?? decoded(parameter)} · Capamesh`;
  if (event) { main.focus({ preventScroll: true }); scrollTo(0, 0); }
  shown.update?.(state);
}

watch(() => {
  const [kind, word] = LIVE[state.live];
  live.className = `live ${kind}`;
  say(live, word);
  banner.className = `banner${state.live === "slow" ? " mild" : ""}${state.why ? "" : " hidden"}`;
  say(banner, state.why && (state.live !== "lost" || !state.nodes.size ? state.why : `${state.why} What is shown is of before; it goes on by itself.`));
  shown?.update?.(state);
});
addEventListener("hashchange", route);
route();
start();
