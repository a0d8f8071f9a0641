// Dead letters, the first so many of them.
import { Rows, moment, row, stream } from "./lines.js";

const MOST = 200;
const table = document.getElementById("dead");
const state = document.getElementById("dead-state");
const rows = new Rows(table.tBodies[0], { most: MOST, atEnd: true });

try {
  await stream(table.dataset.source, (line) => {
    rows.add(() => row([moment(line.received_at), line.name, line.log_type, line.reason, { text: line.text.slice(0, 4000), className: "code" }]));
    return rows.taken < MOST;
  });
  state.textContent = rows.taken === MOST ? `The first ${MOST}; the link has all.` : rows.taken ? `${rows.taken} dead letters.` : "There is no dead letter.";
} catch (problem) {
  state.textContent = `They cannot be shown: ${problem.message}`;
}
