// A conversation as a file: JSON, in the form of examples for fine-tuning, or Markdown.

import { textSoFar, titleOf } from "./conversation.js";
import { element } from "./nodes.js";

/** Return a conversation as JSON; `messages` is as jaxgpt.finetune and other trainers read it. */
export function asJson(conversation) {
  const { model, created, settings } = conversation;
  const about = { model, created: new Date(created).toISOString(), settings };
  const content =
    settings.mode === "chat"
      ? { messages: messagesOf(conversation) }
      : { text: textSoFar(conversation) };
  return `${JSON.stringify({ ...about, ...content }, null, 2)}\n`;
}

/** Return a conversation as Markdown. */
export function asMarkdown(conversation) {
  const title = `# ${titleOf(conversation)}`;
  if (conversation.settings.mode !== "chat") {
    return `${title}\n\n${textSoFar(conversation)}\n`;
  }
  const parts = messagesOf(conversation).map(
    ({ role, content }) => `## ${role[0].toUpperCase()}${role.slice(1)}\n\n${content}`,
  );
  return `${[title, ...parts].join("\n\n")}\n`;
}

/** Let the browser save a text as a file. */
export function download(text, type, name) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

function messagesOf({ settings, messages }) {
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  return [...system, ...messages.map(({ role, text }) => ({ role, content: text }))];
}
