// Keys: letters outside the boxes, Ctrl+Enter everywhere, and the table that says so.

import { element } from "./shared/api.js";

const SWITCH = "vpd-single-keys";
const dialog = document.getElementById("keys-dialog");
const single = document.getElementById("single-keys");

/** `keys` is a list of `[keys, what they do, function]`: each one-letter key of `keys` calls the function
 *  with itself. */
export function useKeys(keys, submit) {
  const actions = new Map(keys.flatMap(([names, , action]) => names.split(" ").map((name) => [name, action])));
  const rows = [
    ["Ctrl ⏎ or ⌘ ⏎", "Submit and next, also in the boxes"],
    ["Esc", "Leave a box, so that the letters work"],
    ...keys,
    ["Arrows, Shift", "In the attempt: move, select"],
  ];
  document.getElementById("keys").replaceChildren(...rows.map(([names, what]) =>
    element("tr", {}, element("th", { scope: "row" }, element("kbd", {}, names)), element("td", {}, what))));

  single.checked = localStorage.getItem(SWITCH) !== "off";
  single.addEventListener("change", () => localStorage.setItem(SWITCH, single.checked ? "on" : "off"));
  document.getElementById("show-keys").addEventListener("click", () => dialog.showModal());
  document.getElementById("close-keys").addEventListener("click", () => dialog.close());

  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (!event.repeat) submit();
    } else if (event.key === "Escape") {
      document.activeElement?.blur?.();
    } else if (!writes(event.target) && !event.ctrlKey && !event.metaKey && !event.altKey && single.checked) {
      const action = event.key === "?" ? () => dialog.showModal() : actions.get(event.key);
      if (action === undefined || event.repeat) return;
      event.preventDefault();
      action(event.key);
    }
  });
}

function writes(node) {
  return node.matches?.("textarea, select, input:not([type=radio], [type=checkbox])");
}
