// Parts of a page that are asked for anew, as the server makes them: data-refresh is how many seconds lie between.
import { refresh as refreshMoments } from "./moments.js";

const parts = [...document.querySelectorAll("[data-refresh]")];
for (const url of new Set(parts.map((part) => part.dataset.refreshFrom))) {
  follow(url, parts.filter((part) => part.dataset.refreshFrom === url));
}

async function follow(url, followed) {
  const before = new Map();
  while (followed.length) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(followed[0].dataset.refresh)));
    if (document.hidden) continue;
    let text;
    try {
      const answer = await fetch(url, { credentials: "same-origin" });
      if (answer.redirected) return;
      if (!answer.ok) continue;
      text = await answer.text();
    } catch {
      continue; // The server is away; it comes back.
    }
    const found = new DOMParser().parseFromString(text, "text/html");
    for (const part of [...followed]) {
      const next = found.getElementById(part.id);
      // What somebody is about to type into or to confirm stays.
      if (part.contains(document.activeElement) || part.querySelector("details[open]")) continue;
      if (next && next.innerHTML !== before.get(part)) {
        before.set(part, next.innerHTML);
        part.replaceChildren(...next.childNodes);
        refreshMoments(part);
      }
      if (!next?.dataset.refresh) followed.splice(followed.indexOf(part), 1);
    }
  }
}
