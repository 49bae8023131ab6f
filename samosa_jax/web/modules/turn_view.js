/** How the turns of a conversation look: what the person said, and an answer with its thoughts and tools. */

import { parsedArguments, STOPPED_CALL } from "./conversation.js";
import { copyButton, element, icon, iconButton } from "./elements.js";
import { MarkdownView } from "./markdown_view.js";

/**
 * @typedef {import("./conversation.js").Message} Message
 * @typedef {import("./conversation.js").Ending} Ending
 * @typedef {Extract<Message, {role: "assistant"}>} Said
 * @typedef {Extract<Message, {role: "tool"}>} Result
 */

/** @type {Map<string, "calculator" | "globe" | "terminal">} */
const TOOL_ICONS = new Map([
  ["calculator", "calculator"],
  ["web_search", "globe"],
  ["python", "terminal"],
]);
const ENDINGS = new Map([
  ["length", "Cut at the limit of tokens"],
  ["stopped", "Stopped"],
  ["lost", "Interrupted"],
]);

/** What the person said. */
export function userElement(/** @type {string} */ text, /** @type {() => void} */ onEdit) {
  return element(
    "article",
    { class: "turn user", "aria-label": "You" },
    element("div", { class: "said" }, text),
    element(
      "div",
      { class: "actions" },
      iconButton("edit", "Edit this message", onEdit),
      copyButton("Copy this message", () => text),
    ),
  );
}

/** A box to edit a text in; Escape leaves it as it was. */
export function editor(
  /** @type {string} */ text,
  /** @type {string} */ verb,
  /** @type {(text: string) => void} */ onSave,
  /** @type {() => void} */ onCancel,
) {
  const box = element("textarea", { "aria-label": "Edit the message", rows: 1 });
  box.value = text;
  const save = () => (box.value.trim() ? onSave(box.value.trim()) : box.focus());
  const form = element(
    "div",
    {
      class: "editor",
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Escape") onCancel();
        else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) save();
        else return;
        event.preventDefault();
        event.stopPropagation();
      },
    },
    box,
    element("button", { type: "button", class: "quiet-button", onclick: onCancel }, "Cancel"),
    element("button", { type: "button", class: "main-button", onclick: save }, verb),
  );
  box.addEventListener("input", () => growToText(box));
  requestAnimationFrame(() => {
    growToText(box);
    box.focus();
  });
  return form;
}

