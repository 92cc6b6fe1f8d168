// What is kept in this browser: conversations, settings, appearance. Nothing of it goes anywhere else.

export function load(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem("twofold." + name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Keeps a value; the text of what went wrong when the browser refuses, else null. */
export function keep(name, value) {
  try {
    localStorage.setItem("twofold." + name, JSON.stringify(value));
    return null;
  } catch (error) {
    return "This browser cannot keep the conversation: " + error.message;
  }
}

export function newConversation() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, name: "", messages: [] };
}

/** The conversations of earlier visits; what does not look like one is left out. */
export function loadConversations() {
  const list = load("conversations", []);
  if (!Array.isArray(list)) return [];
  return list
    .filter((item) => Array.isArray(item?.messages))
    .map((item) => ({
      ...newConversation(),
      ...(typeof item.id === "string" && { id: item.id }),
      name: String(item.name ?? ""),
      messages: item.messages.filter((message) => typeof message?.content === "string"),
    }));
}
