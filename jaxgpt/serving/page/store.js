// Conversations in the browser: an entry of localStorage for each. Tabs share them: what one tab
// writes or deletes, the others are told of, and no tab writes over what it has not read. Two that
// write at the same moment cannot know of each other: the one whose entry is gone learns it from the
// versions that the other one names, and keeps its own as another conversation.

import { asConversation, newId } from "./conversation.js";

const PREFIX = "jaxgpt.conversation.";
// More than a tab that sleeps may miss.
const MOST_VERSIONS = 20;
// The entry that a conversation was read from or written to last: its text, the versions that it
// is made of, newest first, and whether this tab wrote it.
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
  const before = entries.get(conversation)?.versions ?? [];
  const versions = [newId(), ...before].slice(0, MOST_VERSIONS);
  const text = JSON.stringify({ ...conversation, messages, versions }, (name, value) =>
    name === "tokens" ? undefined : value,
  );
  try {
    localStorage.setItem(PREFIX + conversation.id, text);
  } catch {
    return false;
  }
  entries.set(conversation, { text, versions, isOwn: true });
  return true;
}

/** Return whether the tab that wrote `found` over `own` had not read what this tab wrote. */
export function isLost(own, found) {
  const written = entries.get(own);
  return Boolean(written?.isOwn) && !entries.get(found).versions.includes(written.versions[0]);
}

/** Return whether another tab has changed or deleted the entry of a conversation. */
export function isChangedElsewhere(conversation) {
  return textOf(PREFIX + conversation.id) !== (entries.get(conversation)?.text ?? null);
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
    const value = JSON.parse(text);
    const conversation = asConversation(value);
    if (PREFIX + conversation?.id !== name) {
      return null;
    }
    const versions = Array.isArray(value.versions) ? value.versions : [];
    entries.set(conversation, { text, versions, isOwn: false });
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
