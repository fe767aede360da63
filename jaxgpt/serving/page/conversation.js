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
const SETTINGS = Object.keys(DEFAULT_SETTINGS);
const NUMBERS = SETTINGS.filter((name) => !["mode", "system", "stop"].includes(name));

/** Return a name that no other conversation has. */
export function newId() {
  return `${Date.now()}-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
}

/** Return an empty conversation. */
export function newConversation(model, settings) {
  const created = Date.now();
  return {
    id: newId(),
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

/** Return the messages as the chat route takes them; a question without an answer is left out. */
export function chatMessages({ settings, messages }) {
  const isEmpty = (message) => message?.role === "assistant" && !message.text;
  const isAsked = ({ role }, number) => role === "user" && isEmpty(messages[number + 1]);
  const said = messages
    .filter((message, number) => !isEmpty(message) && !isAsked(message, number))
    .map(({ role, text }) => ({ role, content: text }));
  return settings.system ? [{ role: "system", content: settings.system }, ...said] : said;
}

/** Return the names of the models that answered; of the one that was to answer before that. */
export function modelsOf({ model, messages }) {
  const answers = messages.filter(({ role }) => role === "assistant");
  return [...new Set(answers.map((message) => message.model))].join(", ") || model;
}

/** Return the name of the model that answered last. */
export function lastModelOf({ model, messages }) {
  return messages.findLast(({ role }) => role === "assistant")?.model ?? model;
}

/** Return a conversation's known fields of a value that was read, or null if it has another form. */
export function asConversation(value) {
  const { id, created, updated, model, settings, messages } = value ?? {};
  const isWhole =
    [id, model].every(isText) &&
    [created, updated].every(isTime) &&
    Array.isArray(messages) &&
    messages.every(isMessage) &&
    isSettings(settings);
  return isWhole
    ? {
        id,
        created,
        updated,
        model,
        settings: Object.fromEntries(SETTINGS.map((name) => [name, settings[name] ?? null])),
        messages: messages.map((message) => asMessage(message, model)),
      }
    : null;
}

function asMessage({ role, text, model, finish, error }, first) {
  if (role === "user") {
    return { role, text };
  }
  const known = { finish, error };
  const given = Object.entries(known).filter(([, each]) => isText(each));
  return { role, text, model: isText(model) ? model : first, ...Object.fromEntries(given) };
}

function isMessage(value) {
  return ["user", "assistant"].includes(value?.role) && isText(value.text);
}

function isSettings(value) {
  return (
    ["chat", "text"].includes(value?.mode) &&
    isText(value.system) &&
    Array.isArray(value.stop) &&
    value.stop.every(isText) &&
    NUMBERS.every((name) => (value[name] ?? null) === null || Number.isFinite(value[name]))
  );
}

function isText(value) {
  return typeof value === "string";
}

function isTime(value) {
  return typeof value === "number" && !Number.isNaN(new Date(value).getTime());
}
