// The server's endpoints. Every failure is a ServerError whose message can be shown as it is.

import { eventData } from "./sse.js";

const SECONDS_BY_DEFAULT = 1;

export class ServerError extends Error {
  /**
   * @param {string} message A whole sentence.
   * @param {{status?: number, retryAfter?: number, param?: string}} [more] The HTTP status; the
   *     seconds after which the server wants to be asked again; the field that is wrong.
   */
  constructor(message, { status = 0, retryAfter = 0, param = "" } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
    this.param = param;
  }

  /** Whether another request, made now, would fail in the same way. */
  get concernsAll() {
    return [0, 401, 403, 503].includes(this.status);
  }
}

export class Server {
  /**
   * @param {(refused: boolean) => Promise<string | null>} askKey Asks for an API key; `refused`
   *     says that there was one already. Null where none is given.
   */
  constructor(askKey) {
    this.askKey = askKey;
    this.key = null; // in memory only
    this.asking = null;
  }

  /** @returns {Promise<string[]>} The names of the ways of answering. */
  async models() {
    return (await this.json("v1/models")).data.map((model) => model.id);
  }

  /** A page of passages: `{passages, total, next}`. */
  async passages(limit, after, signal) {
    const query = new URLSearchParams({ limit });
    if (after !== null) query.set("after", after);
    return this.json(`passages?${query}`, { signal });
  }

  /** One passage: `{id, title, text}`. */
  async passage(id) {
    return this.json(`passages/${encodeURIComponent(id)}`);
  }

  /** Adds a passage: `{id, title, text, added}`, where `added` is false if it was there. */
  async add(title, text) {
    const body = JSON.stringify({ passages: [{ title, text }] });
    return (await this.json("passages", { method: "POST", body })).passages[0];
  }

  /** Removes a passage. One that is not there any more counts as removed. */
  async remove(id) {
    try {
      await this.request(`passages/${encodeURIComponent(id)}`, { method: "DELETE" });
    } catch (error) {
      if (error.status !== 404) throw error;
    }
  }

  /**
   * Yields the chunks of an answer. It ends after the server has said that the answer is whole.
   *
   * @throws {ServerError} If the stream breaks off or is none.
   */
  async *answer(model, question, maxTokens, signal) {
    const body = JSON.stringify({
      model,
      messages: [{ role: "user", content: question }],
      stream: true,
      max_tokens: maxTokens,
    });
    const response = await this.request("v1/chat/completions", { method: "POST", body, signal });
    try {
      for await (const data of eventData(response.body)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) {
          throw new ServerError(`The server failed: ${sentence(chunk.error.message)}`, { status: 500 });
        }
        yield chunk;
      }
    } catch (error) {
      if (error instanceof ServerError || error.name === "AbortError") throw error;
      if (error instanceof SyntaxError) {
        throw new ServerError("The server sent something that is no part of an answer.", { status: 502 });
      }
    }
    throw new ServerError("The connection was lost before the answer was whole.", { status: 502 });
  }

  async json(path, options) {
    const response = await this.request(path, options);
    try {
      return await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server sent something else than expected.", { status: 502 });
    }
  }

  /** A response that is a success. A key is asked for, and the request made again, as often as needed. */
  async request(path, options = {}) {
    for (;;) {
      const key = this.key;
      const response = await this.send(path, options, key);
      if (response.ok) return response;
      const error = await failure(response);
      if (response.status !== 401) throw error;
      if (this.key === key) await this.newKey(key !== null, error);
    }
  }

  async send(path, options, key) {
    const headers = {};
    if (options.body) headers["Content-Type"] = "application/json";
    if (key !== null) headers.Authorization = `Bearer ${key}`;
    try {
      return await fetch(new URL(path, document.baseURI), { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server cannot be reached. Is it still running?");
    }
  }

  /** Several requests that are refused at the same time ask for a key once. */
  async newKey(refused, error) {
    this.asking ??= this.askKey(refused).finally(() => (this.asking = null));
    const key = await this.asking;
    if (key === null) throw error;
    this.key = key;
  }
}

/** The error that a response tells of. */
async function failure(response) {
  const { status } = response;
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // Something between the page and the server has answered; the status says enough.
  }
  const retryAfter = Number(response.headers.get("Retry-After")) || SECONDS_BY_DEFAULT;
  const more = { status, retryAfter, param: told.param ?? "" };
  const says = told.message ?? `status ${status}`;
  if (status === 401) return new ServerError("This server asks for an API key.", more);
  if (status === 429) return new ServerError("The server is busy.", more);
  if (status === 503) return new ServerError("The server is shutting down.", more);
  return new ServerError(`The server did not accept this: ${sentence(says)}`, more);
}

function sentence(message) {
  const text = String(message).trim();
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
