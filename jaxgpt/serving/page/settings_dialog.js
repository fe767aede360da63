// The settings of a conversation, in a dialog whose fields are named as the settings are.

import { byId } from "./nodes.js";

/** Show the settings; `changed` gets those that are others when the dialog is closed. */
export function prepareSettings(current, changed) {
  const dialog = byId("settings");
  const form = dialog.querySelector("form");
  byId("open-settings").addEventListener("click", () => {
    fill(form, current());
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    const found = read(form, current());
    if (JSON.stringify(found) !== JSON.stringify(current())) {
      changed(found);
    }
  });
}

function fill(form, settings) {
  for (const [name, value] of Object.entries(settings)) {
    const field = form.elements.namedItem(name);
    if (field !== null) {
      field.value = Array.isArray(value) ? value.join("\n") : (value ?? "");
    }
  }
}

function read(form, settings) {
  const found = { ...settings };
  for (const name of Object.keys(settings)) {
    const field = form.elements.namedItem(name);
    if (field === null || !field.validity.valid) {
      continue;
    }
    if (name === "stop") {
      found.stop = field.value.split("\n").filter((line) => line);
    } else if (field.type === "number") {
      found[name] = field.value === "" ? null : field.valueAsNumber;
    } else {
      found[name] = field.value;
    }
  }
  return found;
}
