// A curve: a picture by uPlot, what it tells, and the same figures as a table for those who do not see it.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { element } from "./shared/api.js";
import { number, table } from "./format.js";

const HEIGHT = 190;
const TABLE_ROWS = 12;
const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]];

/** The colour that a variable has in this theme; a canvas does not know `light-dark()`. */
function colour(name) {
  const probe = element("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** A card with `title`, `note` and `unit`; `lines` are [{label, x, y}], which may change before `draw`. */
export class Chart {
  constructor({ key, title, note, unit, lines }) {
    this.lines = lines;
    this.title = title;
    this.unit = unit;
    this.picture = element("div", { class: "picture", "aria-hidden": "true" });
    this.figures = element("details", {}, element("summary", {}, "Figures"));
    this.card = element("section", { class: "card chart", "data-chart": key, "aria-label": title },
      element("h3", {}, title), this.picture, element("p", { class: "faint" }, note), this.figures);
    this.figures.addEventListener("toggle", () => this.#list());
    this.resized = new ResizeObserver(() => this.plot?.setSize({ width: this.#width(), height: HEIGHT }));
  }

  /** Draw what the lines are now. */
  draw() {
    this.card.dataset.points = String(this.lines.reduce((sum, line) => sum + line.x.length, 0));
    const data = joined(this.lines);
    if (this.plot) this.plot.setData(data);
    else this.#plot(data);
    this.#list();
  }

  /** Draw anew, in the colours of the theme. */
  repaint() {
    this.plot?.destroy();
    this.plot = null;
    this.draw();
  }

  destroy() {
    this.resized.disconnect();
    this.plot?.destroy();
  }

  #plot(data) {
    const ink = colour("--faint"), grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: ink, grid, ticks: grid, font: "12px sans-serif" };
    const series = this.lines.map((line, i) => ({
      label: line.label, stroke: colour(`--line-${i % 6}`), width: 2, dash: DASHES[i % DASHES.length],
      spanGaps: true, points: { show: line.x.length < 40 }, value: (_, value) => number(value),
    }));
    this.plot = new uPlot({
      width: this.#width(), height: HEIGHT, scales: { x: { time: false }, y: this.unit === "share" ? { range: [0, 1] } : {} },
      axes: [{ ...axis, size: 34 }, { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => number(tick)) }],
      series: [{ label: "steps done", value: (_, value) => number(value) }, ...series],
      cursor: { drag: { x: true, y: false } },
    }, data, this.picture);
    this.resized.observe(this.picture);
  }

  #width() {
    return Math.max(200, this.picture.clientWidth);
  }

  /** Only while it is open: a table in each card would cost more than the pictures. */
  #list() {
    if (!this.figures.open) return;
    const [x, ...ys] = joined(this.lines);
    const every = Math.max(1, Math.ceil(x.length / TABLE_ROWS));
    const rows = [];
    for (let i = x.length - 1; i >= 0; i -= every) rows.unshift([number(x[i]), ...ys.map((y) => number(y[i]))]);
    const columns = [["steps done", true], ...this.lines.map((line) => [line.label, true])];
    this.figures.replaceChildren(this.figures.firstChild, table(`${this.title}, ${this.unit}`, columns, rows));
  }
}

/** Lines with points of their own as uPlot wants them: one x for all, null where a line has no point. */
function joined(lines) {
  const x = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const place = new Map(x.map((value, index) => [value, index]));
  return [x, ...lines.map((line) => {
    const y = new Array(x.length).fill(null);
    line.x.forEach((value, index) => { y[place.get(value)] = line.y[index]; });
    return y;
  })];
}
