// What each feedback source did: how often, how fast, how often it failed, and whether its text teaches.

import { element } from "./shared/api.js";
import { number, percent, signed, table } from "./format.js";

export async function showSources({ api, base, where, main, signal, addressWith }) {
  const last = Number(where.get("last")) || 20;
  const { items, steps } = await api.get(`${base}/sources?last_steps=${last}`, { signal });
  const input = element("input", { type: "number", min: "1", id: "last", value: String(last) });
  input.addEventListener("change", () => { location.hash = addressWith({ last: input.value }); });
  const rows = items.map((source) => [
    element("a", { href: addressWith({ tab: "rollouts", source: source.name }) }, source.name),
    number(source.answers), percent(source.share), percent(source.in_prompt),
    `${number(source.latency_p50_ms)} / ${number(source.latency_p95_ms)}`,
    failureCell(source.errors), failureCell(source.timeouts), number(source.abstentions), number(source.chars_mean),
    liftCell(source), signed(source.e_step_lift_nats),
  ]);
  const columns = [["source"], ["answers", true], ["with words", true], ["in the teacher's prompt", true],
    ["latency p50 / p95, ms", true], ["errors", true], ["timeouts", true], ["abstentions", true],
    ["characters", true], ["teacher lift, nats", true], ["in the E-step", true]];
  main.replaceChildren(
    element("p", {}, element("label", { for: "last" }, "Of the last "), " ", input, ` steps (there are ${steps})`),
    items.length ? table("Feedback sources", columns, rows) : element("p", { class: "card" }, "No rollout has feedback yet."),
    element("p", { class: "faint" }, "Teacher lift: mean log q − log π of whole responses whose teacher prompt held this " +
      "source's text, successes minus failures. Above 0, its text makes the teacher prefer what was right. In the " +
      "E-step a success is shown what was said of it, and no other success. " +
      "“–”: not recorded, or only one of the two occurred."),
  );
  main.dataset.ready = "sources";
}

function failureCell(count) {
  return element("span", count ? { class: "bad" } : {}, number(count));
}

function liftCell({ teacher_lift_nats: lift, success_lift: success, failure_lift: failure }) {
  const cell = element("span", {}, element("strong", { class: lift === null ? "" : lift > 0 ? "good" : "bad" }, signed(lift)));
  cell.append(element("small", {}, ` (${signed(success.nats)} on ${number(success.rollouts)}, ${signed(failure.nats)} on ${number(failure.rollouts)})`));
  return cell;
}
