// What a reviewer reads beside the attempt: the prompt, the outcome, other attempts, what machines said.

import { element } from "./shared/api.js";

const siblingBox = document.getElementById("sibling");
const buttons = document.getElementById("sibling-buttons");
let shown = -1;
let fetchSibling = null;

/** The prompt, message by message. */
export function showPrompt(messages) {
  const parts = messages.flatMap(({ role, content }) => [
    ...(messages.length > 1 ? [element("h3", {}, role)] : []),
    element("div", { class: "message", tabindex: "0", role: "group", "aria-label": `${role} message` }, content),
  ]);
  document.getElementById("prompt").replaceChildren(...parts);
}

/** The outcome, what machines said, and the siblings' outcomes; of a blind task only that they are hidden. */
export function showOutcome({ blind, item }) {
  const badge = document.getElementById("outcome");
  badge.hidden = blind || item.success === null;
  badge.textContent = item.success ? "passed" : "failed";
  badge.className = `badge ${item.success ? "good" : "bad"}`;
  document.getElementById("truncated").hidden = item.response.finish_reason === "stop";
  document.getElementById("version").textContent = `policy version ${item.policy_version}`;
  document.getElementById("said").replaceChildren(...(blind ? [hidden()] : said(item)));
  for (const [number, sibling] of item.siblings.entries()) {
    const button = buttons.children[number];
    if (button) button.textContent = `${number + 1}${blind || sibling.success === null ? "" : sibling.success ? " passed" : " failed"}`;
  }
}

function hidden() {
  return element("p", { class: "faint" }, "Hidden until your first draft is saved, so that it does not sway you.");
}

function said(item) {
  const all = (item.said ?? []).filter((one) => one.text || one.status !== "ok" || one.success !== null);
  if (all.length === 0) return [element("p", { class: "faint" }, "No machine has said anything about this attempt.")];
  return all.map((one) => {
    const outcome = one.success === null || one.success === undefined ? "" : one.success ? " · passed" : " · failed";
    const title = element("h3", {}, `${one.source}${outcome}${one.status === "ok" ? "" : ` · ${one.status}`}`);
    return element("div", { class: "said-by" }, title, ...(one.text ? [element("pre", { class: "wrap", tabindex: "0" }, one.text)] : []));
  });
}

/** Buttons for the siblings, and the first one's difference; `fetch(number)` gives its HTML. */
export function showSiblings(siblings, fetch) {
  fetchSibling = fetch;
  shown = -1;
  siblingBox.replaceChildren();
  document.getElementById("siblings").hidden = siblings.length === 0;
  buttons.replaceChildren(...siblings.map((_, number) => {
    const button = element("button", { type: "button", "aria-pressed": "false" }, String(number + 1));
    button.addEventListener("click", () => compare(number));
    return button;
  }));
  if (siblings.length > 0) compare(0);
}

/** Compare with the sibling `by` places further. */
export function nextSibling(by) {
  const count = buttons.children.length;
  if (count > 0) compare((shown + by + count) % count);
}

async function compare(number) {
  shown = number;
  const asked = fetchSibling;
  for (const [other, button] of [...buttons.children].entries()) button.setAttribute("aria-pressed", String(other === number));
  try {
    const { html } = await asked(number);
    // Meanwhile another task or sibling may have been chosen.
    if (asked !== fetchSibling || number !== shown) return;
    // The service has escaped every character of both texts.
    siblingBox.innerHTML = html;
    siblingBox.scrollTop = 0;
  } catch (problem) {
    if (asked === fetchSibling) siblingBox.textContent = problem.message;
  }
}
