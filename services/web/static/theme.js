// Light or dark: the system's choice until the visitor makes one, which this browser remembers. A classic script in the
// head, since a module would run after the first paint.
(() => {
  const known = (() => {
    try { return localStorage.getItem("vpd-theme"); } catch { return null; }
  })();
  if (known === "light" || known === "dark") document.documentElement.dataset.theme = known;

  const shown = () =>
    document.documentElement.dataset.theme ??
    (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-toggle-theme]")) return;
    const next = shown() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("vpd-theme", next); } catch { /* private windows may refuse; the choice holds until reload */ }
    document.dispatchEvent(new CustomEvent("vpd-theme", { detail: next }));
  });
})();
