// The API key, where the server wants one: asked for in a dialog, kept until the tab is closed.

import { byId } from "./nodes.js";

const NAME = "jaxgpt.api-key";
// What a header can carry.
const FORM = /^[\x21-\x7e]+$/;

let key = read();

/** Return the headers that carry the key, none if no key is known. */
export function keyHeaders() {
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

/** Keep the key for the tab: the server has taken it. */
export function keepKey() {
  if (key !== null) {
    try {
      sessionStorage.setItem(NAME, key);
    } catch {
      // A browser without storage asks again when the page is loaded again.
    }
  }
}

/** Ask for a key; return whether one was given. The dialog takes none that no header can carry. */
export async function askForKey() {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-wrong").hidden = key === null;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const given = field.value.trim();
  if (dialog.returnValue !== "use" || !FORM.test(given)) {
    return false;
  }
  key = given;
  return true;
}

function read() {
  try {
    const kept = sessionStorage.getItem(NAME);
    return FORM.test(kept ?? "") ? kept : null;
  } catch {
    return null;
  }
}
