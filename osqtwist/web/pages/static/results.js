// Rows of a live query as they come: only those that can be seen are in the document, however many there are.
import { cell, lines } from "./visible.js";

const ROW = 29; // Pixels: the height of a row, as in pages.css.
const SPARE = 12;
const MOST_ROWS = 200_000;
const MOST_WIDE = 44; // Letters.
const MOST_COLUMNS = 200;
const MOST_NAMES = 30;
const NODE = 0; // The first column is the node's name.

const section = document.getElementById("results");
const grid = document.getElementById("grid");
const [columnsPart, head, body] = ["colgroup", "thead tr", "tbody"].map((each) => grid.querySelector(each));
const filter = document.getElementById("filter");
const collator = new Intl.Collator(undefined, { numeric: true });

const columns = ["node"];
const widths = [4];
const places = new Map(); // Of columns, by name.
const rows = []; // Each { id, node, cells, text }.
const failures = new Map(); // By message: { count, names }.
let shown = []; // The rows that fit the filter, in order.
let answered = 0;
let left = 0; // Rows that there was no room for.
let dropped = false;
let sortedBy = -1;
let isUp = true;
let current = -1;
let isStale = false;
let state = "connecting";

for (const each of document.querySelectorAll(".scripted:not(#errors, #none)")) each.hidden = false;

function take(result) {
  answered++;
  dropped ||= result.rows_dropped;
  if (result.status !== 0) {
    const message = cell(result.message || "no message", 500);
    const failure = failures.get(message) ?? { count: 0, names: [], status: result.status };
    failure.count++;
    if (failure.names.length < MOST_NAMES) failure.names.push(result.name);
    failures.set(message, failure);
  }
  for (const row of result.rows) {
    if (row === null || typeof row !== "object") continue;
    if (rows.length >= MOST_ROWS) {
      left++;
      continue;
    }
    const cells = [];
    for (const [name, value] of Object.entries(row)) {
      let place = places.get(name);
      if (place === undefined) {
        if (columns.length > MOST_COLUMNS) continue;
        place = columns.push(name) - 1;
        places.set(name, place);
        widths[place] = name.length;
      }
      cells[place] = value;
      const length = cell(value, MOST_WIDE).length;
      if (length > widths[place]) widths[place] = length;
    }
    cells[NODE] = result.name;
    if (result.name.length > widths[NODE]) widths[NODE] = result.name.length;
    rows.push({ node: result.node, cells, text: undefined });
  }
  isStale = true;
}

const textOf = (value) => (value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value));

function fits(row, words) {
  row.text ??= row.cells.map(textOf).join("\u0000").toLowerCase();
  return words.every((word) => row.text.includes(word));
}

function arrange() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = words.length ? rows.filter((row) => fits(row, words)) : rows.slice();
  if (sortedBy >= 0) {
    const sign = isUp ? 1 : -1;
    shown.sort((one, other) => sign * collator.compare(textOf(one.cells[sortedBy]), textOf(other.cells[sortedBy])));
  }
}

function heads() {
  if (head.childElementCount === columns.length) return;
  for (let place = head.childElementCount; place < columns.length; place++) {
    const heading = document.createElement("th");
    heading.scope = "col";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell(columns[place], 60) || "(no name)";
    button.addEventListener("click", () => {
      isUp = sortedBy === place ? !isUp : true;
      sortedBy = place;
      for (const each of head.children) each.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      arrange();
      draw();
    });
    heading.append(button);
    head.append(heading);
    columnsPart.append(document.createElement("col"));
  }
}

function measure() {
  let sum = 0;
  for (const [place, part] of [...columnsPart.children].entries()) {
    const wide = Math.max(8, Math.min(MOST_WIDE, widths[place] + 3));
    sum += wide;
    part.style.width = `${wide}ch`;
  }
  grid.querySelector("table").style.minWidth = `${sum}ch`;
}

function spacer(height) {
  const row = document.createElement("tr");
  row.setAttribute("aria-hidden", "true");
  row.className = "spacer";
  const part = document.createElement("td");
  part.colSpan = columns.length;
  part.style.height = `${height}px`;
  row.append(part);
  return row;
}

function draw() {
  const first = Math.max(0, Math.floor(grid.scrollTop / ROW) - SPARE);
  const last = Math.min(shown.length, Math.ceil((grid.scrollTop + grid.clientHeight) / ROW) + SPARE);
  const parts = [];
  if (first > 0) parts.push(spacer(first * ROW));
  for (let number = first; number < last; number++) parts.push(line(number));
  if (last < shown.length) parts.push(spacer((shown.length - last) * ROW));
  body.replaceChildren(...parts);
  grid.querySelector("table").setAttribute("aria-rowcount", String(shown.length + 1));
}

