// What is under the pointer, in words below a chart.  The values are in the chart; nothing is asked for.
const format = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });

function show(figure, event) {
  const box = figure.querySelector("svg").getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  const curves = [...figure.querySelectorAll(".curve")].map((path) => [path.dataset.name, JSON.parse(path.dataset.values)]);
  const points = curves[0][1].length;
  const index = Math.round(share * (points - 1));
  const at = new Date((Number(figure.dataset.at) - (points - 1 - index) * Number(figure.dataset.step)) * 1000);
  const said = curves.map(([name, values]) => `${name} ${values[index] === null ? "–" : format.format(values[index])}`);
  figure.querySelector(".readout").textContent = `${at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}: ${said.join(", ")}`;
}

export function watch(root) {
  for (const figure of root.querySelectorAll(".chart")) {
    const plot = figure.querySelector(".plot");
    if (!plot) continue;
    plot.addEventListener("pointermove", (event) => show(figure, event));
    plot.addEventListener("pointerleave", () => { figure.querySelector(".readout").textContent = ""; });
  }
}
