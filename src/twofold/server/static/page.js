// A chat over /v1/chat/completions. Conversations stay in this browser; nothing but this server is contacted.

import { render } from "./markdown.js";
import { keep, load, loadConversations, newConversation } from "./store.js";
import { answerTo, explained, getJson } from "./stream.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"];
const SETTINGS = ["system", ...NUMBERS];
const NEAR_END_PX = 80;
const NAME_LENGTH = 48;
const state = { list: [], current: null, running: new Map(), follows: true, deleted: null, keepsSessions: false };

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function icon(name) {
  return $("icons").content.querySelector(`[data-name=${name}]`).cloneNode(true);
}

function iconButton(name, label, action) {
  const made = element("button", { type: "button", className: "plain", title: label, onclick: action }, icon(name));
  made.setAttribute("aria-label", label);
  return made;
}

function tell(problem) {
  $("problem").hidden = !problem;
  $("problem-text").textContent = problem ?? "";
  if (problem) toEnd();
}

function save() {
  const problem = keep("conversations", state.list);
  if (problem) tell(problem);
}

function saveSettings() {
  keep("settings", Object.fromEntries(SETTINGS.map((name) => [name, $(name).value])));
}

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: "Bearer " + key }) };
}

// Conversations

function open(conversation) {
  state.current = conversation;
  state.follows = true;
  tell(null);
  show();
  closeSide();
}

function begin() {
  const empty = state.list.find((item) => !item.messages.length);
  if (!empty) state.list.unshift(newConversation());
  open(empty ?? state.list[0]);
}

function remove(conversation) {
  forget();
  state.running.get(conversation.id)?.abort();
  state.deleted = { conversation, place: state.list.indexOf(conversation) };
  state.list = state.list.filter((item) => item !== conversation);
  $("toast-text").textContent = `Deleted “${conversation.name || "New conversation"}”`;
  $("toast").hidden = false;
  toEnd();
  save();
  if (conversation !== state.current) showList();
  else if (state.list.length) open(state.list[0]);
  else begin();
  $("undo").focus();
}

function undo() {
  state.list.splice(state.deleted.place, 0, state.deleted.conversation);
  const restored = state.deleted.conversation;
  state.deleted = null;
  forget();
  save();
  open(restored);
  $("text").focus();
}

/** A deletion that nobody has taken back is final: what the server kept of the conversation goes too. */
function forget() {
  const deleted = state.deleted?.conversation;
  if (deleted && state.keepsSessions) fetch("v1/sessions/" + deleted.id, { method: "DELETE", headers: headers() }).catch(() => {});
  state.deleted = null;
  $("toast").hidden = true;
}

function rename(conversation, item) {
  const field = element("input", { value: conversation.name, maxLength: 80, className: "rename" });
  field.setAttribute("aria-label", "Name of the conversation");
  const finish = (name) => {
    field.onblur = null;
    if (name.trim()) conversation.name = name.trim();
    save();
    show();
    $("conversations").querySelector("[aria-current=true]")?.focus();
  };
  field.onblur = () => finish(field.value);
  field.onkeydown = (event) => {
    if (event.key === "Enter") finish(field.value);
    if (event.key === "Escape") { event.stopPropagation(); finish(""); }
  };
  item.replaceChildren(field);
  field.select();
}

function showList() {
  $("conversations").replaceChildren(...state.list.map((conversation) => {
    const name = conversation.name || "New conversation";
    const chosen = element("button", { type: "button", className: "name", textContent: name, title: name, onclick: () => open(conversation) });
    chosen.setAttribute("aria-current", conversation === state.current);
    const item = element("li", {}, chosen);
    item.classList.toggle("running", state.running.has(conversation.id));
    item.append(
      iconButton("rename", "Rename " + name, () => rename(conversation, item)),
      iconButton("delete", "Delete " + name, () => remove(conversation)),
    );
    return item;
  }));
}

// Messages

function show() {
  showList();
  const { messages, name } = state.current;
  $("title").textContent = name || "New conversation";
  document.title = (name ? name + " – " : "") + "twofold";
  $("messages").replaceChildren(...messages.map(shown));
  $("empty").hidden = messages.length > 0;
  buttons();
  toEnd();
}

function shown(message) {
  const text = element("div", { className: "text" });
  const item = element("li", { className: message.role }, element("span", { className: "unseen", textContent: message.role === "user" ? "You:" : "Answer:" }), text);
  fill(item, message);
  return item;
}

