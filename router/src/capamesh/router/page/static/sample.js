// A valid sample request for a model, from its metadata, and the command that sends it.

import { labelledOf, MOST_CLASSES } from "./classes.js";
import { get } from "./store.js";

const MOST_VALUES = 1 << 22, MOST_SHOWN = 1024;

const count = (shape) => shape.reduce((product, size) => product * size, 1);
const valueOf = (datatype) => datatype === "BYTES" ? "hello" : datatype === "BOOL" ? false : /^(FP|BF)/.test(datatype) ? 0.5 : 1;

// A request that is a sequence by itself, for a model that keeps states.
const WHOLE_SEQUENCE = { sequence_id: 990001, sequence_start: true, sequence_end: true };

/**
 * Return the body of a request with one row, and whether it is small enough to be shown; null where it is too large.
 * Of the outputs that are `labelled` it asks for the classes with the largest scores. `config` is the model's, null: it is not known.
 */
export function sampleOf(metadata, labelled = [], config = null) {
  const { window } = metadata;
  const shapes = metadata.inputs.map((input) => window?.input === input.name ? [1, window.context + window.samples]
    : input.shape.map((size) => size < 0 ? 1 : size));
  const values = shapes.reduce((sum, shape) => sum + count(shape), 0);
  if (values > MOST_VALUES) return null;
  const body = {
    inputs: metadata.inputs.map((input, at) => ({
      name: input.name, shape: shapes[at], datatype: input.datatype, data: Array(count(shapes[at])).fill(window?.constants?.[input.name] ?? valueOf(input.datatype)),
    })),
  };
  if (config?.sequence_batching) body.parameters = WHOLE_SEQUENCE;
  if (labelled.length) {
    body.outputs = metadata.outputs.map(({ name }) => labelled.includes(name) ? { name, parameters: { classification: MOST_CLASSES } } : { name });
  }
  return { body, isShown: values <= MOST_SHOWN };
}

const listed = (values) => `[\n${values.map((value) => `  ${JSON.stringify(value)}`).join(",\n")}\n]`;

/** Return a body as JSON, a line for each input and output. */
export const written = (body) => `{${body.parameters ? `"parameters": ${JSON.stringify(body.parameters)}, ` : ""}"inputs": ${listed(body.inputs)}${body.outputs ? `, "outputs": ${listed(body.outputs)}` : ""}}`;

export const inferPath = (name, version) => `v2/models/${encodeURIComponent(name)}${version ? `/versions/${encodeURIComponent(version)}` : ""}/infer`;

/** Return what `sampleOf` takes of a model: its metadata, the outputs that have names for their classes, its configuration. */
export async function askedOf(name) {
  const path = `v2/models/${encodeURIComponent(name)}`;
  const [metadata, config] = await Promise.all([get(path), get(`${path}/config`).catch(() => null)]);
  return [metadata, labelledOf(config), config];
}

/** Return the command that sends a sample request to a model, whose metadata is read for that. */
export async function curlFor(name) {
  const [metadata, , config] = await askedOf(name);
  const sample = sampleOf(metadata, [], config);
  return curlOf(name, "", sample?.isShown ? JSON.stringify(sample.body) : null);
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Return the command that sends a body; every part of it is quoted, for a model's name is somebody else's text. */
export function curlOf(name, version, text) {
  const url = new URL(inferPath(name, version), location.href.split("#")[0]).href;
  const flat = text === null ? "@request.json" : JSON.stringify(JSON.parse(text));
  return `curl ${quoted(url)} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(flat)}`;
}
