// What the router says of now: one snapshot, then what changes. Views are told at most once a frame of the screen.

const AGAIN_MS = 3000;
const SLOW_MS = 15000;
const SILENT_MS = 45000;
const NO_KEY = new Set([401, 403, 407]);

export const state = { router: {}, nodes: new Map(), models: new Map(), live: "loading", why: "" };

const watchers = new Set();
let isDue = false;
let source = null;
let revision = "";
let heardMs = 0;

/** Call `watcher` after changes, until the function that this returns is called. */
export function watch(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

function changed() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => { isDue = false; for (const watcher of [...watchers]) watcher(); });
}

function set(live, why = "") {
  state.live = live;
  state.why = why;
  changed();
}

/** Return the JSON at a path below this page's address; throw an error with the router's words. */
export async function get(path) {
  const reply = await fetch(path, { headers: { Accept: "application/json" } });
  let body;
  try { body = await reply.json(); } catch { body = {}; }
  if (!reply.ok) throw Object.assign(new Error(body.error || `the router answered with status ${reply.status}`), { status: reply.status, code: body.code });
  return body;
}

export async function start() {
  try {
    const found = await get("v1/page/snapshot");
    state.router = found.router;
    state.nodes = new Map(Object.entries(found.nodes));
    state.models = new Map(Object.entries(found.models));
    revision = found.revision;
    changed();
    follow();
  } catch (error) {
    if (error.code === "unauthenticated") set("refused", "The login has ended: load this page again to log in.");
    else if (NO_KEY.has(error.status)) set("refused", `Status ${error.status}: something before this router asks for a key that this page does not send. Where it asks for a name and a password, the browser sends them along.`);
    else set("lost", error.status ? error.message : "The router does not answer.");
    setTimeout(start, AGAIN_MS);
  }
}

// The router says something every 15 s: a stream that is silent for longer leads nowhere, though the browser may not know it.
setInterval(() => {
  if (source && !document.hidden && state.live === "live" && Date.now() - heardMs > SILENT_MS) {
    source.close();
    set("lost", "The router has said nothing for a while.");
    start();
  }
}, AGAIN_MS);

// A browser has six connections to a router for all its tabs: those that nobody looks at leave theirs.
document.addEventListener("visibilitychange", () => {
  if (!revision) return;
  if (document.hidden) source?.close();
  else follow();
});

function follow() {
  source?.close();
  if (document.hidden) return;
  heardMs = Date.now();
  const stream = source = new EventSource(`v1/page/changes?after=${encodeURIComponent(revision)}`);
  stream.addEventListener("still", () => { heardMs = Date.now(); });
  stream.addEventListener("changes", (event) => {
    heardMs = Date.now();
    apply(JSON.parse(event.data));
    revision = event.lastEventId;
    set("live");
  });
  stream.addEventListener("reset", () => { stream.close(); start(); });
  let isOpen = false;
  stream.addEventListener("open", () => { isOpen = true; set("live"); });
  stream.addEventListener("error", () => {
    const isOver = stream.readyState === EventSource.CLOSED;
    if (isOver && !isOpen) { // it was refused, though the snapshot was not
      set("slow", "The router lets no more pages follow it, or something before it does not: this one is read anew every 15 s.");
      setTimeout(start, SLOW_MS);
      return;
    }
    set("lost", "The router does not answer.");
    if (isOver) setTimeout(start, AGAIN_MS);
  });
}

function apply(changes) {
  Object.assign(state.router, changes.router);
  for (const rows of ["nodes", "models"]) {
    for (const [key, row] of Object.entries(changes[rows] ?? {})) {
      if (row === null) state[rows].delete(key);
      else state[rows].set(key, { ...state[rows].get(key), ...row });
    }
  }
}
