// The page's frame: which run, which view, and the address that says so.
//
//     #run=demo&tab=rollouts&id=demo-1a2b3c-s000003-g000-r00
//
// The address alone decides what is shown: every link is one, and a reload or a colleague sees the same.

import { Api, element } from "./shared/api.js";
import { showCompare } from "./compare.js";
import { failed } from "./format.js";
import { showOverview } from "./overview.js";
import { showRollout } from "./rollout.js";
import { showRollouts } from "./rollouts.js";
import { showSources } from "./sources.js";

const api = new Api(new URL(".", location.href));
const main = document.getElementById("main");
const select = document.getElementById("run");
const views = { overview: showOverview, sources: showSources, rollouts: showRollouts, compare: showCompare };
let leaving = new AbortController();

/** The address's fields with changes; null takes one away. */
export function addressWith(changes, from = fields()) {
  const changed = new URLSearchParams(from);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") changed.delete(name);
    else changed.set(name, value);
  }
  return `#${changed}`;
}

function fields() {
  return new URLSearchParams(location.hash.slice(1));
}

async function start() {
  select.addEventListener("change", () => {
    location.hash = addressWith({ run: select.value, tab: fields().get("tab") }, new URLSearchParams());
  });
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  addEventListener("hashchange", show);
  try {
    await listRuns();
  } catch (error) {
    main.replaceChildren(failed(error));
    return;
  }
  show();
}

async function listRuns() {
  const { items } = await api.get("v1/runs?limit=200");
  select.replaceChildren(...items.map((run) => element("option", { value: run.name }, run.name)));
  if (items.length === 0) select.append(element("option", { value: "" }, "none yet"));
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const where = fields();
  const run = where.get("run") || select.value;
  const tab = views[where.get("tab")] ? where.get("tab") : "overview";
  for (const link of document.querySelectorAll("[data-tab]")) {
    link.href = addressWith({ tab: link.dataset.tab, run, id: null, step: null });
    if (link.dataset.tab === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!run) {
    main.replaceChildren(element("p", { class: "card" }, "There is no run yet. Start one with: ./vpd up"));
    return;
  }
  if (![...select.options].some((option) => option.value === run)) select.append(element("option", { value: run }, run));
  select.value = run;
  document.title = `${run}: ${tab}`;
  const view = tab === "rollouts" && where.get("id") ? showRollout : views[tab];
  const base = `v1/runs/${encodeURIComponent(run)}`;
  try {
    showLine(await api.get(base, { signal }));
    await view({ api, base, run, where, signal, main, addressWith, showLine });
  } catch (error) {
    if (!signal.aborted) main.replaceChildren(failed(error));
  }
}

/** The run's state and how far it is, in the bar. */
function showLine(line) {
  const state = document.getElementById("state");
  state.hidden = false;
  state.textContent = line.state;
  state.className = `badge ${{ running: "good", stopped: "warn" }[line.state] ?? ""}`;
  const left = line.eta_s ? `, ${Math.ceil(line.eta_s / 60)} min left` : "";
  document.getElementById("progress").textContent =
    `${line.algorithm}, step ${line.steps_done} of ${line.steps ?? "?"}${left}`;
}

start();
