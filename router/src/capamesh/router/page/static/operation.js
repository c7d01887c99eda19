// One route at /docs: what it takes and answers, and a form that sends a request.

import { badge, copyButton, h, say } from "./dom.js";
import { micros } from "./format.js";
import { resolved, sampleOf, shapeOf } from "./shape.js";

const MOST_SHOWN = 20000;
const STREAM_MS = 3000;
const JSON_TYPE = "application/json";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const VERBS = 5;

function keysOf(operation) {
  const verbs = operation["x-key"];
  if (!verbs.length) return "no key";
  return verbs.length === VERBS ? "any key" : `key: ${verbs.join(" or ")}`;
}

/** Return the text of an answer; of a stream what comes in a few seconds, and of bytes how many there are. */
async function textOf(reply, stop) {
  const type = reply.headers.get("Content-Type") ?? "";
  if (!/json|text|javascript|svg|^$/.test(type)) return `${(await reply.arrayBuffer()).byteLength} bytes of ${type}`;
  if (!type.startsWith("text/event-stream")) return reply.text();
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  const timer = setTimeout(() => stop.abort(), STREAM_MS);
  let text = "";
  try {
    for (let piece = await reader.read(); !piece.done && text.length < MOST_SHOWN; piece = await reader.read()) text += piece.value;
  } catch { /* it was stopped */ }
  clearTimeout(timer);
  stop.abort();
  return text;
}

function pretty(text) {
  let whole = text;
  try { whole = JSON.stringify(JSON.parse(text), null, 1); } catch { /* it is shown as it is */ }
  return whole.length > MOST_SHOWN ? `${whole.slice(0, MOST_SHOWN)}\n… and ${whole.length - MOST_SHOWN} characters more` : whole;
}

/** Return the form that sends a request to a route of the router at `root`, with the key that `keyOf` returns. */
function formOf({ method, path, operation }, description, root, keyOf) {
  const fields = (operation.parameters ?? []).map((each) => ({
    ...each, input: h("input", { placeholder: each.required ? "" : "left out", spellcheck: "false", title: each.description, oninput: showCurl }),
  }));
  const contents = operation.requestBody?.content;
  const json = contents?.[JSON_TYPE];
  const body = json && h("textarea", { spellcheck: "false", "aria-label": "Body of the request, as JSON", value: JSON.stringify(sampleOf(json.schema, description), null, 1), oninput: showCurl });
  const file = contents && !json && h("input", { type: "file", "aria-label": "Body of the request" });
  const status = h("p", { role: "status", class: "muted" }), answer = h("div");
  const curl = h("pre", { tabindex: "0", "aria-label": "The same as a command" });
  const send = h("button", { class: "primary" }, "Send");

  function request() {
    let place = path.slice(1);
    const query = new URLSearchParams(), headers = {};
    for (const { name, in: where, input: { value } } of fields) {
      if (where === "path") place = place.replace(`{${name}}`, encodeURIComponent(value));
      else if (value && where === "query") query.set(name, value);
      else if (value) headers[name] = value;
    }
    if (json) headers["Content-Type"] = JSON_TYPE;
    return { url: new URL(`${place}${query.size ? `?${query}` : ""}`, root).href, headers };
  }

  function showCurl() {
    const { url, headers } = request();
    const parts = [`curl ${method === "GET" ? "" : `-X ${method} `}${quoted(url)}`, ...Object.entries(headers).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`)];
    if (json) parts.push(`-d ${quoted(body.value)}`);
    else if (file) parts.push("--data-binary @FILE");
    say(curl, parts.join(" \\\n  "));
  }

  async function ask(event) {
    event.preventDefault();
    const missing = fields.find(({ required, input }) => required && !input.value);
    if (missing) { say(status, `${missing.name} is missing.`); missing.input.focus(); return; }
    const { url, headers } = request(), key = keyOf(), stop = new AbortController();
    if (key) headers.Authorization = `Bearer ${key}`;
    send.disabled = true;
    say(status, "Waiting for the answer …");
    const began = performance.now();
    try {
      const reply = await fetch(url, { method, headers, body: json ? body.value : file?.files[0], signal: stop.signal });
      const text = await textOf(reply, stop);
      answer.replaceChildren(
        h("div", { class: "bar" }, badge(reply.ok ? "good" : "bad", String(reply.status)), h("span", null, `in ${micros((performance.now() - began) * 1000)}`)),
        h("pre", { tabindex: "0", "aria-label": "Answer" }, pretty(text)),
        h("details", null, h("summary", null, "Headers"), h("pre", { tabindex: "0", "aria-label": "Headers of the answer" }, [...reply.headers].map(([name, value]) => `${name}: ${value}`).join("\n"))));
      say(status, "");
    } catch (error) { say(status, `The router does not answer: ${error.message}`); }
    send.disabled = false;
  }

  showCurl();
  return h("form", { onsubmit: ask },
    fields.length > 0 && h("div", { class: "fields" }, fields.map(({ name, input }) => h("label", null, name, input))),
    body, file, h("div", { class: "bar" }, send, h("span", { class: "grow" }), copyButton(() => curl.textContent, "Copy as curl")), curl, status, answer);
}

/** Return a route as an element that opens: its form and its descriptions are made when it is opened first. */
export function operationOf(each, description, root, keyOf) {
  const { method, path, operation } = each;
  const inside = h("div", { class: "inside" });
  const element = h("details", { class: "route", ontoggle: open }, h("summary", null,
    badge("off", method), h("code", null, path), h("span", { class: "muted" }, operation.summary), h("span", { class: "muted key" }, keysOf(operation))), inside);

  function open() {
    if (!element.open || inside.firstChild) return;
    const good = Object.entries(operation.responses["200"]?.content ?? {});
    const failures = Object.entries(operation.responses).filter(([status]) => status !== "200");
    inside.append(...[
      operation.description && h("p", null, operation.description),
      formOf(each, description, root, keyOf),
      h("div", { class: "two" },
        operation.requestBody && h("section", { "aria-label": "Body" }, h("h3", null, "Body"), bodies(Object.entries(operation.requestBody.content))),
        h("section", { "aria-label": "Answer" }, h("h3", null, "Answer"), bodies(good))),
      h("h3", null, "Other answers"),
      h("dl", null, failures.map(([status, answer]) => [h("dt", null, status), h("dd", null, resolved(answer, description).description)])),
    ].filter(Boolean));
  }

  function bodies(contents) {
    return contents.map(([type, { schema }]) => [h("p", null, h("code", null, type)), schema && shapeOf(schema, description)]);
  }

  return element;
}
