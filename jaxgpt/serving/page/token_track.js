// The tokens of an answer, by their places in its text.

/** Tokens whose places come in characters, looked up by index of a JavaScript string. */
export class TokenTrack {
  constructor() {
    this.tokens = [];
    this.numPlaced = 0;
    this.characters = 0;
    this.index = 0;
  }

  /** Take more tokens; `text` is the answer so far, and may end before the last of them. */
  add(tokens, text) {
    this.tokens.push(...tokens);
    for (; this.numPlaced < this.tokens.length; this.numPlaced += 1) {
      const token = this.tokens[this.numPlaced];
      while (this.characters < token.place && this.index < text.length) {
        // Beyond U+FFFF a character takes two places of a string.
        this.index += text.codePointAt(this.index) > 0xffff ? 2 : 1;
        this.characters += 1;
      }
      if (this.characters < token.place) {
        return;
      }
      token.start = this.index;
    }
  }

  /** Return the parts {start, end, token} of a range of the text; without a token where none is. */
  split(start, end) {
    const parts = [];
    let number = this.#lastAt(start);
    for (let place = start; place < end; number += 1) {
      const token = this.tokens[number] ?? null;
      const next = number + 1 < this.numPlaced ? this.tokens[number + 1].start : end;
      const stop = Math.max(place, Math.min(next, end));
      if (stop > place) {
        parts.push({ start: place, end: stop, token });
      }
      place = stop;
    }
    return parts;
  }

  /** Return the number of the last token that begins at or before an index; -1 if there is none. */
  #lastAt(index) {
    let low = 0;
    let high = this.numPlaced;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.tokens[middle].start <= index) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low - 1;
  }
}
