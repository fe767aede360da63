// The field in which a message is written, and its keys.

import { byId, isComposing } from "./nodes.js";

const field = byId("text");

/**
 * Let the field send what is written in it.
 *
 * @param mayBeSent whether a text may be sent now
 * @param send gets the text
 * @param editLast edits the last message; returns whether there is one that may be edited
 */
export function prepareComposer({ mayBeSent, send, editLast }) {
  const submit = () => {
    const text = field.value;
    if (mayBeSent(text)) {
      field.value = "";
      fit();
      send(text);
    }
  };
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  field.addEventListener("input", fit);
  field.addEventListener("keydown", (event) => {
    if (isComposing(event)) {
      return;
    }
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      submit();
    } else if (event.key === "ArrowUp" && !field.value && editLast()) {
      event.preventDefault();
    }
  });
}

function fit() {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}
