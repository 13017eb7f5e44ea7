// The list of passages: shown by pages, filtered, added to, removed from.

import { byId, fromTemplate, isUsable, passageLink, say, setUsable } from "./parts.js";
import { Pager } from "./pager.js";
import { count, titleWords } from "./words.js";

const PAUSE = 200; // milliseconds after the last key before a filter acts

export class Passages {
  /**
   * @param {Server} server
   * @param {(id: string, title: string) => void} onOpen A passage shall be shown.
   * @param {(text: string) => void} announce Tells it to a screen reader.
   */
  constructor(server, onOpen, announce) {
    this.server = server;
    this.onOpen = onOpen;
    this.announce = announce;
    this.removed = []; // the last one first undone
    this.reading = new AbortController();
    this.pager = new Pager(
      (limit, after, signal) => server.passages(limit, after, signal),
      (seen, total) => say(byId("passages-none"), `Looking through ${seen.toLocaleString("en")} of ${count(total, "passage")} …`),
    );
    byId("filter").addEventListener("input", () => this.filterSoon());
    byId("previous").addEventListener("click", (event) => this.turn(event.currentTarget, -1));
    byId("next").addEventListener("click", (event) => this.turn(event.currentTarget, 1));
    byId("notice-action").addEventListener("click", () => this.noticeAction());
  }

  /** Shows the page on which we are, as the server has it now. */
  async show() {
    this.reading.abort(); // an answer that comes late must not replace this one
    const { signal } = (this.reading = new AbortController());
    try {
      const found = await this.pager.read(signal);
      if (signal.aborted) return;
      // The passages of the last page may be gone.
      if (!found.length && this.pager.hasPrevious) {
        this.pager.turn(-1);
        await this.show();
        return;
      }
      say(byId("passages-error"), "");
      this.fill(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 404 && this.pager.hasPrevious) {
        this.pager.restart(byId("filter").value); // the passage before this page is gone
        await this.show();
        return;
      }
      say(byId("passages-none"), "");
      say(byId("passages-error"), error.message);
    }
  }

  fill(found) {
    const { pager } = this;
    byId("passages-total").textContent = pager.total.toLocaleString("en");
    byId("passage-list").replaceChildren(...found.map((passage) => this.row(passage)));
    byId("page-number").textContent = found.length ? `page ${(pager.page + 1).toLocaleString("en")}` : "";
    setUsable(byId("previous"), pager.hasPrevious);
    setUsable(byId("next"), pager.hasNext);
    const nothing = pager.filter ? "No passage contains this." : "There are no passages yet. Add one, then ask about it.";
    say(byId("passages-none"), found.length ? "" : nothing);
    if (pager.filter && !found.length) this.announce(nothing);
  }

  row(passage) {
    const item = fromTemplate("passage-template");
    passageLink(item.querySelector(".link"), passage.id, passage.title, this.onOpen);
    item.querySelector("p").textContent = passage.text;
    const remove = item.querySelector(".remove");
    remove.setAttribute("aria-label", `Remove ${titleWords(passage.title)}`);
    remove.addEventListener("click", () => this.remove(passage, remove));
    return item;
  }

  filterSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.pager.restart(byId("filter").value);
      this.show();
    }, PAUSE);
  }

  async turn(button, pages) {
    if (!isUsable(button)) return;
    this.pager.turn(pages);
    await this.show();
    this.announce(byId("page-number").textContent);
  }

  /** Adds a passage, which is offered to be opened. @throws {ServerError} */
  async add(title, text) {
    const passage = await this.server.add(title, text);
    this.notice(passage.added ? `Added “${titleWords(passage.title)}”.` : `“${titleWords(passage.title)}” was there already.`, "Open", passage);
    await this.show();
  }

  /** Removes a passage at once; it can be added again with one key. */
  async remove(passage, button) {
    if (!isUsable(button)) return;
    setUsable(button, false);
    try {
      await this.server.remove(passage.id);
    } catch (error) {
      setUsable(button, true);
      say(byId("passages-error"), `“${titleWords(passage.title)}” was not removed. ${error.message}`);
      return;
    }
    this.removed.push(passage);
    this.notice(`Removed “${titleWords(passage.title)}”.`, "Undo", passage);
    await this.show();
    byId("notice-action").focus(); // the button that had the focus is gone
  }

  notice(words, action, passage) {
    byId("notice").hidden = false;
    byId("notice-text").textContent = words;
    byId("notice-action").textContent = action;
    this.noticed = { action, passage };
    this.announce(words);
  }

  async noticeAction() {
    const { action, passage } = this.noticed;
    if (action === "Open") {
      this.onOpen(passage.id, passage.title);
      return;
    }
    try {
      await this.server.add(passage.title, passage.text);
    } catch (error) {
      say(byId("passages-error"), `“${titleWords(passage.title)}” was not added again. ${error.message}`);
      return;
    }
    this.removed.pop();
    const before = this.removed.at(-1);
    this.announce(`Added “${titleWords(passage.title)}” again.`);
    if (before) this.notice(`Removed “${titleWords(before.title)}”.`, "Undo", before);
    else byId("notice").hidden = true;
    await this.show();
    if (!before) byId("passages-title").focus();
  }
}
