// JSON lines of an operation, as they come; and tables that keep no more rows than a browser can bear.
import { refresh } from "./moments.js";

/** Hands each line to `take` until the stream ends or the signal is aborted; throws in the API's words. */
export async function stream(path, take, signal) {
  const response = await fetch(path, { headers: { Accept: "application/x-ndjson" }, credentials: "same-origin", signal });
  if (response.status === 401) window.location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  if (!response.ok) {
    const found = await response.json().catch(() => ({}));
    throw new Error(found.detail ?? `the server answered ${response.status}`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part) continue;
      const line = JSON.parse(part);
      if (line.type === "error") throw new Error(line.error);
      if (take(line) === false) {
        reader.cancel();
        return;
      }
    }
  }
}

/** A row of texts; a cell may also be a node, or { text, className }. */
export function row(cells) {
  const made = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    if (cell instanceof Node) td.append(cell);
    else if (cell && typeof cell === "object") {
      td.textContent = cell.text;
      td.className = cell.className;
    } else td.textContent = cell ?? "";
    made.append(td);
  }
  return made;
}

/** A moment, as templates write it. */
export function moment(seconds) {
  const time = document.createElement("time");
  time.dateTime = new Date(seconds * 1000).toISOString();
  return time;
}

export function link(href, text) {
  const made = document.createElement("a");
  made.href = href;
  made.textContent = text;
  return made;
}

/** Puts rows into a table once a frame, at its beginning or its end, and keeps `most` of them. */
export class Rows {
  constructor(body, { most = 500, atEnd = false } = {}) {
    this.body = body;
    this.most = most;
    this.atEnd = atEnd;
    this.waiting = [];
    this.taken = 0;
  }

  add(make) {
    this.taken += 1;
    this.waiting.push(make);
    // What nobody would ever see is not made.
    if (this.waiting.length > this.most) this.waiting.shift();
    if (this.waiting.length === 1) requestAnimationFrame(() => this.show());
  }

  show() {
    const fresh = document.createDocumentFragment();
    const rows = this.waiting.map((make) => make());
    fresh.append(...(this.atEnd ? rows : rows.reverse()));
    this.waiting = [];
    refresh(fresh);
    if (this.atEnd) this.body.append(fresh);
    else this.body.prepend(fresh);
    while (this.body.rows.length > this.most) (this.atEnd ? this.body.rows[0] : this.body.rows[this.body.rows.length - 1]).remove();
  }
}
