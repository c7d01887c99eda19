// What JSON schemas say, as lists for people and as samples.

import { h } from "./dom.js";

const MOST_DEPTH = 6;

/** Return what a schema refers to. */
export function resolved(schema, description) {
  if (!schema?.$ref) return schema ?? {};
  return schema.$ref.split("/").slice(1).reduce((found, part) => found[part], description);
}

function typeOf(schema, description) {
  const found = resolved(schema, description);
  if (found.anyOf) return found.anyOf.map((each) => typeOf(each, description)).join(" or ");
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (found.type === "array") return `list of ${typeOf(found.items, description)}`;
  if (found.type === "object") return found.title ?? "object";
  const range = [found.minimum !== undefined && `from ${found.minimum}`, found.maximum !== undefined && `to ${found.maximum}`].filter(Boolean).join(" ");
  return `${found.type ?? "anything"}${range ? ` ${range}` : ""}`;
}

/** Return the object whose keys are worth a list: the schema's own, or that of what it lists. */
function objectIn(schema, description) {
  const found = resolved(schema, description);
  if (found.type === "array") return objectIn(found.items, description);
  if (found.anyOf) return found.anyOf.map((each) => objectIn(each, description)).find(Boolean) ?? null;
  return found.properties ? found : null;
}

/** Return a list of the keys of a schema, each with its type and meaning. */
export function shapeOf(schema, description, depth = 0) {
  const object = objectIn(schema, description);
  if (!object || depth > MOST_DEPTH) return depth ? null : h("p", { class: "muted" }, typeOf(schema, description));
  const required = new Set(object.required);
  return h("ul", { class: "shape" }, Object.entries(object.properties).map(([name, value]) => h("li", null,
    h("code", null, name), h("span", { class: "muted" }, ` ${typeOf(value, description)}${required.has(name) ? "" : ", may be left out"}`),
    value.description && h("span", null, ` ${value.description}`),
    shapeOf(value, description, depth + 1))));
}

/** Return a value that fits a schema, with the keys that may not be left out. */
export function sampleOf(schema, description) {
  const found = resolved(schema, description);
  if (found.enum) return found.enum[0];
  if (found.anyOf) return sampleOf(found.anyOf[0], description);
  if (found.type === "object") {
    return Object.fromEntries((found.required ?? []).map((name) => [name, sampleOf(found.properties[name], description)]));
  }
  if (found.type === "array") return [sampleOf(found.items, description)];
  if (found.type === "boolean") return false;
  return found.type === "string" ? "" : found.minimum ?? 1;
}
