// One rollout: prompt, response in tokens, siblings beside it, what each source said, and what the teacher saw.

import { element } from "./shared/api.js";
import { longText, number, rewardBadge, signed } from "./format.js";

const SHOWN_TOKENS = 2000;
const STRONG_NATS = 3;
const SHADES = 4;

export async function showRollout({ api, base, where, main, signal, addressWith }) {
  const step = where.get("step");
  const path = `${base}/rollouts/${encodeURIComponent(where.get("id"))}${step ? `?step=${encodeURIComponent(step)}` : ""}`;
  const rollout = await api.get(path, { signal });
  const { items } = await api.get(`${base}/steps/${rollout.step}/groups/${encodeURIComponent(rollout.group_id)}`, { signal });
  const at = items.findIndex((one) => one.trajectory_id === rollout.trajectory_id);
  const link = (one, text) => element("a", { href: addressWith({ id: one.trajectory_id, step: String(one.step) }) }, text);
  main.replaceChildren(
    element("p", {}, element("a", { href: addressWith({ id: null, step: null }) }, "All rollouts"), " · ",
      items[at - 1] ? link(items[at - 1], "sibling before") : "", " ", items[at + 1] ? link(items[at + 1], "sibling after") : ""),
    element("h2", { class: "id" }, rollout.trajectory_id),
    element("p", { class: "meta" }, rewardBadge(rollout.reward),
      ...badges(rollout).map((text) => element("span", { class: "badge" }, text)), " ", copyButton()),
    section("Prompt", ...rollout.prompt.map((message) =>
      element("div", {}, element("p", { class: "faint" }, message.role), longText(message.content)))),
    section("Response", tokenView(rollout)),
    section("What each source said", ...(rollout.feedback.length ? rollout.feedback.map((one) => said(one, rollout)) : [
      element("p", { class: "faint" }, "No source was asked.")])),
    teacherPrompts(rollout),
    section(`Siblings (${items.length})`, element("div", { class: "siblings" }, ...items.map((one, i) =>
      element("article", one.trajectory_id === rollout.trajectory_id ? { class: "card this", "aria-current": "true" } : { class: "card" },
        element("p", { class: "meta" }, link(one, `${i}`), " ", rewardBadge(one.reward), ` ${number(one.tokens)} tokens`),
        longText(one.response, { shown: 1200 }),
        ...one.feedback.filter((f) => f.text).map((f) => element("p", { class: "faint excerpt" }, `${f.source.name}: ${f.text.slice(0, 240)}`)))))),
  );
  main.dataset.ready = "rollout";
}

function badges(rollout) {
  return [`step ${rollout.step}`, `policy ${rollout.policy_version}`, `${number(rollout.tokens)} tokens`,
    rollout.finish_reason === "length" ? "truncated" : "", rollout.late ? "late critique" : "",
    rollout.lift_nats === null ? "" : `lift ${signed(rollout.lift_nats)} nats`, rollout.task_id].filter(Boolean);
}

function copyButton() {
  const button = element("button", { type: "button" }, "Copy link");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = "Copied";
    } catch {
      button.textContent = "The link is in the address bar";
    }
  });
  return button;
}

function section(title, ...content) {
  return element("section", { class: "card", "aria-label": title }, element("h3", {}, title), ...content);
}

/** The response, each token coloured by log q - log pi; the number of the token under pointer or focus is said. */
function tokenView({ response, token_texts: texts, token_lift: lifts, lift_nats: whole }) {
  if (!texts) {
    return element("div", {}, longText(response),
      element("p", { class: "faint" }, "No colours: no teacher scored this rollout, or the run is older than the token view."));
  }
  const told = element("p", { class: "told", role: "status" }, "Point at a token, or move to it with the arrow keys, for its number.");
  const text = element("div", { class: "tokens", tabindex: "0", role: "group", "aria-label": "Response, token by token" });
  const tokens = texts.map((text, index) => ({ text, lift: lifts[index] ?? null, index }));
  const shown = tokens.filter((token) => token.text !== "");
  const add = (some) => text.append(...some.map((token) => {
    const span = element("span", { class: `token ${shade(token.lift)}`, "data-token": String(token.index) }, token.text);
    return span;
  }));
  let here = null;
  const tell = (span) => {
    here?.classList.remove("here");
    here = span;
    span.classList.add("here");
    const { lift } = tokens[Number(span.dataset.token)];
    told.textContent = `Token ${span.dataset.token}, ${JSON.stringify(span.textContent)}: ` +
      (lift === null ? "not recorded" : `log q − log π = ${signed(lift, 4)} nats`);
  };
  text.addEventListener("pointerover", (event) => { if (event.target.dataset?.token) tell(event.target); });
  text.addEventListener("keydown", (event) => {
    const next = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (!next) return;
    event.preventDefault();
    const span = here ? here[next] : text.firstElementChild;
    if (span) { tell(span); span.scrollIntoView({ block: "nearest" }); }
  });
  add(shown.slice(0, SHOWN_TOKENS));
  const rest = shown.length - SHOWN_TOKENS;
  const more = element("button", { type: "button" }, `Show ${number(rest)} tokens more`);
  more.addEventListener("click", () => { add(shown.slice(SHOWN_TOKENS)); more.remove(); text.focus(); });
  return element("div", {}, legend(whole), text, rest > 0 ? more : "", told);
}

function legend(whole) {
  const steps = [];
  for (let i = -SHADES; i <= SHADES; i += 1) {
    steps.push(element("span", { class: `token ${i === 0 ? "" : shadeName(i)}` }, i === 0 ? "0" : signed((i * STRONG_NATS) / SHADES, 1)));
  }
  return element("p", { class: "legend" }, "log q − log π in nats. The teacher likes the token less ", ...steps, " more than the student.",
    whole === null ? "" : ` Whole response: ${signed(whole)}.`);
}

function shade(lift) {
  if (lift === null) return "unknown";
  const strength = Math.max(-SHADES, Math.min(SHADES, Math.round((lift / STRONG_NATS) * SHADES)));
  return strength === 0 ? "" : shadeName(strength);
}

function shadeName(strength) {
  return strength < 0 ? `less-${-strength}` : `more-${strength}`;
}

function said(one, { feedback_in_prompt: held }) {
  const use = held === null ? "" : held.includes(one.source.name) ? "stood in the teacher's prompt" : "not in the teacher's prompt";
  const outcome = one.reward === null || one.reward === undefined ? "" : `reward ${number(one.reward)}`;
  const latency = one.latency_ms === null ? "" : `${number(one.latency_ms)} ms`;
  return element("article", { class: "said" },
    element("p", { class: "meta" }, element("strong", {}, one.source.name), ` ${[one.status, outcome, latency, use].filter(Boolean).join(" · ")}`),
    one.text ? longText(one.text) : "",
    one.error ? element("p", { class: "bad" }, one.error.message) : "");
}

function teacherPrompts({ m_step_teacher_prompt: m, e_step_teacher_prompt: e, feedback_chars_cut: cut }) {
  const shown = [["M-step: what the student is distilled from", m]];
  if (e !== m) shown.push(["E-step: what outcomes are learned under", e]);
  return section("The exact teacher prompt", ...shown.map(([title, text]) => element("details", text ? { open: "" } : {},
    element("summary", {}, title), text ? longText(text) : element("p", { class: "faint" }, "There was none."))),
    cut ? element("p", { class: "warn" }, `${number(cut)} characters of feedback were cut to fit.`) : "");
}