function fill(item, message) {
  const text = item.querySelector(".text");
  if (message.role === "user") {
    text.textContent = message.content;
    return;
  }
  const runs = state.running.get(state.current.id)?.message === message;
  item.classList.toggle("writing", runs);
  text.replaceChildren(render(message.content));
  for (const block of text.querySelectorAll(".code")) {
    const button = iconButton("copy", "Copy code", () => copy(block.querySelector("code").textContent, button));
    block.firstChild.append(button);
  }
  item.querySelector(".meta")?.remove();
  if (runs) return;
  const button = iconButton("copy", "Copy answer", () => copy(message.content, button));
  item.append(element("div", { className: "meta" }, button, element("div", { className: "figures" }, ...figures(message))));
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.replaceChildren(icon("done"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  } catch {
    tell("This browser does not let the page copy; select the text instead.");
  }
}

function figures(message) {
  const told = message.figures;
  if (!told) return [];
  const parts = told.first ? [`first token after ${(told.first / 1000).toFixed(2)} s`] : [];
  if (told.rate) parts.push(`${told.rate.toFixed(1)} tokens/s`);
  const usage = told.usage;
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`${usage.prompt_tokens} tokens read, ${cached} cached`, `${usage.completion_tokens} written`);
    if (usage.details?.cost != null) parts.push(money(usage.details));
  }
  const ends = { length: "cut at the most tokens", stopped: "stopped", failed: "ended early" };
  if (ends[told.end]) parts.push(ends[told.end]);
  return parts.flatMap((part, index) => [index ? " · " : "", element("span", { textContent: part })]);
}

function money({ cost, currency }) {
  return new Intl.NumberFormat(undefined, { style: "currency", currency, maximumSignificantDigits: 2 }).format(cost);
}

function buttons() {
  const runs = state.running.has(state.current.id);
  const last = state.current.messages.at(-1);
  $("send").hidden = runs;
  $("stop").hidden = !runs;
  $("send").disabled = !$("text").value.trim();
  $("again").hidden = runs || !last;
  $("again-text").textContent = last?.role === "user" ? "Try again" : "Regenerate";
  $("messages").setAttribute("aria-busy", runs);
}

// Scrolling: an answer that grows is followed until the reader scrolls up.

function toEnd() {
  if (state.follows) $("scroll").scrollTop = $("scroll").scrollHeight;
  $("latest").hidden = state.follows;
}

$("scroll").onscroll = () => {
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  state.follows = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  $("latest").hidden = state.follows;
};
$("latest").onclick = () => { state.follows = true; toEnd(); $("text").focus(); };

// Asking

function request(conversation) {
  const messages = conversation.messages.map(({ role, content }) => ({ role, content }));
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value });
  const body = { messages, stream: true, stream_options: { include_usage: true }, usage_details: true };
  if (state.keepsSessions) body.session_id = conversation.id;
  for (const name of NUMBERS) if ($(name).value !== "") body[name] = Number($(name).value);
  return body;
}

async function answer() {
  tell(null);
  forget();
  const conversation = state.current;
  const body = request(conversation);
  const message = { role: "assistant", content: "" };
  const running = Object.assign(new AbortController(), { message });
  conversation.messages.push(message);
  state.running.set(conversation.id, running);
  state.follows = true;
  show();
  try {
    await take(answerTo(body, headers(), running.signal), conversation, message);
  } catch (error) {
    message.figures = { ...message.figures, end: error.name === "AbortError" ? "stopped" : "failed" };
    if (error.name !== "AbortError" && conversation === state.current) tell(explained(error));
    if (!message.content) conversation.messages = conversation.messages.filter((item) => item !== message);
  }
  state.running.delete(conversation.id);
  save();
  const kept = state.follows ? null : $("scroll").scrollTop;
  if (conversation === state.current) show(); else showList();
  if (kept !== null) $("scroll").scrollTop = kept;
}

async function take(chunks, conversation, message) {
  const start = performance.now();
  let first = 0;
  let last = 0;
  for await (const chunk of chunks) {
    const choice = chunk.choices[0];
    if (choice?.delta?.content) {
      last = performance.now();
      first ||= last;
      message.content += choice.delta.content;
    }
    const written = chunk.usage?.completion_tokens ?? 0;
    message.figures = {
      first: first && first - start,
      usage: chunk.usage ?? undefined,
      end: choice?.finish_reason ?? message.figures?.end,
      rate: written > 1 && last > first ? (written - 1) / ((last - first) / 1000) : 0,
    };
    update(conversation, message);
  }
}

