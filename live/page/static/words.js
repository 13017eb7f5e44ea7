// How numbers, tokens and modes are said.

/** Nats at the right end of the scale of colours; what is more uncertain has the same colour. */
export const MOST_NATS = 6;

const MODES = {
  base: ["Base", "the model alone"],
  rag: ["RAG", "passages in the prompt"],
  experts: ["Experts", "passages in the parameters"],
};

/** The name of a mode, and a few words on where the knowledge is. */
export function modeWords(mode) {
  return MODES[mode] ?? [mode, ""];
}

/** Where an uncertainty stands on the scale, from 0 to 1; 0 if it was not measured. */
export function onScale(uncertainty) {
  return Math.min(Math.max((uncertainty ?? 0) / MOST_NATS, 0), 1);
}

export function nats(uncertainty) {
  return uncertainty == null ? "not measured" : `${uncertainty.toFixed(2)} nats`;
}

/** An entropy of u nats is that of e^u equally probable tokens. */
export function likeAChoice(uncertainty) {
  const many = Math.exp(uncertainty);
  if (many < 1.05) return "the model was sure";
  return `like a choice among ${many < 10 ? many.toFixed(1) : Math.round(many).toLocaleString("en")} equally probable tokens`;
}

export function seconds(milliseconds) {
  return `${(milliseconds / 1000).toFixed(milliseconds < 99_950 ? 1 : 0)} s`;
}

export function count(number, thing) {
  return `${number.toLocaleString("en")} ${thing}${number === 1 ? "" : "s"}`;
}

/** A token with signs for its spaces. */
export function exact(text) {
  return visible(text).replaceAll(" ", "␣");
}

/** The title of a passage, or words that stand for one. */
export function titleWords(title) {
  return title.trim() || "(without a title)";
}

/** A token as it is shown: what would be invisible has a sign. */
export function visible(text) {
  if (text === "") return "·";
  if (text.trim() !== "") return text;
  return text.replaceAll("\n", "↵\n").replaceAll(/[^\n↵]/g, "␣");
}

/** A weight; a small one is not nothing. */
export function weightWords(weight) {
  return weight > 0 && weight < 0.005 ? "< 0.01" : weight.toFixed(2);
}

/** What a token's look says, in words. */
export function tokenWords({ text, uncertainty, triggered, experts }) {
  const words = [nats(uncertainty)];
  if (text === "") words.push("no text of its own");
  if (triggered) words.push("the router was asked");
  words.push(experts.length ? `in the parameters: ${experts.map((expert) => titleWords(expert.title)).join(", ")}` : "no passage in the parameters");
  return words.join("; ");
}
