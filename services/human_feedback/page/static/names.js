// Who reviews: a name asked once, kept by this browser; and the identifier it is signed with.

const STORED = "vpd-reviewer";

/** `{ name, id }`, asked for where none is known or `again`. */
export async function whoReviews(again = false) {
  const known = localStorage.getItem(STORED);
  if (known !== null && !again) return { name: known, id: identifier(known) };
  const dialog = document.getElementById("name-dialog");
  const input = document.getElementById("name");
  input.value = known ?? "";
  dialog.showModal();
  input.select();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const name = input.value.trim();
  if (name === "") return whoReviews(known === null);
  localStorage.setItem(STORED, name);
  return { name, id: identifier(name) };
}

/** The name in the letters that identifiers may have; a letter of another script becomes its number. */
export function identifier(name) {
  const plain = name.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().trim().replace(/\s+/g, "-");
  const letters = [...plain].map((c) => (/[a-z0-9._-]/.test(c) ? c : `u${c.codePointAt(0).toString(16)}`)).join("");
  return (/^[a-z0-9]/.test(letters) ? letters : `r${letters}`).slice(0, 100);
}
