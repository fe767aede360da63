// The messages of the conversation that is shown.

import { MessageView } from "./message_view.js";
import { byId, element, tell } from "./nodes.js";
import { toggleShading } from "./token_tip.js";

const NEAR_END = 80;

/** The views of a conversation's messages; `handlers` are {regenerate, resend}, by message. */
export class Thread {
  constructor(handlers) {
    this.root = byId("messages");
    this.handlers = handlers;
    this.views = new Map();
    this.waiting = new Set();
  }

  /** Show a conversation from its beginning. */
  show(conversation) {
    const hadFocus = this.root.contains(document.activeElement);
    // A screen reader is not to read out all of it.
    this.root.setAttribute("aria-busy", true);
    requestAnimationFrame(() =>
      this.root.setAttribute("aria-busy", document.body.classList.contains("writing")),
    );
    this.isPlain = conversation.settings.mode !== "chat";
    this.views.clear();
    this.root.replaceChildren();
    for (const message of conversation.messages) {
      this.add(message);
    }
    if (!conversation.messages.length) {
      this.root.append(element("p", { class: "hint" }, this.#hint()));
    }
    this.root.scrollTop = this.root.scrollHeight;
    if (hadFocus) {
      this.root.focus();
    }
  }

  /** Show one more message. */
  add(message) {
    this.root.querySelector(".hint")?.remove();
    const view = new MessageView(message, this.isPlain, this.#actions(message));
    this.views.set(message, view);
    this.root.append(view.root);
    this.root.scrollTop = this.root.scrollHeight;
  }

  /** Show what a message has gained, with the next frame; it may not be of this conversation. */
  update(message) {
    if (!this.waiting.size) {
      requestAnimationFrame(() => this.#draw());
    }
    this.waiting.add(message);
  }

  /** Let a message be written again, from `text` if given; nothing happens if it is not shown. */
  edit(message, text) {
    this.views.get(message)?.edit((written) => this.handlers.resend(message, written), text);
  }

  #draw() {
    const { scrollHeight, scrollTop, clientHeight } = this.root;
    const follows = scrollHeight - scrollTop - clientHeight < NEAR_END;
    for (const message of this.waiting) {
      this.views.get(message)?.update();
    }
    this.waiting.clear();
    if (follows) {
      this.root.scrollTop = this.root.scrollHeight;
    }
  }

  #actions(message) {
    const copy = ["Copy", () => this.#copy(message)];
    const edit = ["Edit", () => this.edit(message)];
    const regenerate = ["Regenerate", () => this.handlers.regenerate(message)];
    const shade = ["Probabilities", (event) => this.#shade(message, event.currentTarget)];
    return [
      message.role === "user" ? edit : regenerate,
      // Known until the page is loaded again.
      ...(message.tokens ? [shade] : []),
      // Browsers have a clipboard for pages of this machine, or by https.
      ...(navigator.clipboard ? [copy] : []),
    ];
  }

  async #copy(message) {
    try {
      await navigator.clipboard.writeText(message.text);
      tell("Copied.");
    } catch {
      tell("The browser does not let the page copy: select the text instead.");
    }
  }

  #shade(message, pressed) {
    pressed.setAttribute("aria-pressed", toggleShading(this.views.get(message)));
  }

  #hint() {
    return this.isPlain
      ? "The model continues your text. Write how it begins."
      : "Ask the model something.";
  }
}
