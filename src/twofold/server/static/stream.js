// One chat request and its streamed answer.

export class Refused extends Error {}

async function refusal(response) {
  const id = response.headers.get("x-request-id");
  const told = await response.json().then((body) => body.error?.message, () => null);
  const text = told ?? `The server answered with status ${response.status}.`;
  const hint = response.status === 401 ? " Enter the key under Settings." : "";
  return new Refused(`${text}${hint}${id && response.status >= 500 ? ` (request ${id})` : ""}`);
}

export async function getJson(path, headers) {
  const response = await fetch(path, { headers });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** Chunks of the answer as they arrive. Throws Refused with what the server says, or what fetch throws. */
export async function* answerTo(body, headers, signal) {
  const response = await fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") ended = true;
      else if (line.startsWith("data: ")) {
        const chunk = JSON.parse(line.slice(6));
        if (chunk.error) throw new Refused(chunk.error.message);
        yield chunk;
      }
    }
  }
  if (!ended) throw new Refused("The answer ended early: the connection was closed.");
}

/** What to tell a person about an error. */
export function explained(error) {
  if (error instanceof Refused) return error.message;
  if (error instanceof TypeError) return "The server cannot be reached. Is it still running?";
  return "Something went wrong: " + error.message;
}
