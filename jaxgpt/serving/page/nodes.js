// Elements without HTML: attributes and children are given as values, and a text stays a text.

/** Return a new element; attributes whose name begins with "on" are listeners. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      made.addEventListener(name.slice(2), value);
    } else if (value !== null && value !== false) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children);
  return made;
}

/** Return a button with a text, or with a label for screen readers where the text is a sign. */
export function button(text, onclick, attributes = {}) {
  return element("button", { type: "button", onclick, ...attributes }, text);
}

/** Return the element of the page with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Let a node have a text; one that it has already is not told again to screen readers. */
export function setText(node, text) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

/** Return whether a key belongs to an input method, which is still composing a character. */
export function isComposing(event) {
  // Safari ends the composition before it sends the key, and marks that by 229.
  return event.isComposing || event.keyCode === 229;
}

/** Tell what happens, in the line below the field. */
export function tell(text) {
  byId("status").textContent = text;
}

/** Show an error above the field, with a button to try again if there is a way. */
export function fail(error, retry) {
  const again = retry ? [" ", button("Try again", retry)] : [];
  byId("alert").replaceChildren(error.message, ...again);
}
