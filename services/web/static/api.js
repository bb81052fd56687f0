// The one door from a page to its service: the key, requests, problem documents as sentences, server-sent events.
//
//     const api = new Api(new URL("..", location.href));
//     const task = await api.post("v1/review/claims", { reviewer });     // parsed JSON, or null for 204
//     for await (const event of api.events("v1/events", { signal })) ... // { type, data, id }; reconnects by itself
//
// A failed request throws a Problem, whose message is one sentence for people.

const STORED_KEY = "vpd-key";
const RETRY_MS = [500, 1000, 2000, 5000];

export class Problem extends Error {
  /** `status` is 0 where the service could not be reached. */
  constructor(status, sentence, field = null) {
    super(sentence);
    this.name = "Problem";
    this.status = status;
    this.field = field;
  }
}

export class Api {
  #base;
  #asking = null;

  /** `base` is the URL that paths are relative to. A key in the page's fragment is taken out of the address. */
  constructor(base) {
    this.#base = new URL(base);
    takeKeyFromFragment();
    addEventListener("hashchange", takeKeyFromFragment);
  }

  get(path, options) { return this.call("GET", path, undefined, options); }
  post(path, body, options) { return this.call("POST", path, body, options); }
  put(path, body, options) { return this.call("PUT", path, body, options); }
  delete(path, options) { return this.call("DELETE", path, undefined, options); }

  /** The parsed JSON of the answer; null where it has no body. Throws Problem; AbortError when `signal` says so. */
  async call(method, path, body, { signal, keepalive = false } = {}) {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    const content = body === undefined ? undefined : JSON.stringify(body);
    const response = await this.#fetch(path, { method, headers, body: content, signal, keepalive });
    const text = await readText(response);
    return text === "" ? null : JSON.parse(text);
  }

  /** The body of the answer as a Blob, for downloads, which cannot send a key by themselves. */
  async blob(path, { signal } = {}) {
    return (await this.#fetch(path, { signal })).blob();
  }

  /** Server-sent events, without end: it connects again, with `Last-Event-ID`, until `signal` says so. `onState(text)`
   *  is called with "" when connected and with a sentence while it is not. A 4xx that no key can mend is thrown. */
  async *events(path, { signal, onState = () => {} } = {}) {
    let lastId = null;
    for (let failures = 0; !signal?.aborted; ) {
      try {
        const headers = { Accept: "text/event-stream", ...(lastId === null ? {} : { "Last-Event-ID": lastId }) };
        const response = await this.#fetch(path, { headers, signal });
        onState("");
        for await (const event of parsedEvents(response.body, signal)) {
          failures = 0;
          if (event.id !== null) lastId = event.id;
          yield event;
        }
      } catch (error) {
        if (signal?.aborted) return;
        if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
        onState(error instanceof Problem ? error.message : "The connection was lost.");
      }
      await pause(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)], signal);
    }
  }

  async #fetch(path, options) {
    for (;;) {
      const key = storedKey();
      const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
      const response = await reach(new URL(path, this.#base), { ...options, headers });
      if (response.ok) return response;
      const problem = await readProblem(response);
      if (response.status !== 401 && response.status !== 403) throw problem;
      if (key === storedKey()) await this.#askForKey(key ? problem.message : "");
    }
  }

  /** Ask once, however many requests were refused meanwhile. */
  #askForKey(why) {
    this.#asking ??= askForKey(why).finally(() => { this.#asking = null; });
    return this.#asking;
  }
}

function takeKeyFromFragment() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const key = fields.get("key");
  if (key === null) return;
  fields.delete("key");
  sessionStorage.setItem(STORED_KEY, key);
  const rest = fields.toString();
  history.replaceState(history.state, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
}

function storedKey() {
  return sessionStorage.getItem(STORED_KEY);
}

async function reach(url, options) {
  try {
    return await fetch(url, { ...options, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem(0, "The service cannot be reached: is it running, and is the network there?");
  }
}

async function readText(response) {
  try {
    return await response.text();
  } catch {
    throw new Problem(0, "The connection was lost in the middle of the answer.");
  }
}

async function readProblem(response) {
  const text = await response.text().catch(() => "");
  try {
    const { detail, title, field = null } = JSON.parse(text);
    return new Problem(response.status, detail || title || `The service answered ${response.status}.`, field);
  } catch {
    return new Problem(response.status, `The service answered ${response.status} without a reason.`);
  }
}

/** Split a stream into events, as the HTML standard says; comments are dropped. */
async function* parsedEvents(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const stop = () => reader.cancel().catch(() => {});
  signal?.addEventListener("abort", stop);
  let rest = "", event = blankEvent();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      // A lone CR at the end may be the first half of CRLF: it waits for the next piece.
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line !== "") addLine(event, line);
        else {
          if (event.lines.length) yield { type: event.type, data: event.lines.join("\n"), id: event.id };
          event = blankEvent();
        }
      }
    }
  } finally {
    signal?.removeEventListener("abort", stop);
    stop();
  }
}

function blankEvent() {
  return { type: "message", lines: [], id: null };
}

function addLine(event, line) {
  const colon = line.indexOf(":");
  if (colon === 0) return;
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (name === "data") event.lines.push(value);
  if (name === "event") event.type = value;
  if (name === "id") event.id = value;
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** A dialog that asks for the key until one is given. */
function askForKey(why) {
  const dialog = document.createElement("dialog");
  dialog.className = "ask";
  dialog.setAttribute("aria-labelledby", "key-title");
  const form = element("form", { method: "dialog" });
  const input = element("input", { type: "password", id: "key-input", autocomplete: "off", required: "" });
  form.append(
    element("h2", { id: "key-title" }, "Key of this service"),
    element("p", {}, why || "The link that was printed at the start has it. It is kept until this tab is closed."),
    element("label", { for: "key-input" }, "Key"),
    input,
    element("button", { type: "submit", class: "primary" }, "Open"),
  );
  dialog.append(form);
  document.body.append(dialog);
  // The page cannot go on without a key.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  const before = document.activeElement;
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (input.value.trim() === "") return;
      sessionStorage.setItem(STORED_KEY, input.value.trim());
      dialog.close();
      dialog.remove();
      before?.focus?.();
      resolve();
    });
  });
}

/** An element with attributes and children; strings become text, never markup. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}
