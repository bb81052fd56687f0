// Prompts with their rollouts, or rollouts alone: sorted, filtered, searched; every choice stands in the address.

import { element } from "./shared/api.js";
import { downloadButton } from "./overview.js";
import { number, rewardBadge, signed } from "./format.js";

const FILTERS = ["sort", "source", "source_status", "min_reward", "max_reward", "truncated", "late", "search", "from_step", "to_step"];

export async function showRollouts(view) {
  const { where, main, addressWith } = view;
  const grouped = where.get("by") !== "rollout";
  const query = new URLSearchParams([...where].filter(([name]) => FILTERS.includes(name)));
  const list = element("div", { class: "list" });
  const summary = element("p", { class: "faint", role: "status", id: "found" });
  const exported = new URLSearchParams(query);
  exported.delete("sort");
  main.replaceChildren(filterForm(where, addressWith), summary, list,
    element("p", { class: "actions" }, downloadButton(view, `export?${exported}`, "Export what matches (JSONL)")));
  await addPage(view, list, summary, query, grouped, null);
  main.dataset.ready = "rollouts";
}

async function addPage(view, list, summary, query, grouped, cursor) {
  const { api, base, signal } = view;
  const asked = new URLSearchParams(query);
  asked.set("limit", grouped ? "20" : "50");
  if (cursor) asked.set("cursor", cursor);
  const page = await api.get(`${base}/${grouped ? "groups" : "rollouts"}?${asked}`, { signal });
  const what = grouped ? "prompts" : "rollouts";
  const steps = page.from_step === null ? "no step has rollouts yet" : `steps ${page.from_step} to ${page.to_step}`;
  summary.textContent = `${number(page.total)} ${what} match; ${steps}.`;
  const first = list.children.length;
  list.append(...page.items.map((item) => (grouped ? groupCard(view, item) : rolloutCard(view, item))));
  if (cursor) list.children[first]?.querySelector("a")?.focus();
  if (!page.next_cursor) return;
  const more = element("button", { type: "button" }, "More");
  more.addEventListener("click", async () => {
    more.remove();
    await addPage(view, list, summary, query, grouped, page.next_cursor);
  });
  list.append(more);
}

function groupCard(view, group) {
  const rewards = element("ul", { class: "rewards", "aria-label": "Rollouts" }, ...group.rollouts.map((rollout, i) =>
    element("li", {}, rolloutLink(view, rollout, `${i}: ${number(rollout.reward)}`))));
  return element("article", { class: "card" },
    element("p", { class: "meta" }, element("strong", {}, `mean reward ${number(group.reward_mean)}`),
      ` · step ${group.step} · ${group.task_id}`),
    element("p", { class: "excerpt" }, group.prompt), rewards);
}

function rolloutCard(view, rollout) {
  const said = rollout.feedback.map((one) => `${one.name}: ${one.status}${one.chars ? `, ${number(one.chars)} characters` : ""}`);
  return element("article", { class: "card" },
    element("p", { class: "meta" }, rolloutLink(view, rollout, rollout.trajectory_id), " ", rewardBadge(rollout.reward),
      rollout.truncated ? element("span", { class: "badge warn" }, "truncated") : "",
      rollout.late ? element("span", { class: "badge" }, "late critique") : ""),
    element("p", { class: "excerpt" }, rollout.prompt),
    element("pre", { class: "wrap excerpt" }, rollout.response),
    element("p", { class: "faint" }, `${number(rollout.tokens)} tokens · policy ${rollout.policy_version} · lift ${signed(rollout.lift_nats)} nats · ${said.join("; ") || "nobody said anything"}`));
}

function rolloutLink({ addressWith }, rollout, text) {
  const kind = rollout.reward === null ? "" : rollout.reward >= 1 ? "good" : rollout.reward <= 0 ? "bad" : "warn";
  return element("a", { href: addressWith({ id: rollout.trajectory_id, step: String(rollout.step) }), class: kind,
    "aria-label": `${rollout.trajectory_id}, reward ${number(rollout.reward)}` }, text);
}

function filterForm(where, addressWith) {
  const form = element("form", { class: "filters card", "aria-label": "Filters" },
    chosen("by", "Show", { group: "by prompt", rollout: "single rollouts" }, where),
    chosen("sort", "Sort", { newest: "newest", worst: "worst first", best: "best first" }, where),
    typed("source", "Source", "text", where),
    chosen("source_status", "that", { ok: "said something", abstain: "abstained", error: "failed", timeout: "timed out" }, where),
    typed("min_reward", "Reward from", "number", where, { min: 0, max: 1, step: "any" }),
    typed("max_reward", "to", "number", where, { min: 0, max: 1, step: "any" }),
    chosen("truncated", "Truncated", { "": "any", true: "only", false: "not" }, where),
    chosen("late", "Late critique", { "": "any", true: "only", false: "not" }, where),
    typed("from_step", "Steps from", "number", where, { min: 0, step: 1 }),
    typed("to_step", "to", "number", where, { min: 0, step: 1 }),
    typed("search", "Search", "search", where, { maxlength: 200 }),
    element("button", { type: "submit" }, "Apply"),
    element("a", { href: addressWith(Object.fromEntries(FILTERS.map((name) => [name, null]))) }, "Clear"));
  const apply = () => {
    const changes = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value).trim()]));
    if (changes.source === "") changes.source_status = "";
    location.hash = addressWith(changes);
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  form.addEventListener("change", (event) => { if (event.target.tagName === "SELECT") apply(); });
  return form;
}

function chosen(name, title, options, where) {
  const select = element("select", { name, id: `filter-${name}` },
    ...Object.entries(options).map(([value, text]) => element("option", { value }, text)));
  select.value = where.get(name) ?? Object.keys(options).find((value) => value in { newest: 1, group: 1, ok: 1, "": 1 }) ?? "";
  return element("span", { class: "field" }, element("label", { for: select.id }, title), select);
}

function typed(name, title, type, where, attributes = {}) {
  const input = element("input", { name, type, id: `filter-${name}`, value: where.get(name) ?? "", ...attributes });
  return element("span", { class: "field" }, element("label", { for: input.id }, title), input);
}
