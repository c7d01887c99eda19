// A table that holds any number of rows and makes elements for those in sight alone.

import { h, say } from "./dom.js";
import { number } from "./format.js";

const ROW_PX = 36;
const SPARE = 8;
const PHONE = 0.76;
const order = new Intl.Collator("en");
const compared = (one, other) => typeof one === "number" && typeof other === "number" ? one - other : order.compare(one, other);

/**
 * Return a table: `{ element, set(rows) }`. A column is { title, width?, isNumber?, isLess?, value(row), show?(row) }:
 * `value` sorts and is the text, `show` makes an element instead, `isLess` leaves it out on a phone.
 */
export function table({ label, columns, sorted = 0, isDown = false, empty, search }) {
  const isPhone = matchMedia("(max-width: 760px)").matches;
  let rows = [], visible = [], by = sorted, down = isDown, words = "";
  const body = h("tbody");
  const buttons = columns.map((column, at) => h("button", { type: "button", onclick: () => sortBy(at) }, column.title));
  const heads = columns.map((column, at) => h("th", { scope: "col", class: classes(column) }, buttons[at]));
  const widths = h("colgroup", null, columns.map((column) => {
    const col = h("col", { class: column.isLess ? "less" : null });
    if (column.width) col.style.width = isPhone ? `calc(${column.width} * ${PHONE})` : column.width;
    return col;
  }));
  const grid = h("table", { "aria-label": label }, widths, h("thead", null, h("tr", null, heads)), body);
  const scroll = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, grid);
  const count = h("span", { class: "muted", role: "status" });
  const find = search && h("input", {
    type: "search", placeholder: search, "aria-label": search, oninput: () => { words = find.value.trim().toLowerCase(); arrange(); scroll.scrollTop = 0; },
  });
  const element = h("div", null, find && h("div", { class: "bar" }, find, h("span", { class: "grow" }), count), scroll);

  scroll.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });

  function classes(column) {
    return [column.isNumber && "num", column.isLess && "less"].filter(Boolean).join(" ") || null;
  }

  function sortBy(at) {
    down = at === by ? !down : Boolean(columns[at].isNumber);
    by = at;
    arrange();
  }

  function arrange() {
    const value = columns[by].value;
    const sign = down ? -1 : 1;
    const found = words ? rows.filter((row) => columns.some((column) => String(column.value(row)).toLowerCase().includes(words))) : rows;
    // a value is worked out once a row, not once a comparison
    visible = found.map((row) => [value(row) ?? -1, row]).sort(([left], [right]) => sign * compared(left, right)).map(([, row]) => row);
    heads.forEach((head, at) => head.setAttribute("aria-sort", at === by ? (down ? "descending" : "ascending") : "none"));
    buttons.forEach((button, at) => say(button, columns[at].title + (at === by ? (down ? " ↓" : " ↑") : "")));
    say(count, words ? `${number(visible.length)} of ${number(rows.length)}` : number(rows.length));
    grid.setAttribute("aria-rowcount", visible.length + 1);
    draw();
  }

  function draw() {
    const height = scroll.clientHeight || 500;
    const first = Math.max(0, Math.floor(scroll.scrollTop / ROW_PX) - SPARE);
    const last = Math.min(visible.length, first + Math.ceil(height / ROW_PX) + 2 * SPARE);
    const active = document.activeElement, held = active?.closest?.("tr.row")?.dataset.at;
    const made = visible.slice(first, last).map((row, at) => drawn(row, first + at));
    if (!visible.length) made.push(h("tr", null, h("td", { colspan: columns.filter((column) => !(isPhone && column.isLess)).length, class: "muted" }, words ? "Nothing matches." : empty)));
    body.replaceChildren(space(first), ...made, space(visible.length - last));
    if (held !== undefined) body.querySelector(`tr[data-at="${held}"] ${active.tagName}`)?.focus({ preventScroll: true });
  }

  function drawn(row, at) {
    return h("tr", { class: "row", "aria-rowindex": at + 2, "data-at": at }, columns.map((column) => {
      const text = column.value(row);
      return h("td", { class: classes(column), title: typeof text === "string" ? text : null }, column.show ? column.show(row) : String(text ?? "–"));
    }));
  }

  function space(count) {
    const cell = h("td");
    cell.style.height = `${count * ROW_PX}px`;
    return h("tr", { class: "space", "aria-hidden": "true" }, cell);
  }

  return { element, set: (given) => { rows = given; arrange(); } };
}
