// The messages of the conversation that is shown.

import { MessageView } from "./message_view.js";
import { byId, element } from "./nodes.js";
import { toggleShading } from "./token_tip.js";

const NEAR_END = 80;

/** The views of a conversation's messages; `handlers` are {regenerate, resend}, by message. */
export class Thread {
  constructor(handlers) {
    this.root = byId("messages");
    this.handlers = handlers;
    this.views = new Map();
    this.waiting = null;
  }

  /** Show a conversation from its beginning. */
  show(conversation) {
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
    this.waiting ??= requestAnimationFrame(() => this.#draw(message));
  }

  /** Let a message be written again; nothing happens if it is not shown. */
  edit(message) {
    this.views.get(message)?.edit((text) => this.handlers.resend(message, text));
  }

  #draw(message) {
    this.waiting = null;
    const { scrollHeight, scrollTop, clientHeight } = this.root;
    const follows = scrollHeight - scrollTop - clientHeight < NEAR_END;
    this.views.get(message)?.update();
    if (follows) {
      this.root.scrollTop = this.root.scrollHeight;
    }
  }

  #actions(message) {
    const copy = ["Copy", () => navigator.clipboard.writeText(message.text)];
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

  #shade(message, pressed) {
    pressed.setAttribute("aria-pressed", toggleShading(this.views.get(message)));
  }

  #hint() {
    return this.isPlain
      ? "The model continues your text. Write how it begins."
      : "Ask the model something.";
  }
}
