// Drafts: in this browser with each keystroke, at the service every two seconds. A draft is a critique that need not
// have words.

const SAVE_MS = 2000;

export class Drafts {
  #api; #reviewer; #onState; #onSaved;
  #task = null; #draft = null; #dirty = false; #timer = null; #saving = null;

  /** `onState(sentence)` says where the draft is; `onSaved()` is called when the service has it. */
  constructor(api, reviewer, { onState, onSaved }) {
    this.#api = api;
    this.#reviewer = reviewer;
    this.#onState = onState;
    this.#onSaved = onSaved;
    addEventListener("pagehide", () => { if (this.#dirty) this.#put({ keepalive: true }).catch(() => {}); });
  }

  /** Begin with a rollout; the draft to go on with. What the service never got is newer than what it has. */
  open(trajectoryId, fromService) {
    this.#task = trajectoryId;
    const local = JSON.parse(localStorage.getItem(this.#place()) ?? "null");
    this.#draft = local?.dirty || fromService === null ? (local?.draft ?? null) : fromService;
    this.#dirty = false;
    this.#onState(this.#draft === null ? "" : "Draft restored");
    if (local?.dirty) this.changed(local.draft);
    return this.#draft;
  }

  /** Keep `draft`. */
  changed(draft) {
    this.#draft = draft;
    this.#dirty = true;
    this.#onState(this.#keep() ? "Saving…" : "This browser keeps no drafts; they are saved at the service alone");
    this.#timer ??= setTimeout(() => this.save(), SAVE_MS);
  }

  /** Send what is not at the service yet. */
  async save() {
    clearTimeout(this.#timer);
    this.#timer = null;
    await this.#saving;
    if (!this.#dirty) return;
    this.#dirty = false;
    this.#saving = this.#put({}).then(
      () => {
        if (!this.#dirty) {
          this.#keep();
          this.#onState("Saved");
        }
        this.#onSaved();
      },
      (problem) => {
        this.#dirty = true;
        this.#onState(`Kept in this browser. ${problem.message}`);
        this.#timer ??= setTimeout(() => this.save(), SAVE_MS);
      },
    );
    await this.#saving;
    this.#saving = null;
  }

  /** Send nothing until `resume`. */
  async pause() {
    clearTimeout(this.#timer);
    this.#timer = null;
    await this.#saving;
  }

  resume() {
    if (this.#dirty) this.#timer ??= setTimeout(() => this.save(), SAVE_MS);
  }

  /** Stop, and `forget` what this browser keeps. */
  async close({ forget }) {
    if (!forget) await this.save();
    await this.pause();
    if (forget) localStorage.removeItem(this.#place());
    this.#task = this.#draft = null;
    this.#dirty = false;
    this.#onState("");
  }

  #put(options) {
    const place = `v1/review/drafts/${encodeURIComponent(this.#reviewer)}/${encodeURIComponent(this.#task)}`;
    return this.#api.put(place, this.#draft, options);
  }

  #keep() {
    try {
      localStorage.setItem(this.#place(), JSON.stringify({ draft: this.#draft, dirty: this.#dirty }));
      return true;
    } catch {
      return false;
    }
  }

  #place() { return `vpd-draft:${this.#reviewer}:${this.#task}`; }
}