/** As high as its text; style.css has the limit. */
export function growToText(/** @type {HTMLTextAreaElement} */ box) {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + box.offsetHeight - box.clientHeight}px`;
}

/** One answer: messages of the assistant, and the results of its tools. */
export class AnswerView {
  element = element("article", { class: "turn answer", "aria-label": "Answer" });
  /** @type {SaidView[]} */
  #parts = [];
  #foot = element("footer", { class: "foot" });
  #waiting = element("p", { class: "waiting", "aria-label": "Waiting for the answer" });

  constructor() {
    for (let dot = 0; dot < 3; dot += 1) this.#waiting.append(element("span"));
    this.element.append(this.#waiting, this.#foot);
  }

  /** Shows the messages so far. */
  update(/** @type {Message[]} */ messages, /** @type {boolean} */ isLive) {
    let count = 0;
    messages.forEach((message, index) => {
      if (message.role !== "assistant") return;
      const next = messages[index + 1];
      if (count === this.#parts.length) {
        this.#parts.push(new SaidView());
        this.#waiting.before(this.#parts[count].element);
      }
      this.#parts[count].update(message, next?.role === "tool" ? next : null, isLive);
      count += 1;
    });
    for (const part of this.#parts.splice(count)) part.element.remove();
    const last = messages.at(-1);
    const isSilent = last?.role !== "assistant" || !(last.content || last.think || last.call);
    this.#waiting.hidden = !isLive || !isSilent;
    this.element.setAttribute("aria-busy", String(isLive));
  }

  /**
   * The line below a finished answer.
   *
   * @param {Message[]} messages
   * @param {{onRegenerate: (() => void) | null, onEdit: (() => void) | null}} actions
   */
  finish(messages, { onRegenerate, onEdit }) {
    const text = answerText(messages);
    const last = messages.findLast((message) => message.role === "assistant");
    const ending = last?.role === "assistant" ? last.ending : undefined;
    this.#foot.replaceChildren(
      element(
        "div",
        { class: "actions" },
        text ? copyButton("Copy this answer", () => text) : null,
        onRegenerate && iconButton("refresh", "Answer again", onRegenerate),
        onEdit && text ? iconButton("edit", "Edit this answer", onEdit) : null,
      ),
      ...endingElements(ending, text === ""),
    );
  }
}

/** What was answered, without thoughts and tools. */
export function answerText(/** @type {Message[]} */ messages) {
  const texts = messages.flatMap((message) => (message.role === "assistant" ? [message.content.trim()] : []));
  return texts.filter(Boolean).join("\n\n");
}

/** @returns {HTMLElement[]} */
function endingElements(/** @type {Ending | undefined} */ ending, /** @type {boolean} */ isEmpty) {
  const words = ENDINGS.get(ending?.finish ?? "lost") ?? (isEmpty ? "The model ended without an answer" : null);
  const { tokens = null, seconds = null } = ending ?? {};
  const speed = tokens && seconds ? `, ${Math.round(tokens / seconds)} a second` : "";
  return [
    ...(words ? [element("span", { class: "ending" }, words)] : []),
    ...(tokens ? [element("span", { class: "speed" }, `${tokens} tokens${speed}`)] : []),
  ];
}

/** One message of the assistant: a thought, text, and a call with its result. */
class SaidView {
  element = element("div", { class: "part" });
  #markdown = new MarkdownView();
  #thought = element("div", { class: "thought" });
  #summary = element("span");
  #thinking = element(
    "details",
    { class: "thinking" },
    element("summary", {}, icon("brain"), this.#summary, icon("chevron")),
    this.#thought,
  );
  /** @type {ToolCard | null} */
  #card = null;

  update(/** @type {Said} */ said, /** @type {Result | null} */ result, /** @type {boolean} */ isLive) {
    if (said.think) {
      const isThinking = isLive && !said.content && !said.call;
      const seconds = said.thinkSeconds ? ` for ${shortSeconds(said.thinkSeconds)}` : "";
      setText(this.#thought, said.think.trim());
      setText(this.#summary, isThinking ? "Thinking" : `Thought${seconds}`);
      this.#thinking.classList.toggle("live", isThinking);
      this.#has(this.#thinking);
    }
    if (said.content.trim()) {
      this.#markdown.update(said.content);
      this.#has(this.#markdown.element);
    }
    if (said.call) {
      this.#card ??= new ToolCard(said.call.name);
      this.#card.update(parsedArguments(said.call), result, isLive);
      this.#has(this.#card.element);
    }
  }

  /** Puts an element in once; they come in the order in which they stand. */
  #has(/** @type {HTMLElement} */ part) {
    if (part.parentElement !== this.element) this.element.append(part);
  }
}

/** A call of a tool: its name, arguments, result or error, and how long it took. */
class ToolCard {
  #name;
  #state = element("span", { class: "state" });
  #body = element("dl");
  #shown = "";

  constructor(/** @type {string} */ name) {
    this.#name = name;
    const kind = TOOL_ICONS.get(name) ?? "tool";
    this.element = element(
      "section",
      { class: "tool", "aria-label": `Tool ${name}` },
      element("header", {}, icon(kind), element("span", { class: "name" }, name), this.#state),
      this.#body,
    );
  }

  /** @param {Record<string, unknown>} values @param {Result | null} result @param {boolean} isLive */
  update(values, result, isLive) {
    const shown = JSON.stringify([values, result, isLive]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const content = result?.content ?? (isLive ? null : STOPPED_CALL);
    const isError = result ? Boolean(result.isError) : !isLive;
    const state = content === null ? "running" : isError ? "error" : "done";
    const took = result?.seconds === undefined ? "" : shortSeconds(result.seconds);
    this.element.dataset.state = state;
    const words = { running: "Running", error: "Error", done: took }[state];
    this.#state.replaceChildren(...(state === "error" ? [icon("alert")] : []), words);
    const rows = Object.entries(values).map(([key, value]) =>
      row(key, typeof value === "string" ? value : JSON.stringify(value)),
    );
    if (content !== null) rows.push(row(isError ? "error" : "result", content, "outcome"));
    this.#body.replaceChildren(...rows);
    this.element.setAttribute("aria-label", `Tool ${this.#name}, ${state}`);
  }
}

function row(/** @type {string} */ name, /** @type {string} */ value, /** @type {string | null} */ kind = null) {
  return element("div", { class: kind }, element("dt", {}, name), element("dd", { tabindex: 0 }, value));
}

function shortSeconds(/** @type {number} */ seconds) {
  if (seconds < 0.001) return "under 1 ms";
  if (seconds < 0.995) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds / 60)} min`;
}

/** Leaves the node alone where nothing changed, so that a selection in it survives. */
function setText(/** @type {HTMLElement} */ node, /** @type {string} */ text) {
  if (node.textContent !== text) node.textContent = text;
}