/** Shows what has come, once per frame at most. */
function update(conversation, message) {
  if (message === state.drawn || conversation !== state.current) return;
  state.drawn = message;
  requestAnimationFrame(() => {
    state.drawn = null;
    const item = $("messages").lastElementChild;
    if (conversation !== state.current || !state.running.has(conversation.id) || !item) return;
    fill(item, message);
    toEnd();
  });
}

function stop() {
  state.running.get(state.current.id)?.abort();
}

function send(text = $("text").value.trim()) {
  if (!text || state.running.has(state.current.id)) return;
  state.current.name ||= nameFor(text);
  state.current.messages.push({ role: "user", content: text });
  state.list = [state.current, ...state.list.filter((item) => item !== state.current)];
  $("text").value = "";
  grow();
  save();
  answer();
}

/** The first line of a message, cut between words. */
function nameFor(text) {
  const line = text.split("\n")[0].trim();
  return line.length <= NAME_LENGTH ? line : line.slice(0, NAME_LENGTH).replace(/\s+\S*$/, "") + "…";
}

function grow() {
  $("text").rows = Math.min(8, $("text").value.split("\n").length);
  $("send").disabled = !$("text").value.trim();
}

// Panels: beside the chat where there is room, over it where there is not.

const wide = matchMedia("(min-width: 75rem)");

function setOpen(name, opener, isOpen) {
  $(name).classList.toggle("open", isOpen);
  $(opener).setAttribute("aria-expanded", isOpen);
  $("shade").hidden = !$("side").classList.contains("open") && (wide.matches || !$("panel").classList.contains("open"));
  $("main").inert = !$("shade").hidden; // what lies under a panel is out of reach for the keyboard too
}

function closeSide() {
  setOpen("side", "open-side", false);
}

function setPanel(isOpen) {
  setOpen("panel", "open-panel", isOpen);
  if (wide.matches) keep("panel", isOpen);
}

function closeOver() {
  const over = $("side").classList.contains("open") ? "open-side" : "open-panel";
  closeSide();
  if (!wide.matches) setPanel(false);
  $(over).focus();
}

function fitPanel() {
  setOpen("panel", "open-panel", wide.matches && load("panel", true) === true);
}

$("open-side").onclick = () => { setOpen("side", "open-side", true); $("new").focus(); };
$("close-side").onclick = $("shade").onclick = closeOver;
$("open-panel").onclick = () => {
  const isOpen = !$("panel").classList.contains("open");
  setPanel(isOpen);
  if (isOpen) $("system").focus();
};
$("close-panel").onclick = () => { setPanel(false); $("open-panel").focus(); };
wide.onchange = fitPanel;

// Keys and buttons

$("form").onsubmit = (event) => { event.preventDefault(); send(); };
$("text").oninput = grow;
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
};
document.onkeydown = (event) => {
  if (event.key !== "Escape") return;
  if (!$("shade").hidden) closeOver();
  else stop();
};
$("stop").onclick = () => { stop(); $("text").focus(); };
$("again").onclick = () => {
  if (state.current.messages.at(-1).role === "assistant") state.current.messages.pop();
  answer();
  $("text").focus();
};
$("new").onclick = () => { begin(); $("text").focus(); };
$("undo").onclick = undo;
$("dismiss").onclick = () => { tell(null); $("text").focus(); };
for (const example of document.querySelectorAll("#examples button")) example.onclick = () => { send(example.textContent); $("text").focus(); };
for (const name of SETTINGS) $(name).onchange = saveSettings;
$("reset").onclick = () => { for (const name of NUMBERS) $(name).value = ""; saveSettings(); };
$("key").onchange = greet;
$("theme").onchange = () => {
  keep("theme", $("theme").value);
  if ($("theme").value) document.documentElement.dataset.theme = $("theme").value;
  else delete document.documentElement.dataset.theme;
};

async function greet() {
  try {
    const [card] = (await getJson("v1/models", headers())).data;
    $("model").textContent = `${card.id} · ${card.max_model_len.toLocaleString()} tokens`;
    $("empty-model").textContent = card.id;
    state.keepsSessions = (await getJson("version", headers())).sessions;
    tell(null);
  } catch (error) {
    $("model").textContent = "";
    tell(explained(error));
  }
}

state.list = loadConversations();
const settings = load("settings", {});
for (const name of SETTINGS) if (typeof settings?.[name] === "string") $(name).value = settings[name];
$("theme").value = document.documentElement.dataset.theme ?? "";
fitPanel();
if (state.list.length) open(state.list[0]); else begin();
greet();
$("text").focus();
