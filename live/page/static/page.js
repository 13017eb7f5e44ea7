// The page: asks the server, and connects its parts.

import { Column } from "./column.js";
import { formDialog, keyDialog, showPassage } from "./dialogs.js";
import { inspect, inspectNothing } from "./inspector.js";
import { byId, fromTemplate, isUsable, say, setUsable } from "./parts.js";
import { Passages } from "./passages.js";
import { Server } from "./server.js";
import { modeWords, MOST_NATS } from "./words.js";

const ALL = "all";
const WITHOUT = {
  base: "Nothing is added to the model.",
  rag: "Nothing. The passages stand in the prompt.",
};

const server = new Server(keyDialog());
const open = (id, title) => showPassage(server, id, title);
const passages = new Passages(server, open, announce);
let modes = [];
let columns = [];
let running = new AbortController();
let asked = null; // the question that the columns answer, with its limit

/** Tells something to a screen reader, once it has finished speaking. */
function announce(text) {
  byId("announcer").textContent = text;
}

async function start() {
  drawLegend();
  passages.show();
  try {
    modes = await server.models();
    say(byId("ask-error"), "");
  } catch (error) {
    say(byId("ask-error"), error.message);
    return;
  }
  const choices = modes.length > 1 ? [ALL, ...modes] : modes;
  for (const [index, mode] of choices.entries()) {
    const label = fromTemplate("mode-template");
    const input = label.querySelector("input");
    input.value = mode;
    input.checked = index === 0;
    label.querySelector("span").textContent = mode === ALL ? "all, side by side" : modeWords(mode)[0];
    byId("modes").append(label);
  }
}

function drawLegend() {
  for (let tick = 0; tick <= MOST_NATS; tick++) {
    const label = document.createElement("span");
    label.textContent = tick === MOST_NATS ? `${tick}+` : tick;
    byId("legend-ticks").append(label);
  }
}

/** Asks the question in each chosen way, one after the other, so that the times can be compared. */
async function ask() {
  if (!modes.length) await start();
  const chosen = document.querySelector('input[name="mode"]:checked')?.value;
  if (!chosen) return;
  asked = { question: byId("question").value, most: byId("max-tokens").valueAsNumber };
  const parts = { onChoose: choose, onAgain: again, onOpen: open };
  columns = (chosen === ALL ? modes : [chosen]).map((mode) => new Column(mode, parts));
  byId("columns").replaceChildren(...columns.map((column) => column.element));
  byId("no-answers").hidden = true;
  byId("legend").hidden = false;
  inspectNothing();
  await run(columns);
}

/** Asks again for one answer. */
async function again(column) {
  if (!isUsable(column.again)) return;
  byId("stop").focus(); // the button that had the focus goes
  await run([column]);
}

async function run(these) {
  running.abort();
  const { signal } = (running = new AbortController());
  setUsable(byId("stop"), true);
  for (const column of these) column.wait("waits for its turn");
  for (const [index, column] of these.entries()) {
    const chunks = server.answer(column.mode, asked.question, asked.most, signal);
    try {
      const text = await column.show(chunks);
      if (signal.aborted) return;
      announce(`${column.title}: ${text || "an empty answer"}`);
    } catch (error) {
      if (signal.aborted && running.signal !== signal) return; // another question has been asked
      if (error.name !== "AbortError") {
        column.fail(error);
        announce(`${column.title}: ${error.message}`);
        if (!error.concernsAll) continue;
      } else {
        announce("Stopped.");
      }
      for (const left of these.slice(index + 1)) left.wait("not asked");
      break;
    }
  }
  setUsable(byId("stop"), false);
}

function stop() {
  if (isUsable(byId("stop"))) running.abort();
}

/** Shows what is known of a token; one token of the page is chosen at a time. */
function choose(column, token, index) {
  for (const one of columns) if (one !== column) one.tokens.unchoose();
  const where = `token ${index + 1} of ${column.tokens.tokens.length}, ${column.title}`;
  inspect(token, where, WITHOUT[column.mode] ?? "Nothing was added to the model here.", open);
}

const adding = formDialog("add", () => passages.add(byId("add-title").value.trim(), byId("add-text").value.trim()));
byId("add").addEventListener("click", () => adding.open());
byId("stop").addEventListener("click", stop);
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
start();
