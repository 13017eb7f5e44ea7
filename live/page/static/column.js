// One answer: asked, streamed, timed, and shown with the passages that were used.

import { fromTemplate, passageLink } from "./parts.js";
import { Tokens } from "./tokens.js";
import { count, modeWords, seconds } from "./words.js";

const USED = { rag: "In the prompt", experts: "In the parameters" };

export class Column {
  /**
   * @param {string} mode The name that the server gives to this way of answering.
   * @param {(column: Column, token: object, index: number) => void} onChoose A token was chosen.
   * @param {(column: Column) => void} onAgain The question shall be asked again.
   * @param {(id: string, title: string) => void} onOpen A passage shall be shown.
   */
  constructor(mode, { onChoose, onAgain, onOpen }) {
    this.mode = mode;
    this.onOpen = onOpen;
    this.element = fromTemplate("column-template");
    this.element.dataset.mode = mode;
    const find = (selector) => this.element.querySelector(selector);
    [this.title, find("header p").textContent] = modeWords(mode);
    find("h3").textContent = this.title;
    this.element.setAttribute("aria-label", `Answer (${this.title})`);
    this.plain = find(".plain");
    this.error = find(".error");
    this.again = find(".again");
    this.state = find(".state");
    this.used = find(".used");
    this.again.addEventListener("click", () => onAgain(this));
    this.tokens = new Tokens(find(".tokens"), `Tokens of the answer (${this.title})`, (token, index) =>
      onChoose(this, token, index),
    );
  }

  /** Empties the column, which says meanwhile what it waits for. */
  wait(words) {
    clearInterval(this.countdown);
    this.tokens.clear();
    this.passages = new Map();
    this.plain.textContent = "";
    this.error.hidden = true;
    this.again.hidden = true;
    this.used.hidden = true;
    this.state.textContent = words;
  }

  /**
   * Shows an answer while it comes.
   *
   * @param {AsyncGenerator<object>} chunks
   * @returns {Promise<string>} The text of the answer.
   */
  async show(chunks) {
    this.wait("reading the question …");
    const start = performance.now();
    const since = () => performance.now() - start;
    const clock = setInterval(() => {
      if (this.tokens.tokens.length) this.state.textContent = `${seconds(since())} …`;
    }, 100);
    let first = null;
    let finish = null;
    let text = "";
    try {
      for await (const chunk of chunks) {
        for (const token of tokensOf(chunk)) {
          first ??= since();
          this.tokens.add(token);
          this.keep(token.experts.map(({ passage_id: id, title }) => ({ id, title })));
          text += token.text;
        }
        this.keep(chunk.knowledge?.passages ?? []);
        finish = chunk.choices?.[0]?.finish_reason ?? finish;
      }
      const begun = first === null ? "" : `, the first after ${seconds(first)}`;
      const empty = text.trim() ? "" : "an empty answer; ";
      const cut = finish === "length" ? "; cut off at the limit" : "";
      this.state.textContent = `${empty}${count(this.tokens.tokens.length, "token")} in ${seconds(since())}${begun}${cut}`;
    } catch (error) {
      const came = this.tokens.tokens.length;
      const stopped = error.name === "AbortError";
      this.state.textContent = stopped || came ? `${stopped ? "stopped" : "broken off"} after ${count(came, "token")}` : "";
      throw error;
    } finally {
      clearInterval(clock);
      this.plain.textContent = text;
    }
    return text.trim();
  }

  /** Says what went wrong; asking again is possible, at once or when the server wants it. */
  fail(error) {
    this.error.textContent = error.message;
    this.error.hidden = false;
    this.again.hidden = false;
    if (error.status !== 429) return;
    let left = Math.ceil(error.retryAfter);
    const tick = () => {
      this.again.setAttribute("aria-disabled", String(left > 0));
      this.again.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
      if (left-- <= 0) clearInterval(this.countdown);
    };
    this.countdown = setInterval(tick, 1000);
    tick();
  }

  /** Lists passages that have not been listed yet. */
  keep(passages) {
    for (const { id, title } of passages) {
      if (this.passages.has(id)) continue;
      this.passages.set(id, title);
      const list = this.used.querySelector("ul");
      if (this.passages.size === 1) list.replaceChildren();
      const item = document.createElement("li");
      item.append(passageLink(document.createElement("button"), id, title, this.onOpen));
      list.append(item);
      this.used.querySelector("h4").textContent = USED[this.mode] ?? "Passages";
      this.used.hidden = false;
    }
  }
}

/** The tokens of a chunk; without the extension field, its text as one token that nobody measured. */
function tokensOf(chunk) {
  if (chunk.knowledge?.tokens) return chunk.knowledge.tokens;
  const text = chunk.choices?.[0]?.delta?.content;
  return text ? [{ text, uncertainty: null, triggered: false, experts: [] }] : [];
}
