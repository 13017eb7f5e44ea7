// The three dialogs: a passage, a new passage, an API key.

import { byId, say } from "./parts.js";
import { titleWords } from "./words.js";

/** Shows a passage as the server has it now. */
export async function showPassage(server, id, title) {
  const text = byId("passage-dialog-text");
  byId("passage-dialog-title").textContent = titleWords(title);
  byId("passage-dialog-id").textContent = id;
  text.textContent = "…";
  text.hidden = false;
  say(byId("passage-dialog-error"), "");
  byId("passage-dialog").showModal();
  try {
    text.textContent = (await server.passage(id)).text;
  } catch (error) {
    text.hidden = true;
    const gone = "This passage has been removed since.";
    say(byId("passage-dialog-error"), error.status === 404 ? gone : error.message);
  }
}

/**
 * Makes a dialog with a form work: a failure is shown in it, and it closes after a success.
 *
 * @param {string} name `NAME-dialog`, `NAME-form`, `NAME-error` and `NAME-cancel` are its parts.
 * @param {() => Promise<void>} onSubmit
 */
export function formDialog(name, onSubmit) {
  const dialog = byId(`${name}-dialog`);
  const error = byId(`${name}-error`);
  let busy = false;
  byId(`${name}-cancel`).addEventListener("click", () => dialog.close());
  byId(`${name}-form`).addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    say(error, "");
    try {
      await onSubmit();
      byId(`${name}-form`).reset();
      dialog.close();
    } catch (failure) {
      say(error, failure.message);
    } finally {
      busy = false;
    }
  });
  return {
    open() {
      say(error, "");
      dialog.showModal();
    },
    dialog,
  };
}

/** @returns {(refused: boolean) => Promise<?string>} Asks for an API key; null if none is given. */
export function keyDialog() {
  let given = null;
  const { open, dialog } = formDialog("key", async () => {
    const key = byId("key").value.trim();
    // Only these characters may stand in a header.
    if (!/^[\x21-\x7e]+$/.test(key)) throw new Error("A key has only ASCII letters, digits and signs, without spaces.");
    given = key;
  });
  return (refused) =>
    new Promise((resolve) => {
      given = null;
      open();
      if (refused) say(byId("key-error"), "The server did not accept that key.");
      dialog.addEventListener("close", () => resolve(given), { once: true });
    });
}
