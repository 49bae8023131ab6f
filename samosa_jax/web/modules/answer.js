/** An answer in the making: what the server streams becomes the messages of one turn. */

/**
 * @typedef {import("./conversation.js").Message} Message
 * @typedef {import("./server.js").Delta} Delta
 * @typedef {Extract<Message, {role: "assistant"}>} Said
 */

export class Answer {
  /** @type {Message[]} */
  messages = [];
  /** @type {string | null} */
  finishReason = null;
  /** @type {Delta["usage"]} */
  #usage = null;
  #started = performance.now();
  /** @type {Map<Said, number>} */
  #thinkStarted = new Map();
  /** @type {Map<string, Said>} */
  #callers = new Map(); // by the id of the call

  add(/** @type {Delta} */ delta) {
    if (delta.think) {
      const message = this.#speaking();
      const started = this.#thinkStarted.get(message) ?? performance.now();
      this.#thinkStarted.set(message, started);
      message.think += delta.think;
      message.thinkSeconds = (performance.now() - started) / 1000;
    }
    if (delta.text) this.#speaking().content += delta.text;
    for (const event of delta.toolEvents) {
      if (event.type === "call") {
        const message = this.#speaking();
        message.call = { name: event.name, arguments: event.arguments };
        this.#callers.set(event.id, message);
      } else {
        const { content, is_error: isError, seconds } = event;
        const caller = this.#callers.get(event.id);
        const at = caller ? this.messages.indexOf(caller) + 1 : this.messages.length;
        this.messages.splice(at, 0, { role: "tool", content, isError, seconds });
      }
    }
    if (delta.finishReason) this.finishReason = delta.finishReason;
    if (delta.usage) this.#usage = delta.usage;
  }

  end(/** @type {string} */ finish) {
    const tokens = this.#usage?.completion ?? null;
    const context = this.#usage ? this.#usage.prompt + this.#usage.completion : null;
    const seconds = (performance.now() - this.#started) / 1000;
    const last = this.messages.at(-1);
    const ended = last?.role === "assistant" ? last : this.#speaking();
    ended.ending = { finish, tokens, context, seconds };
  }

  /** The assistant's message that grows: after a call a new one begins. @returns {Said} */
  #speaking() {
    const last = this.messages.at(-1);
    if (last?.role === "assistant" && !last.call) return last;
    /** @type {Said} */
    const next = { role: "assistant", content: "", think: "", call: null };
    this.messages.push(next);
    return next;
  }
}
