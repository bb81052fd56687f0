// The run's curves, live: they come with a position, after which the stream goes on.

import { element } from "./shared/api.js";
import { Chart } from "./charts.js";
import { number, percent } from "./format.js";

export async function showOverview(view) {
  const { api, base, main, signal, showLine } = view;
  const links = element("p", { class: "actions" }, downloadButton(view, "report", "HTML report"),
    downloadButton(view, "export?what=metrics", "Records (JSONL)"));
  const figures = element("dl", { class: "tiles" });
  const place = element("div");
  main.replaceChildren(figures, place, links);
  const charts = new Map();
  const seen = new Set();
  const repaint = () => charts.forEach((chart) => chart.repaint());
  document.addEventListener("vpd-theme", repaint);
  signal.addEventListener("abort", () => {
    document.removeEventListener("vpd-theme", repaint);
    charts.forEach((chart) => chart.destroy());
  });

  const load = async () => {
    const answer = await api.get(`${base}/curves`, { signal });
    charts.forEach((chart) => chart.destroy());
    charts.clear();
    const groups = Object.entries(answer.groups).map(([group, title]) => {
      const some = answer.curves.filter((curve) => curve.group === group);
      if (some.length === 0) return "";
      const cards = some.map((curve) => {
        const chart = new Chart(curve);
        charts.set(curve.key, chart);
        return chart.card;
      });
      return element("section", { class: "group" }, element("h2", {}, title), element("div", { class: "charts" }, ...cards));
    });
    place.replaceChildren(...groups);
    if (answer.curves.length === 0) place.append(element("p", { class: "card" }, "No step is done yet; its figures will appear here."));
    charts.forEach((chart) => chart.draw());
    return answer;
  };

  let { position } = await load();
  showTiles(figures, await api.get(base, { signal }));
  main.dataset.ready = "overview";
  for (;;) {
    const path = `${base}/events?after=${encodeURIComponent(position)}`;
    let again = false;
    for await (const event of api.events(path, { signal, onState: showConnection })) {
      const data = JSON.parse(event.data);
      if (event.type === "run") {
        showLine(data);
        showTiles(figures, data);
      } else if (event.type === "replaced" || !append(charts, seen, event.type, data)) {
        again = true;
        break;
      }
    }
    if (!again) return;
    ({ position } = await load());
  }
}

/** Put a record's numbers at the ends of the lines; false where the charts must be fetched anew: a step was done again,
 *  or a number came for the first time, which may have a chart of its own. */
function append(charts, seen, type, record) {
  const kind = type === "timings" ? "timings" : record.kind;
  const x = record.step + (kind === "step" || kind === "timings" ? 1 : 0);
  const names = Object.keys(record).filter((name) => typeof record[name] === "number").map((name) => `${kind} ${name}`);
  const fresh = names.filter((name) => !seen.has(name));
  fresh.forEach((name) => seen.add(name));
  if (fresh.length) return false;
  for (const chart of charts.values()) {
    const lines = chart.lines.filter((line) => line.kind === kind && typeof record[line.name] === "number");
    for (const line of lines) {
      if (line.x.length && line.x.at(-1) >= x) return false;
      line.x.push(x);
      line.y.push(record[line.name]);
    }
    if (lines.length) chart.draw();
  }
  return true;
}

function showTiles(place, line) {
  const tiles = [
    ["student, held out", percent(line.student_accuracy)],
    ["teacher, held out", percent(line.teacher_accuracy)],
    ["reward of the last step", number(line.reward_mean)],
    ["steps done", `${line.steps_done} of ${line.steps ?? "?"}`],
  ];
  place.replaceChildren(...tiles.map(([name, value]) =>
    element("div", { class: "card" }, element("dt", {}, name), element("dd", {}, value))));
}

function showConnection(sentence) {
  const place = document.getElementById("connection");
  place.hidden = sentence === "";
  place.textContent = sentence ? `${sentence} The curves go on when it is back.` : "";
}

/** A download cannot send a key by itself: the page fetches it and hands it over. */
export function downloadButton({ api, base, run, signal }, path, title) {
  const button = element("button", { type: "button" }, title);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const blob = await api.blob(`${base}/${path}`, { signal });
      const link = element("a", { href: URL.createObjectURL(blob), download: path.startsWith("report") ? `${run}.html` : `${run}.jsonl` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch (error) {
      if (!signal.aborted) button.after(element("span", { class: "bad", role: "alert" }, ` ${error.message}`));
    } finally {
      button.disabled = false;
    }
  });
  return button;
}
