// Which rollout this tab holds. What was held before a reload or a crash is taken up again; a lock of the browser sees
// to it that no two tabs take up the same.

import { Problem } from "./shared/api.js";

const OWN_LOCK_WAIT_MS = 2000;

export class Claims {
  #api; #reviewer; #run; #release = null; #id = null;

  /** `run` is the one run to review, or null for all. */
  constructor(api, reviewer, run) {
    this.#api = api;
    this.#reviewer = reviewer;
    this.#run = run;
  }

  get id() { return this.#id; }

  /** The next task: one that this browser held already, or a new one; null where there is nothing to review. */
  async next() {
    // One that is held and could not be shown is taken up again.
    this.#release?.();
    this.#release = null;
    return (await this.#adopted()) ?? (await this.#claimed());
  }

  /** The task as it is now. */
  task() { return this.#api.get(path(this.#id)); }

  view() { return this.#api.get(`v1/review/tasks/${encodeURIComponent(this.#id)}/view`); }
  sibling(number) { return this.#api.get(`v1/review/tasks/${encodeURIComponent(this.#id)}/siblings/${number}`); }
  preview(critique) { return this.#api.post(`v1/review/tasks/${encodeURIComponent(this.#id)}/preview`, critique); }

  /** Renew the lease. False: somebody else has the rollout now. */
  async renew() {
    try {
      await this.#api.post(`${path(this.#id)}/heartbeat`);
      return true;
    } catch (error) {
      if (isOver(error)) return false;
      throw error;
    }
  }

  async submit(critique) {
    const state = await this.#api.post(`${path(this.#id)}/submit`, critique);
    this.#forget();
    return state;
  }

  /** Give the rollout back, unless the claim is over already; `reason` is "skip" or "requeue". */
  async giveBack(reason) {
    await this.#api.delete(`${path(this.#id)}?reason=${reason}`).catch((error) => {
      if (!isOver(error)) throw error;
    });
    this.#forget();
  }

  /** Hold what was skipped as claim `id` again, before the one that is held now. False: somebody else has it. */
  async unskip(id) {
    try {
      await this.#api.post(`${path(id)}/unskip`);
    } catch (error) {
      if (isOver(error)) return false;
      throw error;
    }
    // The claim on the task that is put aside goes on: this browser takes it up next.
    this.#release?.();
    this.#hold(id, (await lock(id, true)) ?? (() => {}));
    return true;
  }

  async #adopted() {
    const own = sessionStorage.getItem("vpd-claim");
    for (const id of [...(own === null ? [] : [own]), ...this.#stored().filter((id) => id !== own)]) {
      const release = await lock(id, id === own);
      if (release === null) continue;
      const task = await this.#wanted(id).catch((error) => { release(); throw error; });
      if (task !== null) {
        this.#hold(id, release);
        return task;
      }
      release();
    }
    return null;
  }

  /** The task of a claim that can still be worked on; null, and the claim forgotten, if it cannot. */
  async #wanted(id) {
    const task = await this.#api.get(path(id)).catch((error) => {
      if (error instanceof Problem && error.status === 404) return null;
      throw error;
    });
    const mine = task !== null && task.claim.reviewer === this.#reviewer;
    if (mine && task.claim.state === "held" && (this.#run === null || task.run_id === this.#run)) return task;
    if (mine && task.claim.state === "lapsed" && task.draft !== null) return task;
    if (!mine || task.claim.state !== "held") this.#drop(id);
    return null;
  }

  async #claimed() {
    const wanted = { reviewer: this.#reviewer, ...(this.#run === null ? {} : { run_id: this.#run }) };
    const task = await this.#api.post("v1/review/claims", wanted);
    if (task === null) return null;
    this.#hold(task.claim.claim_id, (await lock(task.claim.claim_id, true)) ?? (() => {}));
    return task;
  }

  #hold(id, release) {
    this.#id = id;
    this.#release = release;
    sessionStorage.setItem("vpd-claim", id);
    this.#store([...new Set([...this.#stored(), id])]);
  }

  #forget() {
    this.#drop(this.#id);
    this.#release();
    this.#id = this.#release = null;
  }

  #drop(id) {
    if (sessionStorage.getItem("vpd-claim") === id) sessionStorage.removeItem("vpd-claim");
    this.#store(this.#stored().filter((other) => other !== id));
  }

  #stored() { return JSON.parse(localStorage.getItem(`vpd-claims:${this.#reviewer}`) ?? "[]"); }
  #store(ids) { localStorage.setItem(`vpd-claims:${this.#reviewer}`, JSON.stringify(ids)); }
}

function isOver(error) { return error instanceof Problem && (error.status === 409 || error.status === 404); }

function path(id) { return `v1/review/claims/${encodeURIComponent(id)}`; }

/** What releases the lock on a claim, held until this page is gone; null: another tab has it. */
function lock(id, own) {
  // Without TLS and away from localhost a browser has no locks; then a tab takes up only its own claim.
  if (!navigator.locks) return own ? () => {} : null;
  // The page before a reload may not have let go yet.
  const options = own ? { signal: AbortSignal.timeout(OWN_LOCK_WAIT_MS) } : { ifAvailable: true };
  return new Promise((resolve) => {
    const held = (granted) => (granted === null ? resolve(null) : new Promise((release) => resolve(release)));
    navigator.locks.request(`vpd-claim:${id}`, options, held).catch(() => resolve(null));
  });
}
