// Text as blocks: paragraphs, and code between fences. Positions in the text, no HTML.

// It takes all its signs and all white space after them, or a long line is tried from each place.
const FENCE = /^ {0,3}(`{3,}(?!`)|~{3,}(?!~))\s*([^`\s][^`]*)?$/;

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
  for (const [opening, closing] of pairsOf(text.slice(start, end))) {
    const inner = start + opening.index + opening[0].length;
    if (start + opening.index >= place) {
      parts.push({ kind: "text", start: place, end: start + opening.index });
      parts.push({ kind: "code", start: inner, end: start + closing.index });
      place = start + closing.index + closing[0].length;
    }
  }
  parts.push({ kind: "text", start: place, end });
  return parts.filter((part) => part.start < part.end);
}

/** Return each run of backticks with the next one of its length on its line, in one pass. */
function pairsOf(text) {
  const pairs = [];
  const next = new Map();
  for (const match of [...text.matchAll(/`+|\n/g)].reverse()) {
    const { length } = match[0];
    if (match[0] === "\n") {
      next.clear();
      continue;
    }
    if (next.has(length)) {
      pairs.push([match, next.get(length)]);
    }
    next.set(length, match);
  }
  return pairs.reverse();
}
