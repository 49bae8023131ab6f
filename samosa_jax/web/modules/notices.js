/** Short lines at the edge of the page, and what a screen reader is told. */

import { byId, element, iconButton } from "./elements.js";

const SECONDS = 10;

/**
 * Shows a line for a while.
 *
 * @param {string} text
 * @param {{verb: string, act: () => void} | null} [action]
 */
export function notify(text, action = null) {
  const close = () => line.remove();
  const act = () => {
    close();
    action?.act();
  };
  const line = element(
    "div",
    { class: "notice", role: "status" },
    element("span", {}, text),
    action && element("button", { type: "button", class: "quiet-button", onclick: act }, action.verb),
    iconButton("close", "Close this notice", close),
  );
  byId("notices").append(line);
  setTimeout(close, SECONDS * 1000);
}

/** Says a text to who listens to the page. */
export function announce(/** @type {string} */ text) {
  byId("announcer").textContent = text;
}
