// The list of conversations, and the drawer that it is on a narrow screen.

import { modelsOf, titleOf } from "./conversation.js";
import { button, byId, element } from "./nodes.js";

/** Show the conversations, and keep the focus where it is; `open` and `remove` get the one that was chosen. */
export function showConversations(conversations, current, { open, remove }) {
  const list = byId("conversations");
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const items = conversations.map((conversation) => {
    const title = titleOf(conversation);
    const isCurrent = conversation === current;
    const about = `${modelsOf(conversation)}, ${new Date(conversation.updated).toLocaleString()}`;
    return element(
      "li",
      { "data-id": conversation.id },
      button(title, () => open(conversation), {
        class: "open",
        title: about,
        "aria-current": isCurrent ? "true" : null,
      }),
      button("×", () => remove(conversation), { "aria-label": `Delete: ${title}` }),
    );
  });
  list.replaceChildren(...items);
  if (focused) {
    const item = items.find((each) => each.dataset.id === idOf(focused));
    (item?.children[placeOf(focused)] ?? byId("new")).focus();
  }
}

function idOf(part) {
  return part.closest("li").dataset.id;
}

function placeOf(part) {
  return [...part.parentElement.children].indexOf(part);
}

/** Let the menu button open and close the drawer. */
export function prepareDrawer() {
  byId("menu").addEventListener("click", () => setDrawer(!isDrawerOpen()));
  byId("veil").addEventListener("click", closeDrawer);
  byId("sidebar").addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isDrawerOpen()) {
      event.stopPropagation();
      closeDrawer();
      byId("menu").focus();
    }
  });
}

/** Close the drawer; nothing happens on a wide screen. */
export function closeDrawer() {
  setDrawer(false);
}

/** Return whether the drawer is open. */
export function isDrawerOpen() {
  return document.body.classList.contains("drawer-open");
}

function setDrawer(isOpen) {
  document.body.classList.toggle("drawer-open", isOpen);
  byId("menu").setAttribute("aria-expanded", isOpen);
  if (isOpen) {
    byId("new").focus();
  }
}
