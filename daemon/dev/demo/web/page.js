// Follows one task with EventSource, through lost connections, to the text whose SHA-256 `done` names.
// Text of a model is shown as text, never as HTML.

import { ERROR_TEXTS, EVENT_TYPES, INITIAL_VIEW, reduce, sha256, textOf } from "/qstreamd.js"; // docs/contract/qstreamd.js
import { words } from "/words.js";

const KEPT = "qstreamd-task"; // a reloaded page goes on following
const $ = (id) => document.getElementById(id);

let language = (localStorage.getItem("language") ?? navigator.language).startsWith("zh") ? "zh" : "en";
let demo = { gateway: "", trouble: false, samples: {} };
let picture = null;
let told = { text: "", kind: "" }; // what a button led to, shown before all else
let current = null; // what is followed: { task, mode, view, … }

const say = () => words[language];
const wordsOf = (code, otherwise) => ERROR_TEXTS[code]?.[language] ?? otherwise ?? code;

// --- following -------------------------------------------------------------------------------------------------------

function follow(task, mode, began = Date.now()) {
  current?.stop();
  const it = { task, mode, began, view: INITIAL_VIEW, sha: "", line: "opening", lost: 0, first: 0, took: 0, tries: 0, stop: () => {} };
  current = it;
  sessionStorage.setItem(KEPT, JSON.stringify({ task, mode, began }));
  open(it);
  show();
}

/** The browser comes back by itself and says where it was; only an answer that is no stream makes it give up. */
function open(it) {
  const query = new URLSearchParams({ token: it.task.token, after: it.view.cursor });
  const source = new EventSource(`${demo.gateway}/api/tasks/${it.task.taskId}/events?${query}`);
  let timer = 0;
  it.stop = () => { source.close(); clearTimeout(timer); };
  source.onopen = () => { it.line = "open"; it.tries = 0; show(); };
  source.onerror = (event) => {
    if (event.data !== undefined || it.view.ended) return; // an event of the task that is called "error"
    if (it.line === "open") it.lost += 1;
    it.line = "lost";
    if (source.readyState === EventSource.CLOSED) {
      const wait_s = Math.min(10, 2 ** it.tries++);
      it.line = `away ${wait_s}`;
      timer = setTimeout(() => open(it), wait_s * 1000);
    }
    show();
  };
  for (const type of [...EVENT_TYPES, "gap"]) source.addEventListener(type, (message) => {
    if (message.data === undefined || current !== it) return;
    const event = JSON.parse(message.data);
    it.view = reduce(it.view, event, message.lastEventId);
    it.first ||= it.view.text ? Date.now() : 0;
    if (it.view.ended) {
      told = { text: "", kind: "" };
      it.took = Date.now();
      it.sha = event.contentSha256;
      source.close();
      if (it.view.state === "done" && it.view.verified === undefined) void fetchResult(it);
    }
    show();
  });
}

/** A long answer of a batch is not in `done`. */
async function fetchResult(it) {
  const { body } = await call(`${demo.gateway}/api/tasks/${it.task.taskId}`, { token: it.task.token });
  const text = String(body.result ?? "");
  it.view = { ...it.view, text, verified: sha256(text) === it.sha };
  show();
}

// --- asking ----------------------------------------------------------------------------------------------------------

async function call(url, { method = "GET", body, token, json } = {}) {
  const headers = { ...(token && { Authorization: `Bearer ${token}` }), ...(json && { "Content-Type": "application/json" }) };
  const answer = await fetch(url, { method, headers, body: json ? JSON.stringify(json) : body });
  return { status: answer.status, body: await answer.json() };
}

class Refused extends Error {}

function checked({ status, body }) {
  if (status < 300) return body;
  throw new Refused(say().refused(wordsOf(body.code, body.message), body.retryAfter));
}

async function upload(file) {
  const bytes = await file.arrayBuffer().catch(() => { throw new Refused(say().needPicture); }); // changed or gone since it was chosen
  const { ticket } = checked(await call("/api/ticket", { method: "POST" }));
  $("upload").textContent = say().uploading;
  const answer = await call(`${demo.gateway}/api/uploads`, { method: "POST", token: ticket, body: bytes });
  if (answer.status >= 300) throw new Refused(say().refused(language === "en" && answer.body.message || wordsOf(answer.body.code, answer.body.message), answer.body.retryAfter));
  $("upload").textContent = say().uploaded(Math.ceil(file.size / 1024));
  return answer.body.fileId;
}

async function ask() {
  const form = new FormData($("ask"));
  const mode = form.get("mode");
  if (mode === "vision" && !picture) throw new Refused(say().needPicture);
  $("send").textContent = say().sending;
  const fileId = mode === "vision" ? await upload(picture) : undefined; // one id serves one task
  const text = mode === "vision" ? "" : $("text").value;
  const json = { mode, tier: form.get("tier"), text, language, ...(fileId && { fileId }) };
  follow(checked(await call("/api/ask", { method: "POST", json })), mode);
  if (matchMedia("(max-width: 52rem)").matches) document.querySelector(".answer").scrollIntoView({ behavior: "smooth" });
}

/** Runs what a button asks for; what goes wrong is told in words. */
function on(id, kind, work) {
  $(id).addEventListener(kind, async (event) => {
    event.preventDefault();
    notice("");
    const button = id === "ask" ? $("send") : $(id);
    button.disabled = true;
    try {
      await work();
    } catch (problem) {
      notice(problem instanceof Refused ? problem.message : say().refused(wordsOf("WORKER_OVERLOADED", String(problem))), "bad");
    } finally {
      button.disabled = false;
      show();
    }
  });
}

