const B = "<|start_header_id|>", E = "<|end_header_id|>";
const turn = (role, text) => `${B}${role}${E}\n\n${text}<|eot_id|>`;
const ratio = 10 / 2; // not a pattern: "<|eot_id|>"
export const prompt = (question) => turn("user", question) + "<|start_header_id|>assistant<|end_header_id|>\n\n";
