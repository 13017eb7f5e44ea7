// What is known of the chosen token.

import { byId, fromTemplate, passageLink, say } from "./parts.js";
import { exact, likeAChoice, nats, weightWords } from "./words.js";

/**
 * @param {{text: string, uncertainty: ?number, triggered: boolean, experts: object[]}} token
 * @param {string} where Which token of which answer it is.
 * @param {string} without What to say where no expert acted.
 * @param {(id: string, title: string) => void} onOpen A passage shall be shown.
 */
export function inspect(token, where, without, onOpen) {
  byId("inspector").hidden = false;
  byId("inspector-token").textContent = exact(token.text);
  byId("inspector-where").textContent = where;
  const { uncertainty, triggered, experts } = token;
  byId("inspector-uncertainty").textContent =
    uncertainty == null ? "Uncertainty: not measured" : `Uncertainty ${nats(uncertainty)}, ${likeAChoice(uncertainty)}`;
  say(byId("inspector-trigger"), triggered ? "The router was asked here; the uncertainty is from before that." : "");
  byId("inspector-experts").replaceChildren(...experts.map((expert) => row(expert, onOpen)));
  byId("inspector-experts").hidden = !experts.length;
  say(byId("inspector-none"), experts.length ? "" : without);
}

/** No token is chosen. */
export function inspectNothing() {
  byId("inspector").hidden = true;
}

/** An expert's passage, and its weight as a number and as a bar, of which 1 is the whole. */
function row({ passage_id: id, title, weight }, onOpen) {
  const item = fromTemplate("expert-template");
  passageLink(item.querySelector("button"), id, title, onOpen);
  item.querySelector(".weight").textContent = weightWords(weight);
  const share = Math.min(Math.max(weight, 0), 1);
  item.querySelector(".bar span").style.setProperty("width", `${100 * share}%`);
  return item;
}
