// A trial of alert rules over the lines in the buffer.
import { Rows, row, stream } from "./lines.js";

const form = document.getElementById("trial");
const state = document.getElementById("trial-state");
const region = document.getElementById("trial-region");
const body = document.querySelector("#trial-table tbody");
let going = null;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  going?.abort();
  going = new AbortController();
  const { signal } = going;
  const given = new FormData(form);
  const seconds = Math.round(Number(given.get("hours")) * 3600);
  body.replaceChildren();
  region.hidden = true;
  if (!(seconds >= 1)) {
    state.textContent = "How many hours?";
    return;
  }
  const words = new URLSearchParams({ seconds });
  if (given.get("when").trim()) words.set("when", given.get("when"));
  else if (given.get("rule")) words.set("rule", given.get("rule"));
  state.textContent = "Looking through the lines…";
  const rows = new Rows(body, { most: 500, atEnd: true });
  try {
    await stream(
      `/api/v1/alerts/trial?${words}`,
      (line) => {
        if (line.type === "end") {
          state.textContent = `${line.lines} lines: ${line.raised} alerts of ${line.groups} things.`;
          return;
        }
        region.hidden = false;
        rows.add(() => row([line.rule, line.severity, line.node_name, line.first_of_group ? "yes" : "no: told of already", { text: line.text ?? "", className: "code" }]));
      },
      signal,
    );
  } catch (problem) {
    if (!signal.aborted) state.textContent = `Not tried: ${problem.message}`;
  }
});
