// Conversations in the browser: an entry of localStorage for each. Tabs share them: what one tab
// writes or deletes, the others are told of, and no tab writes over what it has not read.

import { asConversation } from "./conversation.js";

const PREFIX = "jaxgpt.conversation.";
// Which entry a conversation was read from or written to last.
const entries = new WeakMap();

/** Return the conversations that are kept, newest first; entries of another form are left out. */
export function readConversations() {
  const found = keys().map((name) => parse(name, textOf(name)));
  return found.filter((each) => each).sort((one, other) => other.updated - one.updated);
}

/**
 * Keep a conversation; return whether the browser had room. Probabilities are not kept.
 *
 * @param messages those that are kept, if not all that are shown
 */
export function keep(conversation, messages = conversation.messages) {
  const text = JSON.stringify({ ...conversation, messages }, (name, value) =>
    name === "tokens" ? undefined : value,
  );
  try {
    localStorage.setItem(PREFIX + conversation.id, text);
  } catch {
    return false;
  }
  entries.set(conversation, text);
  return true;
}

/** Return whether another tab has changed or deleted the entry of a conversation. */
export function isChangedElsewhere(conversation) {
  return textOf(PREFIX + conversation.id) !== (entries.get(conversation) ?? null);
}

/** Call `changed` with the id of an entry that another tab wrote or deleted, and what it holds. */
export function watchOtherTabs(changed) {
  addEventListener("storage", ({ key }) => {
    if (key?.startsWith(PREFIX)) {
      // The entry may have changed again since the event.
      changed(key.slice(PREFIX.length), parse(key, textOf(key)));
    }
  });
}

/** Forget a conversation. */
export function forget(conversation) {
  try {
    localStorage.removeItem(PREFIX + conversation.id);
  } catch {
    // A browser without storage has kept nothing.
  }
}

function parse(name, text) {
  try {
    const conversation = asConversation(JSON.parse(text));
    if (PREFIX + conversation?.id !== name) {
      return null;
    }
    entries.set(conversation, text);
    return conversation;
  } catch {
    // Not ours, or written by a later version.
    return null;
  }
}

function textOf(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function keys() {
  try {
    return Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
  } catch {
    return [];
  }
}
