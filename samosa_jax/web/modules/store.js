/** The conversations in the browser's localStorage: one entry each, so that saving one never touches another. */

/** @typedef {import("./conversation.js").Conversation} Conversation */

const PREFIX = "samosa.conversation.";

/** Keeps a value for the next visit; false if the browser has no room left or keeps nothing. */
export function remember(/** @type {string} */ name, /** @type {string} */ value) {
  try {
    localStorage.setItem(name, value);
    return true;
  } catch (error) {
    if (error instanceof DOMException) return false;
    throw error;
  }
}

export class Store extends EventTarget {
  /** @type {Map<string, Conversation>} */
  #conversations = new Map();

  constructor() {
    super();
    for (const key of Object.keys(localStorage)) this.#read(key);
    window.addEventListener("storage", ({ key }) => {
      if (key !== null && !key.startsWith(PREFIX)) return;
      if (key === null) this.#conversations.clear();
      else if (!this.#read(key)) this.#conversations.delete(key.slice(PREFIX.length));
      this.dispatchEvent(new Event("changed elsewhere"));
    });
  }

  /** Latest first. */
  list() {
    return [...this.#conversations.values()].sort((left, right) => right.changed - left.changed);
  }

  get(/** @type {string} */ id) {
    return this.#conversations.get(id) ?? null;
  }

  /** Keeps it; false if the browser has no room left, and it lives only as long as the page. */
  save(/** @type {Conversation} */ conversation) {
    this.#conversations.set(conversation.id, conversation);
    return remember(PREFIX + conversation.id, JSON.stringify(conversation));
  }

  delete(/** @type {string} */ id) {
    this.#conversations.delete(id);
    localStorage.removeItem(PREFIX + id);
  }

  /** Whether there is such an entry; what is damaged is left where it is and not shown. */
  #read(/** @type {string} */ key) {
    const text = key.startsWith(PREFIX) ? localStorage.getItem(key) : null;
    if (text === null) return false;
    try {
      const value = JSON.parse(text);
      if (Array.isArray(value?.messages) && PREFIX + value.id === key) this.#conversations.set(value.id, value);
    } catch {
      console.warn(`${key} is not JSON; it is not shown`);
    }
    return true;
  }
}
