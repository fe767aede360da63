// A conversation as a file: JSON, in the form of examples for fine-tuning, or Markdown.

import { chatMessages, modelsOf, textSoFar, titleOf } from "./conversation.js";
import { byId, element } from "./nodes.js";

const MILLISECONDS_KEPT = 60_000;

/** Let the buttons of the menu save what `current` returns. */
export function prepareExport(current) {
  const save = (form, type, ending) => {
    const name = titleOf(current()).replace(/[^\p{L}\p{N}]+/gu, "-");
    download(form(current()), type, `${name}.${ending}`);
    byId("export").hidePopover();
  };
  byId("as-json").addEventListener("click", () => save(asJson, "application/json", "json"));
  byId("as-markdown").addEventListener("click", () => save(asMarkdown, "text/markdown", "md"));
}

/** Return a conversation as JSON; `messages` is as jaxgpt.finetune and other trainers read it. */
function asJson(conversation) {
  const { created, settings } = conversation;
  const about = { model: modelsOf(conversation), created: new Date(created).toISOString(), settings };
  const content =
    settings.mode === "chat"
      ? { messages: chatMessages(conversation) }
      : { text: textSoFar(conversation) };
  return `${JSON.stringify({ ...about, ...content }, null, 2)}\n`;
}

/** Return a conversation as Markdown. */
function asMarkdown(conversation) {
  const title = `# ${titleOf(conversation)}`;
  if (conversation.settings.mode !== "chat") {
    return `${title}\n\n${textSoFar(conversation)}\n`;
  }
  const parts = chatMessages(conversation).map(
    ({ role, content }) => `## ${role[0].toUpperCase()}${role.slice(1)}\n\n${content}`,
  );
  return `${[title, ...parts].join("\n\n")}\n`;
}

/** Let the browser save a text as a file. */
function download(text, type, name) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  // Some browsers read it only after the click.
  setTimeout(() => URL.revokeObjectURL(url), MILLISECONDS_KEPT);
}
