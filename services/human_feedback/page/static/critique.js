// The boxes that a critique is written in. They are the only copy of it in the page, and none is ever made anew while
// somebody writes.

import { element } from "./shared/api.js";
import { markPassages, passage, selectedPassage } from "./attempt.js";

const words = document.getElementById("critique");
const corrected = document.getElementById("corrected");
const fix = document.getElementById("fix");
const toggleFix = document.getElementById("toggle-fix");
const remarks = document.getElementById("remarks");
const verdicts = [...document.querySelectorAll("input[name=verdict]")];

let response = "";
let changed = () => {};

/** `onChange()` is called with each change. */
export function onCritiqueChange(onChange) {
  changed = onChange;
  for (const box of [words, corrected, remarks]) box.addEventListener("input", () => changed());
  for (const radio of verdicts) radio.addEventListener("change", () => changed());
}

/** Put `critique` (null: nothing) into the boxes, about a rollout's `text`. */
export function fill(critique, text) {
  response = text;
  words.value = critique?.text ?? "";
  corrected.value = critique?.corrected_response ?? "";
  openFix(corrected.value !== "");
  for (const radio of verdicts) radio.checked = radio.value === critique?.verdict;
  remarks.replaceChildren(...(critique?.spans ?? []).map(remark));
  mark();
}

/** What stands in the boxes; a remark without words too, since it is a draft. */
export function written(author) {
  return {
    text: words.value,
    verdict: verdicts.find((radio) => radio.checked)?.value ?? null,
    spans: spans(),
    corrected_response: !fix.hidden && corrected.value !== response && corrected.value.trim() ? corrected.value : null,
    author,
  };
}

/** The critique to submit; null where nobody could read anything in it. */
export function finished(author) {
  const critique = written(author);
  critique.spans = critique.spans.filter((span) => span.text.trim());
  return critique.text.trim() || critique.spans.length || critique.corrected_response !== null ? critique : null;
}

/** Keep what is typed out of boxes whose critique is on its way. */
export function lockBoxes(locked) {
  for (const box of [words, corrected, ...remarks.querySelectorAll("input")]) box.readOnly = locked;
}

/** A remark on the selected passage; false where none is selected. */
export function addRemark() {
  const found = selectedPassage();
  if (found === null) return false;
  remarks.append(remark({ ...found, text: "" }));
  mark();
  remarks.lastElementChild.querySelector("input").focus();
  changed();
  return true;
}

export function focusWords() { words.focus(); }

export function wordsHaveFocus() { return document.activeElement === words; }

export function chooseVerdict(value) {
  const radio = verdicts.find((other) => other.value === value);
  radio.checked = !radio.checked;
  changed();
}

/** Open the box for a fix, which begins with the attempt, or close it: then there is no fix. */
export function toggleFixBox() {
  const opening = fix.hidden;
  if (opening && corrected.value === "") corrected.value = response;
  openFix(opening);
  if (opening) {
    corrected.focus();
    corrected.setSelectionRange(0, 0);
  }
  changed();
}

function openFix(open) {
  fix.hidden = !open;
  toggleFix.setAttribute("aria-expanded", String(open));
}

function spans() {
  return [...remarks.children].map((item) => ({
    start: Number(item.dataset.start),
    end: Number(item.dataset.end),
    text: item.querySelector("input").value,
  }));
}

function remark({ start, end, text }) {
  const input = element("input", { "aria-label": "Remark on this passage", maxlength: "2000" });
  input.value = text;
  const remove = element("button", { type: "button", "aria-label": "Delete this remark" }, "Delete");
  const item = element("li", {}, element("blockquote", {}, passage({ start, end })), element("div", { class: "row" }, input, remove));
  Object.assign(item.dataset, { start, end });
  remove.addEventListener("click", () => {
    item.remove();
    mark();
    changed();
    words.focus();
  });
  return item;
}

function mark() { markPassages(spans()); }
