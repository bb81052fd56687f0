// Numbers and texts for people. Texts of rollouts are hostile: they become text nodes, never markup.

import { element } from "./shared/api.js";

const SHOWN_CHARS = 4000;

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
}

export function percent(value) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`;
}

export function signed(value, digits = 2) {
  return value === null || value === undefined ? "–" : `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(digits)}`;
}

export function failed(error) {
  return element("p", { class: "notice bad", role: "alert" }, error.message);
}

/** A text as it is; a long one is cut, with a button for the rest. */
export function longText(text, { shown = SHOWN_CHARS } = {}) {
  const pre = element("pre", { class: "wrap", tabindex: "0" }, text.slice(0, shown));
  if (text.length <= shown) return pre;
  const rest = text.length - shown;
  const more = element("button", { type: "button" }, `Show ${number(rest)} characters more`);
  more.addEventListener("click", () => {
    pre.textContent = text;
    more.remove();
    pre.focus();
  });
  return element("div", {}, pre, more);
}

/** A table: `columns` are [title, isNumber], rows are lists of texts or nodes. */
export function table(caption, columns, rows) {
  const head = element("tr", {}, ...columns.map(([title, isNumber]) =>
    element("th", { scope: "col", ...(isNumber ? { class: "number" } : {}) }, title)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell, i) =>
    element("td", columns[i][1] ? { class: "number" } : {}, cell ?? "–"))));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element("table", {}, element("caption", { class: "unseen" }, caption), element("thead", {}, head),
      element("tbody", {}, ...body)));
}

export function rewardBadge(reward) {
  const kind = reward === null ? "" : reward >= 1 ? "good" : reward <= 0 ? "bad" : "warn";
  return element("span", { class: `badge ${kind}` }, `reward ${number(reward)}`);
}
