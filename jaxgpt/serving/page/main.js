// The page: what is shown, what is being written, and what each control does.

import { answer } from "./answers.js";
import { describeModel, ServerError } from "./client.js";
import { DEFAULT_SETTINGS, newConversation, titleOf } from "./conversation.js";
import { asJson, asMarkdown, download } from "./export.js";
import { button, byId } from "./nodes.js";
import { prepareSettings } from "./settings_dialog.js";
import { closeDrawer, prepareDrawer, showConversations } from "./sidebar.js";
import { forget, keep, readConversations } from "./store.js";
import { Thread } from "./thread.js";
import { TokenTrack } from "./token_track.js";
import { explainTokens } from "./token_tip.js";

const field = byId("text");
const thread = new Thread({ regenerate, resend });
let model = null;
let conversations = [];
let current = null;
// What is being written: {conversation, message, controller}, or null.
let writing = null;

function tell(text) {
  byId("status").textContent = text;
}

function fail(error, retry) {
  const again = retry ? [" ", button("Try again", retry)] : [];
  byId("alert").replaceChildren(error.message, ...again);
}

function isChat() {
  return current.settings.mode === "chat";
}

function show(conversation) {
  current = conversation;
  thread.show(current);
  field.placeholder = isChat() ? "Write a message" : "Write a text, or more of it";
  byId("send").textContent = isChat() ? "Send" : "Continue";
  showList();
}

function showList() {
  byId("title").textContent = titleOf(current);
  document.title = `${titleOf(current)} · ${model.id}`;
  showConversations(conversations, current, { open, remove });
}

function open(conversation) {
  show(conversation);
  closeDrawer();
  field.focus();
}

function begin() {
  const settings = current?.settings ?? conversations[0]?.settings ?? DEFAULT_SETTINGS;
  // A base model has learned no conversations.
  const mode = model.meta.prompt_form === "chat template" ? "chat" : "text";
  open(newConversation(model, { ...settings, mode }));
}

function remove(conversation) {
  if (!confirm(`Delete "${titleOf(conversation)}"?`)) {
    return;
  }
  if (writing?.conversation === conversation) {
    stop();
  }
  conversations = conversations.filter((each) => each !== conversation);
  forget(conversation);
  if (conversation === current) {
    current = null;
    begin();
  } else {
    showList();
  }
}

function store(conversation) {
  conversation.updated = Date.now();
  conversations = [conversation, ...conversations.filter((each) => each !== conversation)];
  if (!keep(conversation)) {
    fail(new Error("The browser does not keep this conversation: its storage is full or closed."));
  }
}

function send(text) {
  if (text) {
    current.messages.push({ role: "user", text });
    thread.add(current.messages.at(-1));
  }
  write(current);
}

function regenerate(message) {
  cutBefore(message);
  write(current);
}

function resend(message, text) {
  if (text.trim() || !isChat()) {
    cutBefore(message);
    send(text);
  }
}

function cutBefore(message) {
  current.messages.splice(current.messages.indexOf(message));
  show(current);
}

async function write(conversation) {
  const given = { ...conversation, messages: [...conversation.messages] };
  const message = { role: "assistant", text: "", tokens: new TokenTrack() };
  const controller = new AbortController();
  conversation.messages.push(message);
  store(conversation);
  showList();
  thread.add(message);
  setWriting({ conversation, message, controller });
  tell("The model is writing.");
  try {
    let timings = null;
    for await (const piece of answer(given, model, controller.signal)) {
      message.text += piece.text;
      message.tokens.add(piece.tokens, message.text);
      message.finish = piece.finish ?? message.finish;
      timings = piece.timings ?? timings;
      thread.update(message);
    }
    tell(describeEnd(message, timings));
  } catch (error) {
    if (error.name === "AbortError") {
      tell("Stopped.");
    } else {
      message.error = error instanceof ServerError ? `${error.message}.` : String(error);
      tell("");
    }
  }
  setWriting(null);
  thread.update(message);
  if (conversations.includes(conversation)) {
    store(conversation);
    showList();
  }
}

function describeEnd(message, timings) {
  const why = message.finish === "length" ? "Ended at the limit of new tokens" : "Done";
  const speed = timings?.predicted_per_second.toFixed(1);
  return timings ? `${why}: ${timings.predicted_n} tokens, ${speed} per second.` : `${why}.`;
}

function setWriting(value) {
  writing = value;
  document.body.classList.toggle("writing", value !== null);
  byId("messages").setAttribute("aria-busy", value !== null);
  byId("send").hidden = value !== null;
  byId("stop").hidden = value === null;
}

function stop() {
  writing?.controller.abort();
}

function submit() {
  if (writing || (isChat() && !field.value.trim())) {
    return;
  }
  const text = field.value;
  field.value = "";
  fitField();
  send(text);
}

function fitField() {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function pressed(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  } else if (event.key === "ArrowUp" && !field.value && !writing) {
    const own = current.messages.filter((message) => message.role === "user");
    if (own.length) {
      event.preventDefault();
      thread.edit(own.at(-1));
    }
  }
}

function exportAs(form, type, ending) {
  const name = titleOf(current).replace(/[^\p{L}\p{N}]+/gu, "-");
  download(form(current), type, `${name}.${ending}`);
  byId("export").hidePopover();
}

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  field.addEventListener("keydown", pressed);
  field.addEventListener("input", fitField);
  byId("new").addEventListener("click", begin);
  byId("stop").addEventListener("click", stop);
  byId("as-json").addEventListener("click", () => exportAs(asJson, "application/json", "json"));
  byId("as-markdown").addEventListener("click", () =>
    exportAs(asMarkdown, "text/markdown", "md"),
  );
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      stop();
    }
  });
  // What was written until the page is left.
  addEventListener("pagehide", () => writing && keep(writing.conversation));
  explainTokens(byId("messages"));
  prepareDrawer();
  prepareSettings(
    () => current.settings,
    (settings) => {
      const isOtherMode = settings.mode !== current.settings.mode;
      current.settings = settings;
      if (current.messages.length) {
        store(current);
      }
      if (isOtherMode) {
        show(current);
      }
    },
  );
}

async function start() {
  byId("alert").replaceChildren();
  try {
    model = await describeModel();
  } catch (error) {
    fail(error, start);
    return;
  }
  byId("model").textContent = model.id;
  byId("app").inert = false;
  conversations = readConversations();
  if (conversations.length) {
    show(conversations[0]);
    field.focus();
  } else {
    begin();
  }
}

listen();
start();
