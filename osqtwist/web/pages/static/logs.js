// The live tail of log lines: the newest above, as fast as a reader can bear.
import { Rows, link, moment, row, stream } from "./lines.js";

const severities = { 0: "info", 1: "warning", 2: "error", 3: "fatal" };
const box = document.getElementById("follow");
const button = document.getElementById("follow-button");
const state = document.getElementById("follow-state");
const rows = new Rows(document.querySelector("#lines tbody"));
let going = null;

const clipped = (text) => (text.length > 4000 ? `${text.slice(0, 4000)}…` : text);

function shown({ received_at, node, name, log_type, line }) {
  const isStatus = line !== null && typeof line === "object" && "severity" in line;
  const kind = isStatus ? (severities[line.severity] ?? String(line.severity)) : String(line?.name ?? "");
  const text = isStatus && "message" in line ? String(line.message) : JSON.stringify(line);
  return row([
    moment(received_at),
    log_type === "result" || log_type === "status" ? link(`/nodes/${encodeURIComponent(node)}`, name) : name,
    log_type,
    kind.slice(0, 200),
    { text: clipped(text), className: "code" },
  ]);
}

function say(text) {
  state.textContent = text;
}

async function follow() {
  going = new AbortController();
  const { signal } = going;
  button.textContent = "Pause";
  button.setAttribute("aria-pressed", "true");
  document.getElementById("no-lines")?.remove();
  say("Following; no line yet.");
  const counting = setInterval(() => rows.taken && say(`Following: ${rows.taken} lines so far.`), 1000);
  const words = new URLSearchParams({ follow: "1", when: box.dataset.when });
  try {
    await stream(`/api/v1/logs?${words}`, (line) => rows.add(() => shown(line)), signal);
    say("The server ended the stream.");
  } catch (problem) {
    say(signal.aborted ? `Paused after ${rows.taken} lines; those that come meanwhile are not shown.` : `Ended: ${problem.message}`);
  } finally {
    clearInterval(counting);
    button.textContent = "Follow";
    button.setAttribute("aria-pressed", "false");
    going = null;
  }
}

button.addEventListener("click", () => (going ? going.abort() : follow()));
box.hidden = false;
