// The attempt: its text, a caret for keys, and the passages that remarks are about. Offsets count code points, as the
// service's do; the DOM counts UTF-16 units.

const box = document.getElementById("attempt");
let text = "";

/** Show `html`, whose text is `response`. */
export function showAttempt(html, response) {
  text = response;
  // The service has escaped every character of the response.
  box.innerHTML = html;
  box.scrollTop = 0;
  markPassages([]);
}

/** The selected passage as `{ start, end }`; null where nothing of the attempt is selected. */
export function selectedPassage() {
  const selection = getSelection();
  if (selection.rangeCount === 0 || selection.isCollapsed) return null;
  const range = selection.getRangeAt(0);
  if (!range.intersectsNode(box)) return null;
  const within = document.createRange();
  within.selectNodeContents(box);
  if (range.compareBoundaryPoints(Range.START_TO_START, within) > 0) within.setStart(range.startContainer, range.startOffset);
  if (range.compareBoundaryPoints(Range.END_TO_END, within) < 0) within.setEnd(range.endContainer, range.endOffset);
  const before = document.createRange();
  before.setStart(box, 0);
  before.setEnd(within.startContainer, within.startOffset);
  const start = [...before.toString()].length;
  const end = start + [...within.toString()].length;
  return end > start ? { start, end } : null;
}

/** The text from code point `start` to `end`. */
export function passage({ start, end }) {
  return [...text].slice(start, end).join("");
}

/** Mark passages, without touching the text. */
export function markPassages(passages) {
  if (!globalThis.CSS?.highlights) return;
  CSS.highlights.set("remark", new Highlight(...passages.map(range)));
}

function range({ start, end }) {
  const points = [...text];
  const [from, to] = [points.slice(0, start).join("").length, points.slice(0, end).join("").length];
  const found = document.createRange();
  let at = 0;
  const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, next = at + node.length;
    if (from >= at && from < next) found.setStart(node, from - at);
    if (to > at && to <= next) found.setEnd(node, to - at);
    at = next;
  }
  return found;
}

const STEPS = {
  ArrowLeft: ["backward", "character", "word"],
  ArrowRight: ["forward", "character", "word"],
  ArrowUp: ["backward", "line", "line"],
  ArrowDown: ["forward", "line", "line"],
  Home: ["backward", "lineboundary", "documentboundary"],
  End: ["forward", "lineboundary", "documentboundary"],
};

box.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (step === undefined || event.metaKey) return;
  event.preventDefault();
  const selection = getSelection();
  if (!box.contains(selection.focusNode)) selection.collapse(box, 0);
  const [direction, unit, withControl] = step;
  const before = [selection.anchorNode, selection.anchorOffset, selection.focusNode, selection.focusOffset];
  selection.modify(event.shiftKey ? "extend" : "move", direction, event.ctrlKey || event.altKey ? withControl : unit);
  // Out of the attempt is no passage of it.
  if (!box.contains(selection.focusNode)) selection.setBaseAndExtent(...before);
  showCaret(selection);
});
box.addEventListener("blur", () => globalThis.CSS?.highlights?.delete("caret"));

function showCaret(selection) {
  const caret = document.createRange();
  caret.setStart(selection.focusNode, selection.focusOffset);
  const place = caret.getBoundingClientRect(), around = box.getBoundingClientRect();
  if (place.height > 0 && place.bottom > around.bottom) box.scrollTop += place.bottom - around.bottom + 8;
  if (place.height > 0 && place.top < around.top) box.scrollTop -= around.top - place.top + 8;
  if (!globalThis.CSS?.highlights) return;
  const node = selection.focusNode;
  if (node.nodeType === Node.TEXT_NODE && selection.focusOffset < node.length) caret.setEnd(node, selection.focusOffset + 1);
  CSS.highlights.set("caret", new Highlight(caret));
}
