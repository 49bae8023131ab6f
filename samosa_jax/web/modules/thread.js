/** The turns of the open conversation, and the scrolling that follows an answer as it grows. */

import { element, iconButton } from "./elements.js";
import { AnswerView, editor, userElement } from "./turn_view.js";

/**
 * @typedef {import("./conversation.js").Conversation} Conversation
 * @typedef {import("./conversation.js").Message} Message
 * @typedef {{onRegenerate: () => void, onEdit: (message: Message, text: string) => void}} Actions
 */

const NEAR = 80; // pixels from the end at which the page still follows

export class Thread {
  #list;
  #scroller;
  #toEnd;
  #actions;
  /** @type {AnswerView | null} */
  #live = null;
  /** @type {WeakMap<Message, HTMLElement>} */
  #asked = new WeakMap();
  /** @type {WeakMap<Message, AnswerView>} */
  #answers = new WeakMap(); // by their first message; what was unfolded stays so when the next turn begins
  #follows = true;

  /**
   * @param {{list: HTMLElement, scroller: HTMLElement, toEnd: HTMLElement}} places
   * @param {Actions} actions
   */
  constructor({ list, scroller, toEnd }, actions) {
    this.#list = list;
    this.#scroller = scroller;
    this.#toEnd = toEnd;
    this.#actions = actions;
    toEnd.append(iconButton("down", "Go to the end", () => this.scrollToEnd()));
    scroller.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = scroller;
      this.#follows = scrollHeight - scrollTop - clientHeight < NEAR;
      toEnd.hidden = this.#follows;
    });
    new ResizeObserver(() => this.#follow()).observe(scroller);
  }

  /**
   * Shows a conversation from its beginning to its end.
   *
   * @param {Conversation} conversation
   * @param {boolean} isLive  whether its last answer is still being given
   * @param {HTMLElement} welcome  shown while nothing was said
   */
  show(conversation, isLive, welcome) {
    const { messages, dropped } = conversation;
    const nodes = [];
    this.#live = null;
    let turn = 0;
    for (let index = 0; index < messages.length; ) {
      const message = messages[index];
      if (message.role === "user") {
        nodes.push(this.#user(message));
        index += 1;
        turn += 1;
        const end = endOfAnswer(messages, index);
        const isLast = end === messages.length;
        if (end > index || (isLast && isLive)) nodes.push(this.#answer(messages, index, isLast, isLive));
        index = end;
        if (turn === dropped) nodes.push(this.#cut(dropped));
      } else {
        index += 1; // the system message is among the settings
      }
    }
    this.#list.replaceChildren(...(nodes.length ? nodes : [welcome]));
    this.#list.classList.toggle("empty", nodes.length === 0);
    this.scrollToEnd();
  }

  /** Shows what an answer has become. */
  grow(/** @type {Message[]} */ answer) {
    this.#live?.update(answer, true);
    this.#follow();
  }

  /** Gives the answer that grew its last line; what else is on the page stays, an open editor too. */
  end(/** @type {Conversation} */ { messages }) {
    const start = messages.findLastIndex((message) => message.role === "user") + 1;
    if (start < messages.length && this.#live) this.#finish(this.#live, messages, start);
    else this.#live?.element.remove(); // nothing came
    this.#live = null;
    this.#follow();
  }

  /** A line below the last turn that says what went wrong, with something to do about it. */
  fail(/** @type {HTMLElement} */ line) {
    this.#list.append(line);
    this.#follow();
  }

  scrollToEnd() {
    this.#follows = true;
    this.#toEnd.hidden = true;
    this.#follow();
  }

  /** Opens the last thing that the person said for editing; false if there is none. */
  editLast() {
    const buttons = this.#list.querySelectorAll(".turn.user .actions button");
    const edit = /** @type {HTMLElement | undefined} */ (buttons[buttons.length - 2]);
    edit?.click();
    return edit !== undefined;
  }

  #follow() {
    if (this.#follows) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  /** @returns {HTMLElement} */
  #user(/** @type {Message} */ message) {
    const shown =
      this.#asked.get(message) ??
      userElement(message.content, () => {
        const form = editor(
          message.content,
          "Send",
          (text) => this.#actions.onEdit(message, text),
          () => form.replaceWith(shown),
        );
        shown.replaceWith(form);
      });
    this.#asked.set(message, shown);
    return shown;
  }

  /** @returns {HTMLElement} */
  #answer(
    /** @type {Message[]} */ messages,
    /** @type {number} */ start,
    /** @type {boolean} */ isLast,
    /** @type {boolean} */ isLive,
  ) {
    const view = this.#answers.get(messages[start]) ?? new AnswerView();
    if (isLast && isLive) {
      view.update(messages.slice(start), true);
      this.#live = view;
    } else {
      this.#finish(view, messages, start);
    }
    return view.element;
  }

  #finish(/** @type {AnswerView} */ view, /** @type {Message[]} */ messages, /** @type {number} */ start) {
    const answer = messages.slice(start, endOfAnswer(messages, start));
    const isLast = start + answer.length === messages.length;
    const edited = answer.findLast((message) => message.role === "assistant" && message.content.trim());
    const edit = () => {
      const form = editor(
        edited?.content.trim() ?? "",
        "Save",
        (text) => edited && this.#actions.onEdit(edited, text),
        () => form.replaceWith(view.element),
      );
      view.element.replaceWith(form);
    };
    this.#answers.set(messages[start], view);
    view.update(answer, false);
    view.finish(answer, { onRegenerate: isLast ? this.#actions.onRegenerate : null, onEdit: edited ? edit : null });
  }

  #cut(/** @type {number} */ dropped) {
    const turns = dropped === 1 ? "The turn" : `The ${dropped} turns`;
    return element("p", { class: "cut" }, `${turns} above no longer fit into the model's context`);
  }
}

/** Where the answer that begins at `start` ends: at the next message of the person. */
export function endOfAnswer(/** @type {Message[]} */ messages, /** @type {number} */ start) {
  let end = start;
  while (end < messages.length && messages[end].role !== "user") end += 1;
  return end;
}
