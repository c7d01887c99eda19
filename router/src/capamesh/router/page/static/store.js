// What the router says of now: one snapshot, then what changes. Views are told at most once a frame of the screen.

const AGAIN_MS = 3000;

export const state = { router: {}, nodes: new Map(), models: new Map(), live: "loading", why: "" };

const watchers = new Set();
let isDue = false;
let source = null;
let revision = "";

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
  if (!reply.ok) throw new Error(body.error || `the router answered with status ${reply.status}`);
  return body;
}

export async function start() {
  try {
    const found = await get("v1/page/snapshot");
    state.router = found.router;
    state.nodes = new Map(Object.entries(found.nodes));
    state.models = new Map(Object.entries(found.models));
    revision = found.revision;
    follow();
    set("live");
  } catch (error) {
    set("lost", error.message);
    setTimeout(start, AGAIN_MS);
  }
}

// A browser has six connections to a router for all its tabs: those that nobody looks at leave theirs.
document.addEventListener("visibilitychange", () => {
  if (!revision) return;
  if (document.hidden) source?.close();
  else follow();
});

function follow() {
  source?.close();
  if (document.hidden) return;
  const stream = source = new EventSource(`v1/page/changes?after=${encodeURIComponent(revision)}`);
  stream.addEventListener("changes", (event) => {
    apply(JSON.parse(event.data));
    revision = event.lastEventId;
    set("live");
  });
  stream.addEventListener("reset", () => { stream.close(); start(); });
  stream.addEventListener("open", () => set("live"));
  stream.addEventListener("error", () => {
    set("lost", "the router does not answer");
    if (stream.readyState === EventSource.CLOSED) setTimeout(start, AGAIN_MS);
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
