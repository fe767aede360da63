// The API key, where the server wants one: asked for in a dialog, kept until the tab is closed.

import { byId } from "./nodes.js";

const NAME = "jaxgpt.api-key";

let key = read();

/** Return the headers that carry the key, none if no key is known. */
export function keyHeaders() {
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

/** Ask for a key; return whether one was given. */
export async function askForKey() {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-wrong").hidden = key === null;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const given = field.value.trim();
  if (dialog.returnValue !== "use" || !given) {
    return false;
  }
  key = given;
  write();
  return true;
}

function read() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

function write() {
  try {
    sessionStorage.setItem(NAME, key);
  } catch {
    // A browser without storage asks again when the page is loaded again.
  }
}
