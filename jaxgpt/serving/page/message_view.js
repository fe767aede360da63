// One message on the page: its text as nodes, its tokens as spans, and what can be done with it.

import { splitBlocks, splitInline } from "./blocks.js";
import { button, byId, element, isComposing, setText } from "./nodes.js";

/** The elements of a message; `update` follows its text as that grows. */
export class MessageView {
  /**
   * @param message {role, text, error?, tokens?: TokenTrack}
   * @param isPlain whether the text is shown as it is, without blocks
   * @param actions [name, function] of each button below the message
   */
  constructor(message, isPlain, actions) {
    this.message = message;
    this.isPlain = isPlain;
    this.body = element("div", { class: "body", dir: "auto" });
    this.blocks = [];
    // An error that is known already is no news.
    const role = message.error ? null : "alert";
    this.error = element("p", { class: "error", role, hidden: true });
    this.actions = element("div", { class: "actions" });
    this.actions.append(...actions.map(([name, act]) => button(name, act)));
    const label = message.role === "user" ? "You" : "Model";
    this.root = element(
      "article",
      { class: `message ${message.role}`, "aria-label": label },
      element("h2", {}, label),
      this.body,
      this.error,
      this.actions,
    );
    this.update();
  }

  /** Show what is new: blocks that have not changed keep their nodes. */
  update() {
    const { text, error } = this.message;
    const whole = text ? [{ kind: "plain", start: 0, end: text.length }] : [];
    const blocks = this.isPlain ? whole : splitBlocks(text);
    let number = 0;
    // The last block may grow, and with it the place where its last token ends.
    while (number < blocks.length - 1 && isSame(this.blocks[number], blocks[number])) {
      number += 1;
    }
    for (const child of [...this.body.children].slice(number)) {
      child.remove();
    }
    this.body.append(...blocks.slice(number).map((block) => this.#blockNode(block)));
    this.blocks = blocks;
    setText(this.error, error ?? "");
    this.error.hidden = !error;
  }

  /** Show a form in the place of the text; `accept` gets what was written, and may return false. */
  edit(accept, shown = this.message.text) {
    if (!this.body.isConnected) {
      this.root.querySelector("textarea").focus();
      return;
    }
    const before = document.activeElement;
    const text = element("textarea", { "aria-label": "Message", rows: 4 });
    text.value = shown;
    const form = element("form", { class: "edit" }, text);
    const close = () => {
      form.replaceWith(this.body);
      this.actions.hidden = false;
      before.focus();
      if (document.activeElement === document.body) {
        byId("text").focus();
      }
    };
    form.append(
      element(
        "div",
        { class: "buttons" },
        element("button", { type: "submit", class: "primary" }, "Send"),
        button("Cancel", close),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (accept(text.value)) {
        close();
      }
    });
    form.addEventListener("keydown", (event) => {
      if (isComposing(event)) {
        return;
      }
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.body.replaceWith(form);
    this.actions.hidden = true;
    text.focus();
  }

  #blockNode(block) {
    if (block.kind === "code") {
      const code = element("code", {}, ...this.#spans(block));
      return element("pre", { tabindex: 0, role: "group", "aria-label": "Code" }, code);
    }
    const node = element(block.kind === "plain" ? "div" : "p", { class: "text" });
    const parts = block.kind === "plain" ? [block] : splitInline(this.message.text, block);
    for (const part of parts) {
      const spans = this.#spans(part);
      node.append(...(part.kind === "code" ? [element("code", {}, ...spans)] : spans));
    }
    return node;
  }

  /** Return the text of a range: a span for each token, where tokens are known. */
  #spans({ start, end }) {
    const { text, tokens } = this.message;
    const parts = tokens ? tokens.split(start, end) : [{ start, end, token: null }];
    return parts.map((part) => {
      const shown = text.slice(part.start, part.end);
      if (part.token === null) {
        return shown;
      }
      const span = element("span", { class: "token" }, shown);
      span.token = part.token;
      span.style.setProperty("--doubt", 1 - Math.exp(part.token.logprob));
      return span;
    });
  }
}

function isSame(one, other) {
  return (
    one !== undefined &&
    one.kind === other.kind &&
    one.start === other.start &&
    one.end === other.end
  );
}
