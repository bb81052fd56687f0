// The review page: claim, read, write, submit, next. One page for all tasks; nothing is loaded anew between them.

import { Api, Problem } from "./shared/api.js";
import { showAttempt } from "./attempt.js";
import { Claims } from "./claims.js";
import * as critique from "./critique.js";
import { Drafts } from "./drafts.js";
import { watchFates } from "./fates.js";
import { useKeys } from "./keys.js";
import { whoReviews } from "./names.js";
import { nextSibling, showOutcome, showPrompt, showSiblings } from "./reading.js";

const EMPTY_POLL_MS = 3000;
const PROGRESS_POLL_MS = 15_000;
const PREVIEW_MS = 400;
/** A lease is renewed for somebody who is there; a forgotten tab must not keep a rollout for ever. */
const IDLE_MS = 15 * 60_000;

const at = (id) => document.getElementById(id);
const api = new Api(new URL("..", location.href));
const run = new URLSearchParams(location.hash.slice(1)).get("run");
const reviewer = await whoReviews();
const claims = new Claims(api, reviewer.id, run);
const drafts = new Drafts(api, reviewer.id, { onState: (text) => { at("saved").textContent = text; }, onSaved: reveal });

let task = null;
let busy = false;
let skipAsked = false;
let skipped = null;
/** The first task puts the caret into the box, and so does one that was waited for from there; the others leave the
 *  focus where it is: in the box for who submits from there, outside for who goes on by letters. */
let caretToBox = true;
let lastActive = Date.now();

// ------------------------------------------------------------------------------------------------- the next task

async function next() {
  const found = await claims.next();
  if (found === null) {
    task = null;
    showDesk(false);
    lookLater();
    return;
  }
  show(found, (await claims.view()).html);
}

let look = null;
function lookLater() {
  clearTimeout(look);
  look = setTimeout(() => (active() ? lookAgain() : waitForActivity()), EMPTY_POLL_MS);
}

/** A skip that was taken back may have brought a task meanwhile, or is on its way. */
function lookAgain() {
  if (busy) lookLater();
  else if (task === null) guarded(next);
}

/** A page that nobody looks at claims nothing. */
function waitForActivity() {
  const seen = new AbortController();
  const goOn = () => {
    seen.abort();
    lookAgain();
  };
  for (const kind of ["pointermove", "keydown"]) addEventListener(kind, goOn, { signal: seen.signal });
}

function show(found, html) {
  task = found;
  skipAsked = false;
  const { item } = found;
  showDesk(true);
  showPrompt(item.task.messages);
  showAttempt(html, item.response.text);
  showSiblings(item.siblings, (number) => claims.sibling(number));
  showOutcome(found);
  critique.fill(drafts.open(found.claim.trajectory_id, found.draft?.draft ?? found.critique), item.response.text);
  refreshPreview();
  if (caretToBox && document.activeElement === document.body) critique.focusWords();
  caretToBox = false;
  scrollTo(0, 0);
  aloud(`Next task. ${item.task.messages.at(-1).content.slice(0, 200)}`);
  if (found.claim.state !== "held") guarded(renew);
}

/** What belongs to a task, or that there is none. */
function showDesk(hasTask) {
  // A box that is hidden loses the focus.
  if (!hasTask) caretToBox ||= critique.wordsHaveFocus();
  at("empty").hidden = hasTask;
  for (const part of document.querySelectorAll("[data-of-task]")) part.hidden = !hasTask;
}

/** The service shows what was hidden from a blind reviewer once it has a draft. */
async function reveal() {
  if (!task?.blind) return;
  const id = claims.id;
  const seen = await claims.task().catch(() => null);
  if (seen === null || id !== claims.id) return;
  task = { ...task, blind: seen.blind, item: seen.item };
  showOutcome(task);
}

// ----------------------------------------------------------------------------------------- what ends work on a task

function submit() {
  if (task === null) return;
  const finished = critique.finished(reviewer.name);
  if (finished === null) {
    notice("Write a critique, a remark or a fix first; or skip the task.");
    critique.focusWords();
    return;
  }
  guarded(async () => {
    // A draft that arrived after the critique would be stored again.
    await drafts.pause();
    await claims.submit(finished);
    await drafts.close({ forget: true });
    aloud("Submitted.");
    lookAtFates();
    await next();
  });
}

function later() {
  if (task === null) return;
  guarded(async () => {
    await drafts.save();
    await claims.giveBack("requeue");
    await drafts.close({ forget: false });
    await next();
  });
}

function skip() {
  if (task === null) return;
  if (critique.finished(reviewer.name) !== null && !skipAsked) {
    skipAsked = true;
    notice("You have written something, and it goes with the task: skip again to skip it.");
    return;
  }
  guarded(async () => {
    const { id } = claims;
    await claims.giveBack("skip");
    await drafts.close({ forget: true });
    setSkipped(id);
    aloud("Skipped. The key u takes it back.");
    await next();
  });
}

/** The claim on the task that was skipped last, to which `unskip` goes back; null: none. */
function setSkipped(claimId) {
  skipped = claimId;
  at("unskip").hidden = claimId === null;
}

function unskip() {
  if (skipped === null) return notice("There is no skipped task to go back to.");
  guarded(async () => {
    await drafts.save();
    const id = skipped;
    if (await claims.unskip(id)) {
      await drafts.close({ forget: false });
      show(await claims.task(), (await claims.view()).html);
    } else {
      notice("Somebody else took the skipped task.");
    }
    setSkipped(null);
  });
}

