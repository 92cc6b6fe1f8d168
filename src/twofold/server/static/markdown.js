// Markdown as elements. Text only ever becomes text nodes, so whatever a model writes can never be markup.

function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|\*(?=[^\s*])([^*]*[^\s*])\*|\[([^\]\n]+)\]\(([^\s()]+)\)|(https?:[/]{2}[^\s<>()]*[^\s<>().,;:!?'"])/;

/** Nodes of one stretch of text: code, bold, italics, links, line breaks. */
function inline(text, depth = 0) {
  const nodes = [];
  let rest = text;
  while (rest) {
    const found = depth < 6 ? INLINE.exec(rest) : null;
    nodes.push(...plain(found ? rest.slice(0, found.index) : rest));
    if (!found) break;
    rest = rest.slice(found.index + found[0].length);
    const [whole, , code, bold, italic, label, target, address] = found;
    if (code !== undefined) nodes.push(make("code", "", code.trim() || code));
    else if (bold !== undefined) nodes.push(make("strong", "", ...inline(bold, depth + 1)));
    else if (italic !== undefined) nodes.push(make("em", "", ...inline(italic, depth + 1)));
    else nodes.push(link(label ?? address, target ?? address) ?? whole);
  }
  return nodes;
}

function plain(text) {
  return text.split("\n").flatMap((line, index) => (index ? [document.createElement("br"), line] : [line]));
}

/** A link to an address of the web; null for any other. It shows where it leads. */
function link(label, target) {
  let address;
  try {
    address = new URL(target);
  } catch {
    return null;
  }
  if (address.protocol !== "https:" && address.protocol !== "http:") return null;
  const made = make("a", "", label);
  Object.assign(made, { href: address.href, target: "_blank", rel: "noopener noreferrer nofollow", title: address.href });
  return made;
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const ITEM = /^( *)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const TABLE_LINE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** A fragment for a whole answer, also for one that is still growing. */
export function render(text) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.replaceAll("\r\n", "\n").split("\n"), 0));
  return fragment;
}

function blocks(lines, depth) {
  const made = [];
  let index = 0;
  while (index < lines.length) {
    const [block, next] = block_at(lines, index, depth);
    if (block) made.push(block);
    index = next;
  }
  return made;
}

/** The block that begins at a line, null for an empty line, and where the next one begins. */
function block_at(lines, index, depth) {
  const line = lines[index];
  if (!line.trim()) return [null, index + 1];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, index, fence);
  if (RULE.test(line)) return [make("hr"), index + 1];
  const heading = HEADING.exec(line);
  if (heading) return [make("h" + Math.min(6, heading[1].length + 1), "", ...inline(heading[2])), index + 1];
  if (depth < 8 && line.startsWith(">")) {
    const end = stretch(lines, index, (next) => next.startsWith(">"));
    const inner = lines.slice(index, end).map((quoted) => quoted.replace(/^> ?/, ""));
    return [make("blockquote", "", ...blocks(inner, depth + 1)), end];
  }
  if (depth < 8 && ITEM.test(line)) return list(lines, index, depth);
  if (line.includes("|") && TABLE_LINE.test(lines[index + 1] ?? "") && lines[index + 1].includes("-")) return table(lines, index);
  const end = stretch(lines, index + 1, (next) => next.trim() && ![FENCE, RULE, HEADING, ITEM].some((form) => form.test(next)) && !next.startsWith(">"));
  return [make("p", "", ...inline(lines.slice(index, end).join("\n").trim())), end];
}

function stretch(lines, index, goesOn) {
  let end = index;
  while (end < lines.length && goesOn(lines[end])) end += 1;
  return end;
}

function fenced(lines, index, [, marks, language]) {
  const closes = (line) => line.trim().startsWith(marks) && !line.trim().replaceAll(marks[0], "");
  const end = stretch(lines, index + 1, (line) => !closes(line));
  const code = make("code", "", lines.slice(index + 1, end).join("\n"));
  const pre = make("pre", "", code);
  pre.tabIndex = 0; // it scrolls sideways, so the keyboard must reach it
  return [make("div", "code", make("div", "code-head", make("span", "", language || "text")), pre), end + 1];
}

function list(lines, index, depth) {
  const [, indent, number] = ITEM.exec(lines[index]);
  const made = make(number === undefined ? "ul" : "ol");
  if (number !== undefined) made.start = Number(number);
  let at = index;
  for (;;) {
    const item = ITEM.exec(lines[at] ?? "");
    if (!item || item[1].length > indent.length + 1 || item[1].length < indent.length || (item[2] === undefined) !== (number === undefined)) break;
    const inner = [item[3]];
    at += 1;
    while (at < lines.length) {
      const next = ITEM.exec(lines[at]);
      if (next && next[1].length <= indent.length + 1) break;
      const belongs = /^\s{2,}/.test(lines[at]) || (lines[at].trim() && lines[at - 1].trim() && !HEADING.test(lines[at]) && !FENCE.test(lines[at]));
      const goesOn = !lines[at].trim() && /^\s{2,}\S/.test(lines[at + 1] ?? "");
      if (!belongs && !goesOn) break;
      inner.push(lines[at].replace(new RegExp(`^ {0,${indent.length + 4}}`), ""));
      at += 1;
    }
    const parts = blocks(inner, depth + 1);
    const first = parts[0]?.tagName === "P" ? [...parts.shift().childNodes] : [];
    made.append(make("li", "", ...first, ...parts));
    while (at < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1] ?? "")) at += 1;
  }
  return [made, at];
}

function table(lines, index) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, tag) => make("tr", "", ...cells(line).map((cell) => make(tag, "", ...inline(cell))));
  const end = stretch(lines, index + 2, (line) => line.includes("|"));
  const body = lines.slice(index + 2, end).map((line) => row(line, "td"));
  const made = make("table", "", make("thead", "", row(lines[index], "th")), make("tbody", "", ...body));
  return [make("div", "table", made), end];
}
