// The form that sends one request to a model and shows what came back, and why from there.

import { classifiedOf } from "./classes.js";
import { badge, copyButton, h, say } from "./dom.js";
import { micros } from "./format.js";
import { explanationOf } from "./explain.js";
import { outputsOf } from "./outputs.js";
import { askedOf, curlOf, inferPath, sampleOf, written } from "./sample.js";

const MOST_SHOWN = 20000;

/** Return `{ element }` for a model: the sample request, the command, and what was answered. */
export function tryIt(name) {
  const status = h("p", { role: "status", class: "muted" }, "Reading what the model takes …");
  const input = h("textarea", { spellcheck: "false", "aria-label": "Body of the request, as JSON", oninput: showCurl });
  const curl = h("pre", { tabindex: "0", "aria-label": "The same as a command" });
  const send = h("button", { type: "button", class: "primary", onclick: ask, disabled: true }, "Send");
  const note = h("p", { class: "muted" }), answer = h("div");
  let hidden = null;

  function showCurl() {
    try { say(curl, curlOf(name, "", hidden ? null : input.value)); say(status, ""); }
    catch { say(status, "The body is not valid JSON."); }
  }

  async function load() {
    try {
      const asked = await askedOf(name);
      const [metadata, labelled] = asked, sample = sampleOf(...asked);
      if (!sample) { say(status, "A request of this model is too large to fill in here."); return; }
      if (sample.isShown) input.value = written(sample.body);
      else {
        hidden = JSON.stringify(sample.body);
        input.value = metadata.inputs.map((each) => `${each.name}: ${each.datatype} [${each.shape.join(", ")}], filled with one value`).join("\n");
        input.readOnly = true;
      }
      if (labelled.length) say(note, `The classes of ${labelled.join(", ")} have names, and the largest scores come with them. Without "outputs" in the body all scores come, as numbers.`);
      send.disabled = false;
      say(status, "");
      showCurl();
    } catch (error) { say(status, error.message); }
  }

  async function ask() {
    send.disabled = true;
    say(status, "Waiting for the answer …");
    const began = performance.now(), sent = hidden ?? input.value;
    try {
      const reply = await fetch(inferPath(name, ""), {
        method: "POST", body: sent, headers: { "Content-Type": "application/json", "X-Capamesh-Explain": "1" },
      });
      const text = await reply.text();
      show(reply, text, (performance.now() - began) * 1000, classifiedOf(sent));
      say(status, "");
    } catch (error) { say(status, `The router does not answer: ${error.message}`); }
    send.disabled = false;
  }

  function show(reply, text, tookUs, classified) {
    let pretty = text, body = null;
    try { body = JSON.parse(text); pretty = JSON.stringify(body, null, 1); } catch { /* it is shown as it is */ }
    if (pretty.length > MOST_SHOWN) pretty = `${pretty.slice(0, MOST_SHOWN)}\n… and ${pretty.length - MOST_SHOWN} characters more`;
    const headers = [...reply.headers].filter(([key]) => key !== "x-capamesh-explanation");
    const why = reply.headers.get("X-Capamesh-Explanation");
    answer.replaceChildren(...[
      h("div", { class: "bar" }, badge(reply.ok ? "good" : "bad", `${reply.status} ${reply.ok ? "answered" : "refused"}`), h("span", null, `in ${micros(tookUs)}, the network included`)),
      outputsOf(body, classified),
      h("details", { open: !body?.outputs }, h("summary", null, "Answer"), h("pre", { tabindex: "0", "aria-label": "Answer" }, pretty)),
      h("details", null, h("summary", null, "Headers"), h("pre", { tabindex: "0", "aria-label": "Headers of the answer" }, headers.map(([key, value]) => `${key}: ${value}`).join("\n"))),
      why && h("details", { open: true }, h("summary", null, "Why this node"), explanationOf(JSON.parse(why))),
    ].filter(Boolean));
  }

  load();
  return {
    element: h("div", { class: "two" },
      h("section", { class: "panel", "aria-label": "Try it" }, h("div", { class: "bar" }, h("h2", null, "Try it"), h("span", { class: "grow" }), send), input, note, status, answer),
      h("section", { class: "panel", "aria-label": "As a command" }, h("div", { class: "bar" }, h("h2", null, "As a command"), h("span", { class: "grow" }), copyButton(() => curl.textContent)), curl)),
  };
}
