// What became of the reviewer's critiques, kept up to date while the page is looked at.

import { element } from "./shared/api.js";

const POLL_MS = 4000;
const SHOWN = 8;
const list = document.getElementById("fate-list");

/** Keep the list of `reviewer` up to date; what is given back looks at once. */
export function watchFates(api, reviewer) {
  const look = async () => {
    try {
      const { items } = await api.get(`v1/review/critiques/${encodeURIComponent(reviewer)}?limit=${SHOWN}`);
      show(items);
    } catch {
      // The next look may succeed; what is wrong with the service is said where somebody waits for it.
    }
  };
  setInterval(() => { if (!document.hidden) look(); }, POLL_MS);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  look();
  return look;
}

function show(items) {
  document.getElementById("fates").hidden = items.length === 0;
  const known = new Map([...list.children].map((item) => [item.dataset.id, item]));
  const rows = items.map((state) => {
    const row = known.get(state.critique_id) ?? blank(state);
    const [fate, kind] = sentence(state);
    // Only what has changed: a reader's selection stays.
    if (row.firstChild.textContent !== fate) row.firstChild.textContent = fate;
    row.firstChild.className = `badge ${kind}`;
    row.title = state.trajectory_id;
    row.lastChild.textContent = first(state.critique);
    return row;
  });
  if (rows.some((row, at) => list.children[at] !== row) || rows.length !== list.children.length) list.replaceChildren(...rows);
}

function blank(state) {
  const row = element("li", {}, element("span", { class: "badge" }), element("span", { class: "words" }));
  row.dataset.id = state.critique_id;
  return row;
}

function sentence({ status, step, policy_version: version, reason }) {
  if (status === "used") return [`used at step ${step}${version === null ? "" : ` by policy version ${version}`}`, "good"];
  if (status === "stale") return [`stale: ${reason ?? "it came too late to be used"}`, "warn"];
  return ["waits for a training step", ""];
}

function first({ text, spans, corrected_response: fix }) {
  return (text.trim() || spans[0]?.text || fix || "").split("\n")[0].slice(0, 120);
}
