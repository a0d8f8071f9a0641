// Has the page made again by the server every ten seconds, as long as somebody can see it, and puts the new part in.
import { refresh } from "./moments.js";
import { watch } from "./charts.js";

const period = 10_000;

async function again() {
  if (document.hidden) return;
  const live = document.getElementById("live");
  if (live.contains(document.activeElement) || live.querySelector(":hover .readout:not(:empty)")) return;
  const response = await fetch(location.href, { credentials: "same-origin", redirect: "manual" }).catch(() => null);
  if (response?.type === "opaqueredirect") return location.reload();
  if (!response?.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const part = page.getElementById("live");
  if (!part) return;
  live.replaceWith(document.adoptNode(part));
  watch(part);
  refresh(part);
}

watch(document);
setInterval(again, period);