on("ask", "submit", ask);
on("cut", "click", async () => checked(await call("/api/cut", { method: "POST" })));
on("trouble", "click", async () => {
  checked(await call("/api/trouble", { method: "POST" }));
  notice(say().armed);
});
on("cancel", "click", async () => {
  notice(say().cancelling);
  checked(await call(`${demo.gateway}/api/tasks/${current.task.taskId}/cancel`, { method: "POST", token: current.task.token }));
});

// --- the picture -----------------------------------------------------------------------------------------------------

function choose(file) {
  if (!file) return;
  picture = file;
  const preview = $("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  $("upload").textContent = "";
}

$("file").addEventListener("change", (event) => choose(event.target.files[0]));
for (const kind of ["dragover", "drop"]) $("drop").addEventListener(kind, (event) => {
  event.preventDefault();
  if (kind === "drop") choose(event.dataTransfer.files[0]);
});

// --- showing ---------------------------------------------------------------------------------------------------------

function notice(text, kind = "") {
  told = { text, kind };
  show();
}

/** The one sentence that matters now. */
function sentence(it) {
  const { view } = it, w = say();
  if (!view.ended && it.line === "lost") return [w.lost, "warn"];
  if (!view.ended && it.line.startsWith("away")) return [w.away(it.line.split(" ")[1]), "warn"];
  switch (view.state) {
    case "queued": return [w.waitsFirst(view.position), "busy"];
    case "waiting": return [textOf(view, language), "warn"];
    case "retrying": return [w.retry(textOf(view, language), Math.ceil((view.retryAt ?? 0) - Date.now() / 1000)), "warn"];
    case "running": return view.text ? ["", ""] : [it.mode === "stream" ? w.thinking : w.whole, "busy"];
    case "done": return [textOf(view, language), "warn"]; // nothing, or that it was cut
    default: return [textOf(view, language), "bad"];
  }
}

function show() {
  const w = say(), it = current, view = it?.view;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = w[element.dataset.word];
  $("language").textContent = w.other;
  const mode = new FormData($("ask")).get("mode");
  document.body.dataset.mode = mode;
  document.body.dataset.phase = view?.state ?? "idle";
  if (it) $("send").textContent = w.again;
  if ($("send").disabled) $("send").textContent = w.sending;
  const [text, kind] = told.text ? [told.text, told.kind] : it ? sentence(it) : ["", ""];
  $("notice").textContent = text;
  $("notice").dataset.kind = kind;
  $("notice").hidden = !text;
  $("cancel").disabled = !it || view.ended;
  if (it) {
    showSteps(view, w);
    showText(view);
    showFacts(it, w);
  }
}

function showSteps(view, w) {
  const bad = view.ended && view.state !== "done";
  const at = view.ended ? 2 : view.attempt ? 1 : 0;
  document.querySelectorAll("#steps li").forEach((step, number) => {
    step.dataset.at = number < at || view.state === "done" ? "past" : number > at ? "ahead" : bad ? "bad" : "now";
  });
  document.querySelector("[data-step=done]").textContent = bad ? w[view.state] : w.done;
}

/** Only what is new is appended, so that a selection in the text stays while more arrives. */
function showText(view) {
  const output = $("output"), shown = output.textContent;
  $("empty").hidden = true;
  if (view.text.startsWith(shown)) output.append(view.text.slice(shown.length));
  else output.textContent = view.text;
}

function showFacts(it, w) {
  const { view } = it, { usage } = view, proof = $("proof");
  proof.hidden = view.state !== "done";
  proof.dataset.equal = view.verified ?? "";
  proof.textContent = view.verified === undefined ? w.checking : view.verified ? w.equal : w.unequal;
  const code = document.createElement("code");
  code.textContent = it.sha;
  proof.append(code);
  const seconds = (until) => w.seconds((until - it.began) / 1000);
  const facts = {
    queue: it.task.queueId,
    model: view.modelId,
    attempt: view.attempt > 1 ? view.attempt : "",
    first: it.first && it.mode === "stream" ? seconds(it.first) : "",
    took: seconds(it.took || Date.now()),
    tokens: usage ? `${usage.inputTokens ?? "?"} + ${usage.outputTokens ?? "?"}` : "",
    cost: usage?.costUsd ? `$${usage.costUsd.toFixed(5)}` : "",
    cuts: it.lost ? w.times(it.lost) : "",
  };
  $("facts").dataset.lost = it.lost;
  $("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value !== "" && value !== undefined).map(([name, value]) => {
    const pair = document.createElement("div"), term = document.createElement("dt"), told = document.createElement("dd");
    term.textContent = w.facts[name];
    told.textContent = String(value);
    pair.append(term, told);
    return pair;
  }));
}

function showLanguage() {
  const text = $("text");
  if (!text.value || Object.values(demo.samples).includes(text.value)) text.value = demo.samples[language] ?? "";
  show();
}

$("language").addEventListener("click", () => {
  language = language === "en" ? "zh" : "en";
  localStorage.setItem("language", language);
  showLanguage();
});
$("ask").addEventListener("change", () => notice(""));
setInterval(() => { if (current && !current.view.ended) show(); }, 500); // clocks on the page go on

show();
demo = (await call("/api/demo")).body;
$("trouble").hidden = !demo.trouble;
showLanguage();
choose(new File([await (await fetch("/sample.jpg")).blob()], "sample.jpg", { type: "image/jpeg" }));
const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
if (kept) follow(kept.task, kept.mode, kept.began);
