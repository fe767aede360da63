// Conversations in the browser: an entry of localStorage for each, so that tabs do not mix them up.

import { isConversation } from "./conversation.js";

const PREFIX = "jaxgpt.conversation.";

/** Return the conversations that are kept, newest first; entries of another form are left out. */
export function readConversations() {
  const found = [];
  for (const name of keys()) {
    try {
      const conversation = JSON.parse(localStorage.getItem(name));
      if (isConversation(conversation)) {
        found.push(conversation);
      }
    } catch {
      // Not ours, or written by a later version.
    }
  }
  return found.sort((one, other) => other.updated - one.updated);
}

/** Keep a conversation; return whether the browser had room. Probabilities are not kept. */
export function keep(conversation) {
  const text = JSON.stringify(conversation, (name, value) =>
    name === "tokens" ? undefined : value,
  );
  try {
    localStorage.setItem(PREFIX + conversation.id, text);
    return true;
  } catch {
    return false;
  }
}

/** Forget a conversation. */
export function forget(conversation) {
  try {
    localStorage.removeItem(PREFIX + conversation.id);
  } catch {
    // A browser without storage has kept nothing.
  }
}

function keys() {
  try {
    return Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
  } catch {
    return [];
  }
}
