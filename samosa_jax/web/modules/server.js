/** The server's API: which models there are, and a streamed answer to a conversation. */

import { serverEvents } from "./server_events.js";

/**
 * @typedef {{id: string, contextLength: number | null, tools: string[],
 *   defaults: {temperature: number, topK: number, maxTokens: number}}} Model
 * @typedef {{model: string, temperature: number, topK: number, maxTokens: number}} Settings
 * @typedef {{type: "call", id: string, name: string, arguments: string}
 *   | {type: "result", id: string, name: string, content: string, is_error: boolean, seconds: number}} ToolEvent
 * @typedef {{think: string, text: string, toolEvents: ToolEvent[], finishReason: string | null,
 *   usage: {prompt: number, completion: number} | null}} Delta
 */

const KEY_NAME = "samosa.key";
const USUAL = { temperature: 0.8, topK: 50, maxTokens: 512 };

/** What went wrong, in words for the person at the page. */
export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {{kind: "offline" | "key" | "busy" | "too long" | "other", retryAfter?: number}} about
   */
  constructor(message, { kind, retryAfter }) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter ?? null; // seconds
  }
}

/** The key is forgotten when the tab is closed. */
export function setKey(/** @type {string} */ key) {
  if (key) sessionStorage.setItem(KEY_NAME, key);
  else sessionStorage.removeItem(KEY_NAME);
}

/** Throws ServerError. @returns {Promise<Model[]>} */
export async function listModels() {
  const response = await request("v1/models", { method: "GET" });
  const said = await response.json().catch(() => null);
  if (!Array.isArray(said?.data)) throw new ServerError("The server's list of models is none.", { kind: "other" });
  return said.data.map((/** @type {Record<string, any>} */ model) => ({
    id: model.id,
    contextLength: model.context_length ?? null,
    tools: model.tools ?? [],
    defaults: {
      temperature: model.defaults?.temperature ?? USUAL.temperature,
      topK: model.defaults?.top_k ?? USUAL.topK,
      maxTokens: model.defaults?.max_tokens ?? USUAL.maxTokens,
    },
  }));
}

/**
 * An answer, piece by piece. Throws ServerError, also when the connection breaks before the answer's end, and
 * AbortError once the signal says so.
 *
 * @param {object[]} messages  in OpenAI's form
 * @param {Settings} settings
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Delta, void, void>}
 */
export async function* streamAnswer(messages, settings, signal) {
  const body = {
    model: settings.model,
    messages,
    temperature: settings.temperature,
    top_k: settings.topK,
    max_tokens: settings.maxTokens,
    stream: true,
    stream_options: { include_usage: true },
  };
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.body) throw new ServerError("The server's answer has no body.", { kind: "other" });
  try {
    for await (const data of serverEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(capitalized(sentence(chunk.error.message)), { kind: "other" });
      yield readChunk(chunk);
    }
  } catch (error) {
    if (error instanceof ServerError || signal.aborted) throw error;
    throw lostConnection();
  }
  throw lostConnection();
}

function lostConnection() {
  return new ServerError("The connection was lost before the answer ended.", { kind: "offline" });
}

/** @returns {Delta} */
function readChunk(/** @type {Record<string, any>} */ chunk) {
  const choice = chunk.choices?.[0];
  const delta = choice?.delta ?? {};
  const { usage } = chunk;
  return {
    think: delta.reasoning_content ?? "",
    text: delta.content ?? "",
    toolEvents: delta.tool_events ?? [],
    finishReason: choice?.finish_reason ?? null,
    usage: usage ? { prompt: usage.prompt_tokens, completion: usage.completion_tokens } : null,
  };
}

/** @returns {Promise<Response>} */
async function request(/** @type {string} */ path, /** @type {RequestInit} */ options) {
  const key = sessionStorage.getItem(KEY_NAME);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ServerError("The server cannot be reached.", { kind: "offline" });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(/** @type {Response} */ response) {
  const said = await response.json().catch(() => null); // a proxy in between answers with HTML
  const message = said?.error?.message ?? said?.detail;
  if (response.status === 401) {
    return new ServerError("This server wants an API key.", { kind: "key" });
  }
  if (response.status === 400 && said?.error?.code === "context_length_exceeded") {
    return new ServerError(capitalized(sentence(message)), { kind: "too long" });
  }
  if (response.status === 429 || response.status === 503) {
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    return new ServerError(capitalized(sentence(message)), { kind: "busy", retryAfter: seconds });
  }
  const status = `The server answered ${response.status}`;
  const words = typeof message === "string" ? `${status}: ${sentence(message)}` : `${status}.`;
  return new ServerError(words, { kind: "other" });
}

function capitalized(/** @type {string} */ text) {
  return text[0].toUpperCase() + text.slice(1);
}

function sentence(/** @type {unknown} */ message) {
  const text = typeof message === "string" && message ? message : "no reason was given";
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
