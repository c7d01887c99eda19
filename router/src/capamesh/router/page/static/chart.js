// A line chart over time, newest at the right.

import { h, say, svg } from "./dom.js";

const WIDTH = 640, HEIGHT = 190, LEFT = 56, RIGHT = 8, TOP = 10, BOTTOM = 22;
const MARKS_S = [60, 300, 600, 1800, 3600, 7200, 14400, 21600];

/** Return the round number at or above a value: 1, 2 or 5 times a power of ten. */
function ceiling(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * size >= value) * size;
}

const colour = (line, at) => line.colour ?? at + 1;

const clockText = (ms) => new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

/** Return a chart: `{ element, set(series, point_s) }`; `lines` are [{ name, label, colour? }], `show` makes a text of a value. */
export function chart({ title, lines, show }) {
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: nothing was measured yet` });
  const told = h("span", { class: "muted" });
  const legend = h("div", { class: "legend" }, lines.length > 1 && lines.map((line, at) => h("span", null, h("i", { class: `s${colour(line, at)}` }), line.label)));
  const element = h("figure", null, h("figcaption", null, h("span", null, title), told), drawing, legend);
  let data = [], pointS = 10, most = 1, points = 1;

  const x = (at) => LEFT + (points < 2 ? 1 : at / (points - 1)) * (width() - LEFT - RIGHT);
  const y = (value) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
  const width = () => drawing.clientWidth || WIDTH;
  const timeOf = (at) => Date.now() - (points - 1 - at) * pointS * 1000;

  function path(values) {
    let text = "", isOn = false;
    values.forEach((value, at) => {
      if (value === null) { isOn = false; return; }
      text += `${isOn ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      if (!isOn && values[at + 1] === null) text += "h1";
      isOn = true;
    });
    return text;
  }

  function draw() {
    if (!data.length) return;
    drawing.setAttribute("viewBox", `0 0 ${width()} ${HEIGHT}`);
    const flat = data.flat().filter((value) => value !== null);
    most = flat.length ? ceiling(Math.max(...flat) || 1) : 1;
    const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((part) => [
      svg("line", { class: "grid", x1: LEFT, x2: width() - RIGHT, y1: y(most * part), y2: y(most * part) }),
      part % 0.5 === 0 && svg("text", { x: LEFT - 6, y: y(most * part) + 4, "text-anchor": "end" }, part ? show(most * part) : "0"),
    ]);
    const spanS = points * pointS;
    const step = MARKS_S.find((mark) => spanS / mark <= width() / 90) ?? 14400;
    const marks = [];
    for (let ms = Math.ceil(timeOf(0) / 1000 / step) * step * 1000; ms <= Date.now(); ms += step * 1000) {
      const at = (ms - timeOf(0)) / 1000 / pointS;
      if (x(at) > LEFT + 18 && x(at) < width() - 24) marks.push(svg("text", { x: x(at), y: HEIGHT - 6, "text-anchor": "middle" }, clockText(ms)));
    }
    drawing.replaceChildren(...[...grid, ...marks].filter(Boolean), ...data.map((values, at) => svg("path", { class: `l${colour(lines[at], at)}`, d: path(values) })));
    const newest = lines.map((line, at) => `${line.label} ${textOf(data[at]?.at(-1))}`).join(", ");
    drawing.setAttribute("aria-label", flat.length ? `${title}, now: ${newest}` : `${title}: nothing was measured yet`);
    say(told, flat.length ? (lines.length > 1 ? "" : textOf(data[0].at(-1))) : "nothing measured yet");
  }

  const textOf = (value) => value === null || value === undefined ? "–" : show(value);

  drawing.addEventListener("pointermove", (event) => {
    const part = (event.offsetX - LEFT) / (width() - LEFT - RIGHT);
    const at = Math.max(0, Math.min(points - 1, Math.round(part * (points - 1))));
    drawing.querySelectorAll(".cursor, circle").forEach((each) => each.remove());
    drawing.append(svg("line", { class: "cursor", x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM }));
    data.forEach((values, line) => {
      if (values[at] !== null) drawing.append(svg("circle", { class: `c${colour(lines[line], line)}`, cx: x(at), cy: y(values[at]), r: 3.5 }));
    });
    say(told, `${clockText(timeOf(at))}: ${lines.map((line, each) => `${lines.length > 1 ? `${line.label} ` : ""}${textOf(data[each][at])}`).join(", ")}`);
  });
  drawing.addEventListener("pointerleave", draw);
  new ResizeObserver(draw).observe(drawing);

  return {
    element,
    set(series, seconds) {
      data = lines.map((line) => series[line.name] ?? []);
      pointS = seconds;
      points = data[0].length;
      draw();
    },
  };
}
