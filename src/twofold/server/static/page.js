// A chat over /v1/chat/completions. Conversations stay in this browser (localStorage); nothing else is contacted.

const $ = (id) => document.getElementById(id);
const SETTINGS = ["system", "temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"];
const state = { list: [], current: null, running: null };

function load(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem("twofold." + name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function save() {
  try {
    localStorage.setItem("twofold.conversations", JSON.stringify(state.list));
    const settings = Object.fromEntries(SETTINGS.map((name) => [name, $(name).value]));
    localStorage.setItem("twofold.settings", JSON.stringify(settings));
  } catch (error) {
    tell("This browser cannot keep the conversation: " + error.message);
  }
}

function tell(problem) {
  $("problem").hidden = !problem;
  $("problem").textContent = problem ?? "";
}

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: "Bearer " + key }) };
}

function begin() {
  state.current = { name: "", messages: [] };
  state.list.unshift(state.current);
  show();
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function show() {
  $("conversations").replaceChildren(...state.list.map((conversation) => {
    const open = element("button", { textContent: conversation.name || "New conversation" });
    open.setAttribute("aria-current", conversation === state.current);
    open.onclick = () => { stop(); state.current = conversation; show(); };
    const remove = element("button", { textContent: "×", title: "Delete" });
    remove.setAttribute("aria-label", "Delete " + (conversation.name || "conversation"));
    remove.onclick = () => {
      stop();
      state.list = state.list.filter((item) => item !== conversation);
      if (conversation !== state.current) show();
      else if (state.list.length) { state.current = state.list[0]; show(); }
      else begin();
      save();
    };
    return element("li", {}, open, remove);
  }));
  $("messages").replaceChildren(...state.current.messages.map(shown));
  buttons();
  $("messages").scrollTop = $("messages").scrollHeight;
}

function shown(message) {
  const text = element("div", { className: "text", textContent: message.content });
  const item = element("li", { className: message.role }, text);
  if (message.role === "assistant") item.append(element("div", { className: "figures", textContent: figures(message) }));
  return item;
}

function figures(message) {
  const told = message.figures;
  if (!told) return "";
  const parts = [`first token after ${(told.first / 1000).toFixed(2)} s`];
  if (told.rate) parts.push(`${told.rate.toFixed(1)} tokens/s`);
  if (told.usage) {
    const cached = told.usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`${told.usage.prompt_tokens} + ${told.usage.completion_tokens} tokens`, `${cached} cached`);
  }
  if (told.end && told.end !== "stop") parts.push(told.end);
  return parts.join(" · ");
}

function buttons() {
  const messages = state.current.messages;
  $("send").hidden = Boolean(state.running);
  $("stop").hidden = !state.running;
  $("again").hidden = Boolean(state.running) || messages.at(-1)?.role !== "assistant";
}

function request() {
  const messages = state.current.messages.map(({ role, content }) => ({ role, content }));
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value });
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  for (const name of SETTINGS.slice(1)) {
    if ($(name).value !== "") body[name] = Number($(name).value);
  }
  return JSON.stringify(body);
}

async function answer() {
  tell(null);
  const conversation = state.current;
  const body = request();
  const message = { role: "assistant", content: "" };
  conversation.messages.push(message);
  const running = new AbortController();
  state.running = running;
  show();
  const start = performance.now();
  let first = 0;
  try {
    const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body, signal: running.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const chunk of chunks(response.body)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices[0];
      if (choice?.delta?.content) {
        first ||= performance.now();
        message.content += choice.delta.content;
      }
      const now = performance.now();
      const usage = chunk.usage ?? undefined;
      const written = usage?.completion_tokens ?? 0;
      message.figures = {
        first: (first || now) - start, usage, end: choice?.finish_reason ?? message.figures?.end,
        rate: written > 1 && now > first ? (written - 1) / ((now - first) / 1000) : 0,
      };
      update(conversation, message);
    }
  } catch (error) {
    if (error.name === "AbortError") message.figures = { ...message.figures, first: first ? first - start : 0, end: "stopped" };
    else tell(error.message);
    if (!message.content) conversation.messages.pop();
  }
  if (state.running === running) state.running = null;
  save();
  show();
}

function update(conversation, message) {
  if (conversation !== state.current) return;
  const list = $("messages");
  const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  list.lastElementChild.replaceWith(shown(message));
  if (follows) list.scrollTop = list.scrollHeight;
}

async function* chunks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function stop() {
  state.running?.abort();
  state.running = null;
}

function send() {
  const text = $("text").value.trim();
  if (!text || state.running) return;
  state.current.name ||= text.slice(0, 40);
  state.current.messages.push({ role: "user", content: text });
  $("text").value = "";
  answer();
}

$("form").onsubmit = (event) => { event.preventDefault(); send(); };
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
};
document.onkeydown = (event) => { if (event.key === "Escape") stop(); };
$("stop").onclick = stop;
$("again").onclick = () => { state.current.messages.pop(); answer(); };
$("new").onclick = () => { stop(); begin(); $("text").focus(); };
$("open-side").onclick = () => {
  const open = $("side").classList.toggle("open");
  $("open-side").setAttribute("aria-expanded", open);
};
for (const name of SETTINGS) $(name).onchange = save;
$("key").onchange = greet;

async function greet() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    const told = await response.json();
    $("model").textContent = response.ok ? `${told.data[0].id} · ${told.data[0].max_model_len} tokens` : "";
    tell(response.ok ? null : told.error.message);
  } catch (error) {
    tell("The server does not answer: " + error.message);
  }
}

state.list = load("conversations", []);
for (const [name, value] of Object.entries(load("settings", {}))) if (SETTINGS.includes(name)) $(name).value = value;
if (state.list.length) { state.current = state.list[0]; show(); } else begin();
greet();
$("text").focus();
