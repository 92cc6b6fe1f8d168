// talks to Ollama
const HOST = process.env.OLLAMA_HOST ?? "http://localhost:11434";

export async function ask(question: string): Promise<string> {
  const answer = await fetch(`${HOST}/api/chat`, {
    method: "POST",
    body: JSON.stringify({
      model: "llama3.1:8b",
      stream: false,
      options: { num_ctx: 8192, stop: ["<|eot_id|>", "<|eom_id|>"] },
      messages: [{ role: "user", content: question }],
    }),
  });
  return (await answer.json()).message.content.replace(/<\|eot_id\|>/g, "");
}
