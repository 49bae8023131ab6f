/** What stands among the turns and is none: the welcome before the first, and what went wrong after the last. */

import { element, icon } from "./elements.js";
import { setKey } from "./server.js";

/**
 * @typedef {import("./server.js").Model} Model
 * @typedef {import("./server.js").ServerError} ServerError
 */

const SUGGESTIONS = new Map([
  ["calculator", "What is 23 * 47?"],
  ["web_search", "What happened in the world today?"],
]);
const ALWAYS_SUGGESTED = ["Who are you?", "Write a short poem about the sea."];

/** @param {Model} model @param {(text: string) => void} onSay */
export function welcomeElement({ id, tools }, onSay) {
  const offered = tools.flatMap((name) => SUGGESTIONS.get(name) ?? []);
  const buttons = [...offered, ...ALWAYS_SUGGESTED]
    .slice(0, 3)
    .map((text) => element("button", { type: "button", class: "suggestion", onclick: () => onSay(text) }, text));
  return element(
    "div",
    { class: "welcome" },
    element("img", { src: "favicon.svg", alt: "", width: 56, height: 56 }),
    element("h2", {}, "What shall we talk about?"),
    element("p", {}, id ? `You are talking to ${id}, a model of your own.` : "Waiting for the server."),
    element("div", { class: "suggestions" }, ...buttons),
  );
}

/** A line that says what went wrong, with a way on: another try, or the key that the server wants. */
export function failureElement(/** @type {ServerError} */ error, /** @type {() => void} */ again) {
  const way =
    error.kind === "key"
      ? keyForm(again)
      : element("button", { type: "button", class: "quiet-button", onclick: again }, "Try again");
  return element(
    "div",
    { class: "failure", role: "alert" },
    icon("alert"),
    element("p", {}, error.message),
    way,
  );
}

function keyForm(/** @type {() => void} */ then) {
  const box = element("input", {
    type: "password",
    "aria-label": "API key",
    placeholder: "API key",
    autocomplete: "off",
    required: true,
  });
  const onsubmit = (/** @type {Event} */ event) => {
    event.preventDefault();
    setKey(box.value.trim());
    then();
  };
  const send = element("button", { type: "submit", class: "main-button" }, "Go on");
  return element("form", { class: "key-form", onsubmit }, box, send);
}
