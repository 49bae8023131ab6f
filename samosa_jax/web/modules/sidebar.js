/** The list of conversations: open, rename, export, delete; beside the chat, or over it where it is narrow. */

import { byId, element, iconButton } from "./elements.js";

/**
 * @typedef {import("./conversation.js").Conversation} Conversation
 * @typedef {{onOpen: (id: string) => void, onRename: (id: string, title: string) => void,
 *   onExport: (id: string) => void, onDelete: (id: string) => void}} Actions
 */

const NARROW = window.matchMedia("(max-width: 52rem)");
const DAY = 24 * 60 * 60 * 1000;

export class Sidebar {
  #element = byId("sidebar");
  #main = byId("main");
  #list = byId("conversations");
  #scrim = byId("scrim");
  #actions;
  #isOpen = false; // matters only where it is narrow

  constructor(/** @type {Actions} */ actions) {
    this.#actions = actions;
    byId("sidebar-open").append(iconButton("menu", "Show the conversations", () => this.#open(true)));
    byId("sidebar-close").append(iconButton("close", "Hide the conversations", () => this.#open(false)));
    this.#scrim.addEventListener("click", () => this.#open(false));
    NARROW.addEventListener("change", () => this.#open(false));
    this.#open(false);
  }

  /** Hides it where it covers the chat; false if it did not. */
  close() {
    const wasOpen = this.#isOpen;
    this.#open(false);
    return wasOpen;
  }

  show(/** @type {Conversation[]} */ conversations, /** @type {string} */ openId) {
    if (this.#list.querySelector("input")) return; // a name is being written; its end shows the list anew
    const nodes = [];
    let age = "";
    for (const conversation of conversations) {
      const next = ageOf(conversation.changed);
      if (next !== age) nodes.push(element("li", { class: "age" }, next));
      age = next;
      nodes.push(this.#item(conversation, conversation.id === openId));
    }
    const nothing = element("li", { class: "age" }, "Conversations are kept in this browser");
    const held = this.#list.contains(document.activeElement) ? document.activeElement?.getAttribute("title") : null;
    this.#list.replaceChildren(...(nodes.length ? nodes : [nothing]));
    if (held) [...this.#list.querySelectorAll("button")].find((button) => button.title === held)?.focus();
  }

  #open(/** @type {boolean} */ isOpen) {
    const hadFocus = this.#element.contains(document.activeElement);
    this.#isOpen = isOpen && NARROW.matches;
    this.#element.classList.toggle("open", this.#isOpen);
    this.#element.inert = NARROW.matches && !isOpen;
    this.#main.inert = this.#isOpen;
    this.#scrim.hidden = !this.#isOpen;
    if (this.#isOpen) byId("new-chat").focus();
    else if (hadFocus && NARROW.matches) byId("sidebar-open").querySelector("button")?.focus();
  }

  #item(/** @type {Conversation} */ { id, title }, /** @type {boolean} */ isCurrent) {
    const open = element(
      "button",
      { type: "button", class: "open", title, "aria-current": isCurrent ? "page" : null },
      title,
    );
    open.addEventListener("click", () => {
      this.#actions.onOpen(id);
      this.close();
    });
    const item = element(
      "li",
      { class: "conversation" },
      open,
      element(
        "div",
        { class: "actions" },
        iconButton("edit", `Rename ${title}`, () => this.#rename(item, id, title)),
        iconButton("download", `Export ${title}`, () => this.#actions.onExport(id)),
        iconButton("trash", `Delete ${title}`, () => this.#actions.onDelete(id)),
      ),
    );
    return item;
  }

  #rename(/** @type {HTMLElement} */ item, /** @type {string} */ id, /** @type {string} */ title) {
    const box = element("input", { type: "text", "aria-label": "Name of the conversation", maxlength: 200 });
    box.value = title;
    let isDone = false;
    const end = (/** @type {string} */ name) => {
      if (isDone) return; // taking the box away takes its focus, which ends it again
      isDone = true;
      box.remove();
      this.#actions.onRename(id, name.trim() || title);
    };
    box.addEventListener("blur", () => end(box.value));
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) end(box.value);
      else if (event.key === "Escape") end(title);
      else return;
      event.stopPropagation();
    });
    item.replaceChildren(box);
    box.select();
  }
}

function ageOf(/** @type {number} */ changed) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (changed >= today) return "Today";
  if (changed >= today - DAY) return "Yesterday";
  return changed >= today - 7 * DAY ? "Last seven days" : "Earlier";
}
