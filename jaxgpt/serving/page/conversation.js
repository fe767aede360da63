// A conversation: plain data, and what can be asked of it.

const TITLE_LENGTH = 60;

/** Settings of a first conversation; null leaves a value to the server. */
export const DEFAULT_SETTINGS = {
  mode: "chat",
  system: "",
  temperature: 0.7,
  top_p: null,
  top_k: null,
  min_p: null,
  repetition_penalty: null,
  max_tokens: 256,
  seed: null,
  stop: [],
};

/** Return an empty conversation. */
export function newConversation(model, settings) {
  const created = Date.now();
  const random = crypto.getRandomValues(new Uint32Array(2)).join("-");
  return {
    id: `${created}-${random}`,
    created,
    updated: created,
    model: model.id,
    settings: { ...settings },
    messages: [],
  };
}

/** Return the beginning of a conversation's first message. */
export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.text.trim());
  const text = first ? first.text.trim().replace(/\s+/g, " ") : "";
  const characters = [...text];
  const cut = characters.length > TITLE_LENGTH;
  return (cut ? `${characters.slice(0, TITLE_LENGTH).join("")}…` : text) || "New conversation";
}

/** Return all text of a conversation in a row, which a model without a chat template continues. */
export function textSoFar(conversation) {
  return conversation.messages.map((message) => message.text).join("");
}

/** Return whether a value that was read from somewhere has the form of a conversation. */
export function isConversation(value) {
  return (
    typeof value?.id === "string" &&
    typeof value.updated === "number" &&
    typeof value.settings === "object" &&
    Array.isArray(value.settings?.stop) &&
    Array.isArray(value.messages) &&
    value.messages.every((message) => typeof message?.text === "string")
  );
}
