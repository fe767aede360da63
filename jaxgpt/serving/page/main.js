// The page: what is shown, what is being written, and what each control does.

import { answer, describeEnd } from "./answers.js";
import { describeModel, ServerError } from "./client.js";
import { prepareComposer } from "./composer.js";
import { DEFAULT_SETTINGS, lastModelOf, newConversation, newId, titleOf } from "./conversation.js";
import { prepareExport } from "./export.js";
import { byId, fail, isComposing, setText, tell } from "./nodes.js";
import { prepareSettings } from "./settings_dialog.js";
import { closeDrawer, isDrawerOpen, prepareDrawer, showConversations } from "./sidebar.js";
import { forget, isChangedElsewhere, isLost, keep } from "./store.js";
import { readConversations, watchOtherTabs } from "./store.js";
import { Thread } from "./thread.js";
import { TokenTrack } from "./token_track.js";
import { explainTokens } from "./token_tip.js";

const field = byId("text");
const thread = new Thread({ regenerate, resend });
let model = null;
let conversations = [];
let current = null;
// What is being written: {conversation, message, controller, old}, or null. `old`: the messages
// before a Regenerate or an edit, which stay until the first piece of the answer is there.
let writing = null;

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
  const last = current?.settings ?? conversations[0]?.settings ?? DEFAULT_SETTINGS;
  // What was meant for the last one alone.
  const { system, seed, stop } = DEFAULT_SETTINGS;
  // A base model has learned no conversations.
  const mode = model.meta.prompt_form === "chat template" ? "chat" : "text";
  open(newConversation(model, { ...last, system, seed, stop, mode }));
}

function remove(conversation) {
  if (confirm(`Delete "${titleOf(conversation)}"?`)) {
    forget(conversation);
    drop(conversation);
  }
}

function drop(conversation) {
  if (writing?.conversation === conversation) {
    stop();
  }
  conversations = conversations.filter((each) => each !== conversation);
  if (conversation === current) {
    current = null;
    begin();
  } else {
    showList();
  }
}

/** Take over what another tab did with a conversation; null: it is deleted. */
function takeOver(id, found) {
  const own = conversations.find((each) => each.id === id);
  if (own && !found) {
    drop(own);
  } else if (found && own && writing?.conversation !== own && isLost(own, found)) {
    // Both tabs wrote at the same moment: both are kept.
    store(own);
    showList();
  } else if (found && (!own || writing?.conversation !== own)) {
    conversations = [found, ...conversations.filter((each) => each !== own)];
    conversations.sort((one, other) => other.updated - one.updated);
    if (own && own === current) {
      show(found);
    } else {
      showList();
    }
  }
}

function store(conversation) {
  const id = conversation.id;
  if (isChangedElsewhere(conversation)) {
    // Another tab went on with it meanwhile: both are kept.
    conversation.id = newId();
  }
  conversation.updated = Date.now();
  conversations = [conversation, ...conversations.filter((each) => each !== conversation)];
  const isPending = writing?.conversation === conversation && !writing.message.text;
  const isKept = keep(conversation, (isPending && writing.old) || conversation.messages);
  const alert = "The browser does not keep this conversation: its storage is full or closed.";
  setText(byId("not-kept"), isKept ? "" : alert);
  if (id !== conversation.id) {
    conversations.push(...readConversations().filter((each) => each.id === id));
  }
}

function send(text, old = null) {
  if (text) {
    current.messages.push({ role: "user", text });
    thread.add(current.messages.at(-1));
  }
  write(current, old);
}

function regenerate(message) {
  if (isFree()) {
    write(current, cutBefore(message));
  }
}

/** Send a message again as it is now; return whether it was sent. */
function resend(message, text) {
  if (isChat() && !text.trim()) {
    tell("The message is empty: write something, or cancel.");
    return false;
  }
  if (!isFree()) {
    return false;
  }
  send(text, cutBefore(message));
  return true;
}

function isFree() {
  if (writing) {
    tell("The model is still writing: wait for it, or stop it.");
  }
  return writing === null;
}

/** Drop a message and what came after it; return the messages before that. */
function cutBefore(message) {
  const old = current.messages;
  current.messages = old.slice(0, old.indexOf(message));
  show(current);
  return old;
}

async function write(conversation, old) {
  const given = { ...conversation, messages: [...conversation.messages] };
  const message = { role: "assistant", text: "", model: model.id, tokens: new TokenTrack() };
  const controller = new AbortController();
  conversation.messages.push(message);
  setWriting({ conversation, message, controller, old });
  byId("alert").replaceChildren();
  store(conversation);
  showList();
  thread.add(message);
  field.focus();
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
    endEarly(error);
  }
  setWriting(null);
  thread.update(message);
  if (conversations.includes(conversation)) {
    store(conversation);
    showList();
  }
}

/** Tell why an answer ended, and put back what it was to replace if nothing of it came. */
function endEarly(error) {
  const { conversation, message, old } = writing;
  const isStopped = error.name === "AbortError";
  const why = error instanceof ServerError ? `${error.message}.` : String(error);
  tell(isStopped ? "Stopped." : "");
  const place = old?.findIndex((each, number) => each !== conversation.messages[number]);
  if (message.text || !old?.slice(place).some(({ role, text }) => role === "assistant" && text)) {
    message.error = isStopped ? undefined : why;
    return;
  }
  const edited = conversation.messages[place];
  conversation.messages = old;
  if (!isStopped) {
    fail(new Error(`The old messages are back: ${why}`));
  }
  if (conversation === current) {
    show(conversation);
    if (edited !== message) {
      thread.edit(old[place], edited.text);
    }
  }
}

function setWriting(value) {
  writing = value;
  document.body.classList.toggle("writing", value !== null);
  byId("messages").setAttribute("aria-busy", value !== null);
  byId("send").hidden = value !== null;
  const hadFocus = document.activeElement === byId("stop");
  byId("stop").hidden = value === null;
  if (value === null && hadFocus) {
    field.focus();
  }
}

function stop() {
  writing?.controller.abort();
}

function mayBeSent(text) {
  return writing === null && (!isChat() || text.trim() !== "");
}

function editLast() {
  const last = current.messages.findLast(({ role }) => role === "user");
  if (writing || !last) {
    return false;
  }
  thread.edit(last);
  return true;
}

function settingsChanged(settings) {
  const isOtherMode = settings.mode !== current.settings.mode;
  current.settings = settings;
  if (current.messages.length) {
    store(current);
    showList();
  }
  if (isOtherMode) {
    show(current);
  }
}

function listen() {
  prepareComposer({ mayBeSent, send, editLast });
  byId("new").addEventListener("click", begin);
  byId("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => {
    // Esc leaves what is open first.
    const isOpen = isDrawerOpen() || document.querySelector("dialog[open], :popover-open");
    if (event.key === "Escape" && !isComposing(event) && !isOpen) {
      stop();
    }
  });
  // What was written until the page is left.
  addEventListener("pagehide", () => writing && store(writing.conversation));
  watchOtherTabs(takeOver);
  explainTokens(byId("messages"));
  prepareDrawer();
  prepareExport(() => current);
  prepareSettings(() => current.settings, settingsChanged);
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
  // Another model at this address begins with a conversation of its own.
  if (conversations.length && lastModelOf(conversations[0]) === model.id) {
    show(conversations[0]);
    field.focus();
  } else {
    begin();
  }
}

listen();
start();
