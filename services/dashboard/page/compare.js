// Two runs: their curves in one picture each, and the settings and results in which they differ.

import { element } from "./shared/api.js";
import { Chart } from "./charts.js";
import { number, table } from "./format.js";

export async function showCompare({ api, base, run, where, main, signal, addressWith }) {
  const { items } = await api.get("v1/runs?limit=200", { signal });
  const others = items.map((one) => one.name).filter((name) => name !== run);
  const other = where.get("with") ?? others[0] ?? "";
  const select = element("select", { id: "with" }, ...others.map((name) => element("option", { value: name }, name)));
  select.value = other;
  select.addEventListener("change", () => { location.hash = addressWith({ with: select.value }); });
  const head = element("p", {}, element("label", { for: "with" }, `${run} compared with `), " ", select);
  main.replaceChildren(head);
  if (!other) {
    head.replaceChildren("There is no other run to compare with.");
    main.dataset.ready = "compare";
    return;
  }
  const [differences, left, right] = await Promise.all([
    api.get(`v1/compare?left=${encodeURIComponent(run)}&right=${encodeURIComponent(other)}`, { signal }),
    api.get(`${base}/curves`, { signal }),
    api.get(`v1/runs/${encodeURIComponent(other)}/curves`, { signal }),
  ]);
  const charts = together(run, left.curves, other, right.curves).map((curve) => new Chart(curve));
  const repaint = () => charts.forEach((chart) => chart.repaint());
  document.addEventListener("vpd-theme", repaint);
  signal.addEventListener("abort", () => {
    document.removeEventListener("vpd-theme", repaint);
    charts.forEach((chart) => chart.destroy());
  });
  main.append(
    differing("Results that differ", run, other, differences.summary),
    element("div", { class: "charts" }, ...charts.map((chart) => chart.card)),
    differing("Settings that differ", run, other, differences.settings),
  );
  charts.forEach((chart) => chart.draw());
  main.dataset.ready = "compare";
}

function together(run, left, other, right) {
  const named = (name, curve) => curve.lines.map((line) => ({ ...line, label: `${name}: ${line.label}` }));
  return left.filter((curve) => right.some((one) => one.key === curve.key)).map((curve) => ({
    ...curve, lines: [...named(run, curve), ...named(other, right.find((one) => one.key === curve.key))],
  }));
}

function differing(title, run, other, rows) {
  const cells = rows.map(({ name, left, right }) => [name, shown(left), shown(right)]);
  return element("section", { class: "card" }, element("h2", {}, title),
    cells.length ? table(title, [["name"], [run], [other]], cells) : element("p", {}, "None."));
}

function shown(value) {
  return typeof value === "object" && value !== null ? JSON.stringify(value) : number(value, 4);
}