function line(number) {
  const row = document.createElement("tr");
  row.setAttribute("aria-rowindex", String(number + 2));
  if (number === current) row.className = "current";
  row.dataset.number = number;
  for (let place = 0; place < columns.length; place++) {
    const part = document.createElement(place === NODE ? "th" : "td");
    if (place === NODE) part.scope = "row";
    else part.dir = "auto";
    part.textContent = cell(shown[number].cells[place]);
    row.append(part);
  }
  return row;
}

function say() {
  const parts = [`${number(shown.length)} ${shown.length === 1 ? "row" : "rows"}`];
  if (shown.length !== rows.length) parts.push(`of ${number(rows.length)}`);
  parts.push(`from ${number(answered)} ${answered === 1 ? "node" : "nodes"}`);
  if (left) parts.push(`; ${number(left)} more are not shown, an export has them`);
  if (dropped) parts.push("; rows past the limit of a query were not kept");
  document.getElementById("shown").textContent = parts.join(" ").replace(/ ;/g, ";");
  const stream = document.getElementById("stream");
  stream.textContent = state;
  stream.className = `state ${state === "following" ? "good" : state === "all in" ? "idle" : "warn"}`;
  const none = document.getElementById("none");
  none.hidden = shown.length > 0;
  none.textContent = rows.length ? "No row fits the filter." : state === "all in" ? "No rows." : "No rows yet.";
  grid.hidden = rows.length === 0;
}

const number = (value) => value.toLocaleString("en").replace(/,/g, "\u202f");

function tellErrors() {
  const part = document.getElementById("errors");
  part.hidden = failures.size === 0;
  part.querySelector("ul").replaceChildren(...[...failures].slice(0, 100).map(([message, failure]) => {
    const item = document.createElement("li");
    const what = document.createElement("strong");
    what.textContent = message;
    const more = failure.count > failure.names.length ? ` and ${failure.count - failure.names.length} more` : "";
    item.append(what, ` (status ${failure.status}) ${number(failure.count)} ${failure.count === 1 ? "node" : "nodes"}: `, failure.names.map((name) => cell(name, 100)).join(", ") + more);
    return item;
  }));
}

function update() {
  isStale = false;
  arrange();
  heads();
  measure();
  say();
  draw();
  tellErrors();
}

// What came is shown a few times a second, however much it is; a sorted table of many rows less often.
let updatedAt = 0;
let lastCost = 0;
function tick(now) {
  if (isStale && now - updatedAt > Math.max(150, 10 * lastCost)) {
    const began = performance.now();
    update();
    lastCost = performance.now() - began;
    updatedAt = now;
  }
  requestAnimationFrame(tick);
}
requestAnimationFrame(tick);

// A screen reader is told how many there are now and then, and not of each.
let told = "";
function tell() {
  const text = answered ? document.getElementById("shown").textContent + (state === "all in" ? ", all in" : "") : "";
  if (text !== told) document.getElementById("told").textContent = told = text;
}
setInterval(tell, 5000);

let isDrawing = false;
grid.addEventListener("scroll", () => {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    draw();
  });
}, { passive: true });
addEventListener("resize", draw);

filter.addEventListener("input", () => {
  grid.scrollTop = 0;
  current = -1;
  arrange();
  say();
  draw();
});

const whole = document.getElementById("whole");
function open(numberOf) {
  const row = shown[numberOf];
  if (!row) return;
  document.getElementById("whole-title").textContent = cell(row.cells[NODE], 200);
  const parts = [];
  for (let place = 1; place < columns.length; place++) {
    if (row.cells[place] === undefined) continue;
    const name = document.createElement("dt");
    name.textContent = cell(columns[place], 200);
    const value = document.createElement("dd");
    value.dir = "auto";
    value.className = "value";
    value.textContent = lines(textOf(row.cells[place]));
    parts.push(name, value);
  }
  whole.querySelector("dl").replaceChildren(...parts);
  whole.showModal();
}

body.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-number]");
  if (row && !String(getSelection())) open(Number(row.dataset.number));
});
grid.addEventListener("keydown", (event) => {
  if (event.target !== grid) return;
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15 }[event.key];
  if (step !== undefined) {
    event.preventDefault();
    current = Math.max(0, Math.min(shown.length - 1, current + step));
    const top = current * ROW;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + 3 * ROW > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + 3 * ROW - grid.clientHeight;
    draw();
    document.getElementById("told").textContent = `row ${current + 1}: ${shown[current].cells.map((value) => cell(value, 60)).join(", ")}`;
  } else if (event.key === "Enter" && current >= 0) {
    event.preventDefault();
    open(current);
  }
});

const events = new EventSource(`/api/v1/queries/${encodeURIComponent(section.dataset.query)}/results`);
events.addEventListener("open", () => {
  state = "following";
  isStale = true;
});
events.addEventListener("result", (event) => take(JSON.parse(event.data)));
events.addEventListener("end", () => {
  events.close();
  state = "all in";
  update();
  tell();
});
events.addEventListener("error", () => {
  state = events.readyState === EventSource.CLOSED ? "broken off" : "connecting again";
  isStale = true;
});
say();