/** Run one action at a time, its boxes locked, and say in a sentence what goes wrong. */
async function guarded(action) {
  if (busy) return;
  busy = true;
  critique.lockBoxes(true);
  notice("");
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    notice(error.message);
    // What is in the boxes belongs to the task that is shown, which may be over already.
    if (task !== null && task.claim.claim_id === claims.id) return drafts.resume();
    task = null;
    showDesk(false);
    lookLater();
  } finally {
    busy = false;
    critique.lockBoxes(false);
    showProgress();
  }
}

// -------------------------------------------------------------------------------------------- what goes on meanwhile

let renewalFailed = false;
async function renew() {
  if (task === null || claims.id === null || task.lost) return;
  const id = claims.id;
  const held = await claims.renew();
  if (renewalFailed) notice("");
  renewalFailed = false;
  if (held || id !== claims.id) return;
  task.lost = true;
  notice("Your time on this task ran out and somebody else took it. What you wrote is kept, and you can still submit it.");
}

function keepLease(leaseSeconds) {
  setInterval(() => {
    if (busy || !active()) return;
    renew().catch((problem) => {
      renewalFailed = true;
      notice(problem.message);
    });
  }, (leaseSeconds * 1000) / 3);
}

function active() { return Date.now() - lastActive < IDLE_MS; }

async function showProgress() {
  const query = new URLSearchParams({ reviewer: reviewer.id, ...(run === null ? {} : { run_id: run }) });
  const { total, done, held, mine } = await api.get(`v1/review/progress?${query}`).catch(() => ({}));
  if (total === undefined) return;
  at("progress-bar").max = Math.max(total, 1);
  at("progress-bar").value = done;
  at("progress").textContent = `${done} of ${total} reviewed, ${mine} by you, ${held} in review`;
}

let previewTimer = null;
function refreshPreview() {
  clearTimeout(previewTimer);
  if (at("preview").hidden || task === null) return;
  previewTimer = setTimeout(async () => {
    const id = claims.id;
    const found = await claims.preview(critique.written(reviewer.name)).catch((problem) => {
      notice(problem.message);
      return null;
    });
    if (found === null || id !== claims.id) return;
    // Rendered by the service, without any HTML of its own.
    at("preview-text").innerHTML = found.html;
    at("preview-fix").hidden = found.fix_html === null;
    at("preview-fix").innerHTML = found.fix_html ?? "";
    at("teacher-reads").textContent = found.teacher_reads;
  }, PREVIEW_MS);
}

function togglePreview() {
  at("preview").hidden = !at("preview").hidden;
  at("toggle-preview").setAttribute("aria-pressed", String(!at("preview").hidden));
  refreshPreview();
}

function remark() {
  if (!critique.addRemark()) notice("Select a passage of the attempt first: with the mouse, or with Shift and the arrow keys in it.");
}

function notice(sentence) {
  at("notice").textContent = sentence;
  at("notice").hidden = sentence === "";
}

function aloud(sentence) { at("said-aloud").textContent = sentence; }

// ------------------------------------------------------------------------------------------------------ the wiring

critique.onCritiqueChange(() => {
  if (task === null || busy) return;
  drafts.changed(critique.written(reviewer.name));
  refreshPreview();
});
for (const kind of ["keydown", "pointerdown", "pointermove", "wheel"]) {
  addEventListener(kind, () => { lastActive = Date.now(); }, { passive: true, capture: true });
}
at("submit").addEventListener("click", submit);
at("later").addEventListener("click", later);
at("skip").addEventListener("click", skip);
at("unskip").addEventListener("click", unskip);
at("add-remark").addEventListener("click", remark);
// A click on the button would move the focus, and some browsers then drop the selection.
at("add-remark").addEventListener("mousedown", (event) => event.preventDefault());
at("toggle-fix").addEventListener("click", critique.toggleFixBox);
at("toggle-preview").addEventListener("click", togglePreview);
at("who").textContent = reviewer.name;
at("who").addEventListener("click", async () => {
  await drafts.save();
  await whoReviews(true);
  location.reload();
});
useKeys([
  ["c", "Write the critique", critique.focusWords],
  ["a", "Go to the attempt", () => at("attempt").focus()],
  ["r", "Remark on the selected passage", remark],
  ["f", "Suggest a fix", critique.toggleFixBox],
  ["p", "Preview", togglePreview],
  ["s S", "Next or previous other attempt", (key) => nextSibling(key === "s" ? 1 : -1)],
  ["1 2 3", "Correct, incorrect, unsure", (key) => critique.chooseVerdict(["correct", "incorrect", "unsure"][key - 1])],
  ["g", "Guidelines", () => { at("guidelines").open = !at("guidelines").open; }],
  ["l", "Later: to the end of my queue", later],
  ["x", "Skip: not for me", skip],
  ["u", "Take the last skip back", unskip],
], submit);

const { lease_s: leaseSeconds } = await api.get("v1/review/settings");
const guidelines = await api.get("v1/review/guidelines");
at("guidelines").hidden = guidelines.html === "";
// The operator's own file, rendered by the service.
at("guidelines-text").innerHTML = guidelines.html;
const lookAtFates = watchFates(api, reviewer.id);
keepLease(leaseSeconds);
setInterval(() => { if (!document.hidden) showProgress(); }, PROGRESS_POLL_MS);
await guarded(next);
