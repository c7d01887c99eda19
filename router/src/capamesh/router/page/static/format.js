// Values as people read them.

const grouped = new Intl.NumberFormat("en"); // made once: to make one takes longer than to use it a hundred times

export const number = (value) => value === undefined || value === null ? "–" : grouped.format(value);

/** Return a number with about three digits: 0.12, 3.4, 120, 12k. */
export function short(value) {
  if (value === undefined || value === null) return "–";
  if (value >= 1e6) return `${trim(value / 1e6)}M`;
  if (value >= 1e4) return `${trim(value / 1e3)}k`;
  return trim(value);
}

const trim = (value) => String(Number(value.toPrecision(value >= 100 ? Math.ceil(Math.log10(value + 1)) : 3)));

/** Return a value of a tensor, numbers with about four digits. */
export function valueText(value) {
  return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value);
}

/** Return a time in microseconds in its best unit. */
export function micros(value) {
  if (value === undefined || value === null) return "–";
  if (value < 1000) return `${Math.round(value)} µs`;
  if (value < 1e6) return `${trim(value / 1e3)} ms`;
  return `${trim(value / 1e6)} s`;
}

export function bytes(value) {
  if (!value) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${trim(value)} ${units[unit]}`;
}

export const percent = (value) => `${trim(value * 100)} %`;

/** Return a peer id as people tell it apart from others. */
export const shortPeer = (peer) => peer.length > 16 ? `…${peer.slice(-8)}` : peer;

/** Return the name of a node: its own, or the end of its peer id. */
export const nodeName = (peer, node) => node?.name || shortPeer(peer);

export function duration(seconds) {
  const left = Math.abs(seconds);
  if (left >= 172800) return `${Math.floor(left / 86400)} days`;
  if (left >= 7200) return `${Math.floor(left / 3600)} hours`;
  if (left >= 120) return `${Math.floor(left / 60)} minutes`;
  return `${Math.round(left)} seconds`;
}

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
