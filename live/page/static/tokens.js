// The tokens of one answer: a list box that runs like text, with one stop for the Tab key.

import { onScale, tokenWords, visible } from "./words.js";

export class Tokens {
  /**
   * @param {HTMLElement} box
   * @param {string} name What the list box is called.
   * @param {(token: object, index: number) => void} onChoose Called when a token is chosen.
   */
  constructor(box, name, onChoose) {
    this.box = box;
    this.name = name;
    this.onChoose = onChoose;
    this.tokens = [];
    box.addEventListener("click", (event) => this.clicked(event));
    box.addEventListener("keydown", (event) => this.pressed(event));
  }

  /** Empties the list. */
  clear() {
    this.tokens = [];
    this.box.replaceChildren();
    // A list box without options is none.
    for (const name of ["role", "aria-label", "aria-orientation"]) this.box.removeAttribute(name);
  }

  /** @param {{text: string, uncertainty: ?number, triggered: boolean, experts: object[]}} token */
  add(token) {
    if (!this.tokens.length) {
      this.box.setAttribute("role", "listbox");
      this.box.setAttribute("aria-label", this.name);
      this.box.setAttribute("aria-orientation", "horizontal");
    }
    const element = document.createElement("span");
    element.className = "token";
    element.textContent = visible(token.text);
    element.title = tokenWords(token);
    element.setAttribute("role", "option");
    element.setAttribute("aria-selected", "false");
    element.tabIndex = this.tokens.length ? -1 : 0;
    element.classList.toggle("triggered", token.triggered);
    element.style.setProperty("--u", onScale(token.uncertainty));
    this.tokens.push(token);
    this.box.append(element);
  }

  /** Chooses a token, as a click would, without moving the focus. */
  choose(index) {
    this.unchoose();
    this.box.querySelector('[tabindex="0"]').tabIndex = -1;
    const option = this.box.children[index];
    option.tabIndex = 0;
    option.setAttribute("aria-selected", "true");
    this.onChoose(this.tokens[index], index);
  }

  /** No token is chosen any more; the Tab key still finds the one that was. */
  unchoose() {
    this.box.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
  }

  clicked(event) {
    const index = [...this.box.children].indexOf(event.target);
    if (index >= 0) this.moveTo(index);
  }

  pressed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const index = [...this.box.children].indexOf(event.target);
    const last = this.tokens.length - 1;
    const goal = {
      ArrowLeft: () => Math.max(index - 1, 0),
      ArrowRight: () => Math.min(index + 1, last),
      ArrowUp: () => this.inLine(index, -1),
      ArrowDown: () => this.inLine(index, 1),
      Home: () => 0,
      End: () => last,
      Enter: () => index,
      " ": () => index,
    }[event.key];
    if (index < 0 || !goal) return;
    event.preventDefault();
    this.moveTo(goal());
  }

  moveTo(index) {
    this.choose(index);
    this.box.children[index].focus();
  }

  /** The token of the next line (or the previous one: -1) that stands nearest below (or above). */
  inLine(index, direction) {
    const boxes = [...this.box.children].map((option) => option.getClientRects()[0]);
    const here = boxes[index];
    const middle = (box) => box.left + box.width / 2;
    const beyond = boxes.filter((box) => (box.top - here.top) * direction > here.height / 2);
    if (!beyond.length) return index;
    const line = Math.min(...beyond.map((box) => box.top * direction));
    const near = beyond
      .filter((box) => box.top * direction - line < here.height / 2)
      .sort((a, b) => Math.abs(middle(a) - middle(here)) - Math.abs(middle(b) - middle(here)));
    return boxes.indexOf(near[0]);
  }
}
