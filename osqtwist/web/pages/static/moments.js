// Keeps "3 min ago" true while a page stays open, and has the reader's own time zone on hover.
const spans = [["d", 86400], ["h", 3600], ["min", 60]];

function span(seconds) {
  for (const [unit, length] of spans) {
    if (seconds >= 2 * length) return `${Math.round(seconds / length)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

export function ago(at, now = Date.now()) {
  const seconds = (now - at) / 1000;
  return seconds > -1 ? `${span(Math.max(0, seconds))} ago` : `in ${span(-seconds)}`;
}

export function refresh(root = document) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = Date.parse(time.dateTime);
    if (Number.isNaN(at)) continue;
    time.textContent = ago(at);
    time.title = new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
  }
}

refresh();
setInterval(refresh, 5000);
