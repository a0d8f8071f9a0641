// The editor of live queries: words on offer, what is wrong as one types, how many nodes are meant.
import { api } from "./api.js";
import { completing } from "./complete.js";
import { targetWords } from "./targetwords.js";

const form = document.getElementById("ask");
if (form) {
  const { sql, where, percent, salt, discovery } = form.elements;
  for (const each of document.querySelectorAll(".scripted")) each.hidden = false;

  completing(sql, async (text, caret) => {
    // The server counts letters, not halves of them.
    const found = await api("queries/complete", { sql: text, at: [...text.slice(0, caret)].length });
    return { begun: found.begun, words: found.words.map((word) => ({ text: word.text, says: ` ${word.says || word.kind}` })) };
  });
  completing(where, targetWords);

  const later = (work, wait) => {
    let timer = 0;
    let number = 0;
    return () => {
      clearTimeout(timer);
      const mine = ++number;
      timer = setTimeout(() => work(() => mine === number), wait);
    };
  };

  const target = () => {
    const share = Number(percent.value || 100);
    return share < 100 ? { where: where.value, percent: share, salt: salt.value.trim() } : { where: where.value };
  };

  const check = later(async (isNewest) => {
    const list = document.getElementById("problems");
    if (!sql.value.trim()) return list.replaceChildren();
    const body = { sql: sql.value, discovery: discovery.value, target: { where: "" } };
    const found = await api("queries/check", body).catch((problem) => ({ sql: [{ severity: "error", text: problem.message, line: 0, column: 0 }], discovery: [], dangers: [] }));
    if (!isNewest()) return;
    const items = [
      ...found.sql.map((each) => problem(each, sql)),
      ...found.discovery.map((each) => problem(each, discovery)),
    ];
    // Of SQL with an error in it nobody can say what it reads.
    const isWrong = found.sql.some((each) => each.severity === "error");
    if (found.dangers.length && !isWrong) {
      const item = document.createElement("li");
      item.className = "warn";
      const because = found.needs_approval ? "Somebody else will have to approve" : "It may do harm, and you may issue it without approval";
      item.textContent = `${because}: ${found.dangers.join("; ")}`;
      items.push(item);
    }
    list.replaceChildren(...items);
    sql.setAttribute("aria-invalid", String(isWrong));
  }, 300);

  function problem(found, field) {
    const item = document.createElement("li");
    item.className = found.severity === "error" ? "bad" : "warn";
    const of = field === discovery ? "condition: " : "";
    if (found.line) {
      const place = document.createElement("button");
      place.type = "button";
      place.className = "quiet";
      place.textContent = `${of}line ${found.line}, column ${found.column}`;
      place.addEventListener("click", () => goTo(field, found.line, found.column));
      item.append(place, " ");
    }
    item.append(`${found.severity === "error" ? "Error" : "Note"}: ${found.text}`);
    return item;
  }

  function goTo(field, line, column) {
    const before = field.value.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    const letters = [...field.value.slice(before)].slice(0, column - 1).join("").length;
    field.focus();
    field.setSelectionRange(before + letters, before + letters);
  }

  const count = later(async (isNewest) => {
    const said = document.getElementById("count");
    let text = "";
    let isBad = false;
    try {
      const found = await api("targets/count", target());
      const more = found.looked_at < found.known ? ` (of the ${found.looked_at} heard of last; there are ${found.known})` : "";
      text = `${found.nodes} ${found.nodes === 1 ? "node" : "nodes"}, ${found.online} online${more}`;
    } catch (problem) {
      text = problem.message;
      isBad = true;
    }
    if (!isNewest()) return;
    said.textContent = text;
    said.className = isBad ? "small bad-text" : "small";
    where.setAttribute("aria-invalid", String(isBad));
  }, 350);

  for (const field of [sql, discovery]) field.addEventListener("input", check);
  for (const field of [where, percent, salt]) field.addEventListener("input", count);
  check();
  count();

  sql.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(document.getElementById("go"));
  });
}

const tables = document.getElementById("tables");
tables?.addEventListener("toggle", async () => {
  const list = document.getElementById("table-list");
  if (!tables.open || list.childElementCount) return;
  const found = await api("queries/schema");
  for (const table of found.tables) {
    const part = document.createElement("details");
    const name = document.createElement("summary");
    const where = document.createElement("span");
    where.className = "faint";
    where.textContent = ` ${table.platforms.join(", ")}${table.evented ? ", events" : ""}`;
    name.append(table.name, where);
    const columns = document.createElement("p");
    columns.className = "code";
    columns.textContent = table.columns.filter((each) => !each.hidden).map((each) => `${each.name} ${each.type}${each.required ? " (needs a condition)" : ""}`).join(", ");
    part.append(name, columns);
    part.dataset.names = [table.name, ...table.aliases, ...table.columns.map((each) => each.name)].join(" ").toLowerCase();
    list.append(part);
  }
  const filter = document.getElementById("table-filter");
  filter.addEventListener("input", () => {
    const text = filter.value.trim().toLowerCase();
    for (const part of list.children) part.hidden = !part.dataset.names.includes(text);
  });
});
