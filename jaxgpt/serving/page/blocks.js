// Text as blocks: paragraphs, and code between fences. Positions in the text, no HTML.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s][^`]*)?$/;
const INLINE_CODE = /(`+)([^`\n]|[^`\n].*?[^`\n])\1(?!`)/g;

/** Return the blocks {kind, start, end} of a text; a fence that is open yet is code to the end. */
export function splitBlocks(text) {
  const blocks = [];
  let open = null;
  let start = 0;
  for (const line of text.split(/(?<=\n)/)) {
    const end = start + line.length;
    const bare = line.trimEnd();
    const fence = FENCE.exec(bare);
    if (open?.kind === "code") {
      if (fence && fence[1].startsWith(open.fence) && !fence[2]) {
        open = null;
      } else {
        open.end = end;
      }
    } else if (fence) {
      open = { kind: "code", start: end, end, fence: fence[1] };
      blocks.push(open);
    } else if (!bare) {
      open = null;
    } else if (open) {
      open.end = start + bare.length;
    } else {
      open = { kind: "paragraph", start, end: start + bare.length };
      blocks.push(open);
    }
    start = end;
  }
  return blocks;
}

/** Return the parts {kind, start, end} of a paragraph: text, and code between backticks. */
export function splitInline(text, { start, end }) {
  const parts = [];
  let place = start;
  for (const match of text.slice(start, end).matchAll(INLINE_CODE)) {
    const begin = start + match.index;
    const inner = begin + match[1].length;
    parts.push({ kind: "text", start: place, end: begin });
    parts.push({ kind: "code", start: inner, end: inner + match[2].length });
    place = begin + match[0].length;
  }
  parts.push({ kind: "text", start: place, end });
  return parts.filter((part) => part.start < part.end);
}
