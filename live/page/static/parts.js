// Small parts of the page. Text from passages and models is only ever set as text.

import { titleWords } from "./words.js";

export const byId = (id) => document.getElementById(id);

/** A copy of the one element in a <template>. */
export function fromTemplate(id) {
  return byId(id).content.firstElementChild.cloneNode(true);
}

/** Makes a button that shows a passage. */
export function passageLink(button, id, title, onOpen) {
  button.type = "button";
  button.className = "link";
  button.textContent = titleWords(title);
  button.addEventListener("click", () => onOpen(id, title));
  return button;
}

/** Shows a message in an element made for one, or hides the element. */
export function say(element, message) {
  element.textContent = message ?? "";
  element.hidden = !message;
}

/** A button that can keep the focus while it cannot be used. */
export function setUsable(button, usable) {
  button.setAttribute("aria-disabled", String(!usable));
}

export function isUsable(button) {
  return button.getAttribute("aria-disabled") !== "true";
}
