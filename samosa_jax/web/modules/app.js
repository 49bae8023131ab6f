/** The page: joins the conversations, what is shown of them, and the server's answers. */

import { Answer } from "./answer.js";
import * as conversations from "./conversation.js";
import { byId, icon } from "./elements.js";
import { exportAll, exportOne, importFile } from "./files.js";
import { announce, notify } from "./notices.js";
import { failureElement, welcomeElement } from "./lines.js";
import { listModels, ServerError, streamAnswer } from "./server.js";
import { SettingsPanel } from "./settings_panel.js";
import { Sidebar } from "./sidebar.js";
import { Store } from "./store.js";
import { Thread } from "./thread.js";
import { answerText, growToText } from "./turn_view.js";

/**
 * @typedef {conversations.Conversation} Conversation
 * @typedef {conversations.Message} Message
 */

const SAVE_EVERY = 1000; // milliseconds, while an answer grows

class App {
  #store = new Store();
  #current = conversations.newConversation();
  /** @type {Map<string, AbortController>} */
  #running = new Map(); // answers being given, by conversation
  /** @type {Map<string, ServerError>} */
  #failures = new Map(); // what went wrong last, by conversation
  #hasRoom = true;
  #prompt = /** @type {HTMLTextAreaElement} */ (byId("prompt"));

  #settings = new SettingsPanel({
    onModel: () => this.#showModel(),
    onKey: () => this.#connect(),
    onSystem: (text) => {
      conversations.setSystemText(this.#current, text);
      this.#save(this.#current);
    },
  });

  #sidebar = new Sidebar({
    onOpen: (id) => this.#open(id),
    onRename: (id, title) => this.#rename(id, title),
    onExport: (id) => exportOne(this.#known(id)),
    onDelete: (id) => this.#delete(id),
  });

  #thread = new Thread(
    { list: byId("thread"), scroller: byId("scroller"), toEnd: byId("to-end") },
    {
      onRegenerate: () => this.#answerAgain(),
      onEdit: (message, text) => this.#edit(message, text),
    },
  );

  start() {
    byId("send").append(icon("send"));
    byId("stop").append(icon("stop"));
    byId("new-chat").prepend(icon("plus"));
    byId("import").prepend(icon("upload"));
    byId("export-all").prepend(icon("download"));
    byId("stop").addEventListener("click", () => this.#stop());
    byId("new-chat").addEventListener("click", () => this.#open(""));
    byId("export-all").addEventListener("click", () => exportAll(this.#store.list()));
    const file = /** @type {HTMLInputElement} */ (byId("import-file"));
    byId("import").addEventListener("click", () => file.click());
    file.addEventListener("change", async () => {
      await this.#import([...(file.files ?? [])]);
      file.value = "";
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#prompt.addEventListener("input", () => growToText(this.#prompt));
    document.addEventListener("keydown", (event) => this.#onKey(event));
    window.addEventListener("popstate", () => this.#openFromAddress());
    window.addEventListener("pagehide", () => {
      for (const id of this.#running.keys()) this.#save(this.#known(id));
    });
    this.#store.addEventListener("changed elsewhere", () => this.#takeOver());
    this.#openFromAddress();
    this.#connect();
  }

  // What is shown

  #openFromAddress() {
    const found = this.#store.get(location.hash.slice(1));
    this.#current = found ?? conversations.newConversation();
    this.#show();
  }

  #open(/** @type {string} */ id) {
    if (id !== location.hash.slice(1)) history.pushState(null, "", id ? `#${id}` : location.pathname);
    this.#openFromAddress();
    this.#sidebar.close();
    this.#focus();
  }

  /** Where there is no keyboard, the one on the screen would cover the chat. */
  #focus() {
    if (!window.matchMedia("(pointer: coarse)").matches) this.#prompt.focus();
  }

  /** Another tab changed something; an answer that grows here is newer than what stands there. */
  #takeOver() {
    const stored = this.#store.get(this.#current.id);
    if (stored && stored !== this.#current && !this.#isRunning()) {
      this.#current = stored;
      this.#show();
    }
    this.#sidebar.show(this.#store.list(), this.#current.id);
  }

  #show() {
    const conversation = this.#current;
    this.#thread.show(conversation, this.#isRunning(), welcomeElement(this.#settings.model, (text) => this.#say(text)));
    this.#settings.system = conversations.systemText(conversation);
    const failure = this.#failures.get(conversation.id);
    if (failure) this.#thread.fail(failureElement(failure, () => this.#answerAgain()));
    this.#showState();
  }

  /** Everything around the turns. */
  #showState() {
    const { title, id } = this.#current;
    byId("title").textContent = title;
    document.title = this.#current.messages.length ? `${title} – Samosa` : "Samosa";
    byId("send").hidden = this.#isRunning();
    byId("stop").hidden = !this.#isRunning();
    byId("export-all").toggleAttribute("disabled", this.#store.list().length === 0);
    this.#sidebar.show(this.#store.list(), id);
    this.#showModel();
  }

  #showModel() {
    const { id, contextLength } = this.#settings.model;
    const ended = this.#current.messages.findLast((message) => message.role === "assistant" && message.ending);
    const used = ended?.role === "assistant" ? ended.ending?.context : null;
    const context = contextLength ? `${used ? `${used} of ` : ""}${contextLength} tokens` : "";
    byId("about-model").textContent = [id, context].filter(Boolean).join(" · ");
  }

  /** Throws ServerError. */
  async #loadModels() {
    this.#settings.models = await listModels();
    if (this.#current.messages.length === 0) this.#show();
    else this.#showModel();
  }

  /** Asks the server, again and again while it starts, what it serves. */
  async #connect() {
    try {
      await this.#loadModels();
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      const again = () => this.#connect();
      if (error.retryAfter) setTimeout(again, error.retryAfter * 1000);
      else if (error.kind !== "key") notify(error.message, { verb: "Try again", act: again });
    }
  }

  // What is said

  #onKey(/** @type {KeyboardEvent} */ event) {
    const inPrompt = event.target === this.#prompt;
    if (event.key === "Enter" && inPrompt && !event.shiftKey && !event.isComposing) this.#send();
    else if (event.key === "ArrowUp" && inPrompt && !this.#prompt.value && !event.isComposing) {
      if (!this.#thread.editLast()) return;
    } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      if (!this.#sidebar.close() && !this.#stop()) return;
    } else return;
    event.preventDefault();
  }

  #send() {
    const text = this.#prompt.value.trim();
    if (!text || this.#isRunning()) return;
    this.#prompt.value = "";
    growToText(this.#prompt);
    this.#say(text);
  }

  #say(/** @type {string} */ text) {
    const conversation = this.#current;
    conversation.messages.push({ role: "user", content: text });
    if (!conversation.isNamed) conversation.title = conversations.titleOf(conversation.messages);
    history.replaceState(null, "", `#${conversation.id}`);
    this.#focus();
    this.#answer(conversation);
  }

  #answerAgain() {
    const { messages } = this.#current;
    this.#cutAfter(messages.findLastIndex((message) => message.role === "user"));
    this.#focus();
    this.#answer(this.#current);
  }

  /** What the person said is said anew, and all that followed is gone; an answer is changed where it stands. */
  #edit(/** @type {Message} */ message, /** @type {string} */ text) {
    const conversation = this.#current;
    const index = conversation.messages.indexOf(message);
    if (message.role === "user") {
      this.#cutAfter(index - 1);
      conversation.dropped = 0;
      this.#say(text);
    } else {
      conversation.messages[index] = { ...message, content: text };
      this.#save(conversation);
      this.#show();
    }
  }

  #cutAfter(/** @type {number} */ index) {
    this.#stop();
    this.#current.messages = this.#current.messages.slice(0, index + 1);
  }

  /** Whether there was an answer to stop. */
  #stop() {
    const running = this.#running.get(this.#current.id);
    running?.abort();
    return running !== undefined;
  }

  /** Lets the model answer a conversation that ends with what the person said. */
  async #answer(/** @type {Conversation} */ conversation) {
    const asked = conversation.messages;
    const answer = new Answer();
    const abort = new AbortController();
    this.#running.set(conversation.id, abort);
    this.#failures.delete(conversation.id);
    this.#save(conversation);
    this.#show();
    announce("The model is answering");

    let isPainting = false;
    let pause = 0; // milliseconds until the next painting: four times what the last one took
    let saved = performance.now();
    const isOurs = () => this.#running.get(conversation.id) === abort;
    const takeIn = () => {
      // What was said before may be edited meanwhile, so only the answer itself is replaced.
      const others = conversation.messages.filter((message) => !answer.messages.includes(message));
      conversation.messages = [...others, ...answer.messages];
    };
    const paint = () => {
      const start = performance.now();
      if (this.#current === conversation && isOurs()) this.#thread.grow(answer.messages);
      pause = 4 * (performance.now() - start);
      isPainting = false;
    };
    let finish = "stop";
    try {
      for await (const delta of this.#deltas(conversation, asked, abort.signal)) {
        if (!isOurs()) return; // asked anew meanwhile: this answer is gone
        answer.add(delta);
        takeIn();
        if (!isPainting) setTimeout(() => requestAnimationFrame(paint), pause);
        isPainting = true;
        if (performance.now() - saved > SAVE_EVERY) {
          saved = performance.now();
          this.#save(conversation);
        }
      }
      finish = answer.finishReason ?? "lost";
    } catch (error) {
      finish = abort.signal.aborted ? "stopped" : "lost";
      if (finish === "lost" && !(error instanceof ServerError)) throw error;
      if (finish === "lost") this.#failures.set(conversation.id, /** @type {ServerError} */ (error));
    }
    if (!isOurs()) return;
    this.#running.delete(conversation.id);
    if (answer.messages.length || finish !== "lost") answer.end(finish);
    takeIn();
    this.#save(conversation);
    this.#afterAnswer(conversation, answerText(answer.messages));
  }

  #afterAnswer(/** @type {Conversation} */ conversation, /** @type {string} */ text) {
    const failure = this.#failures.get(conversation.id);
    if (this.#current === conversation) {
      this.#thread.end(conversation);
      if (failure) this.#thread.fail(failureElement(failure, () => this.#answerAgain()));
    }
    this.#showState();
    announce(failure ? "" : text || "The answer is empty");
  }

  /** The answer's pieces; oldest turns are dropped until the rest fits into the model's context. */
  async *#deltas(
    /** @type {Conversation} */ conversation,
    /** @type {Message[]} */ asked,
    /** @type {AbortSignal} */ signal,
  ) {
    if (!this.#settings.model.id) await this.#loadModels();
    for (;;) {
      const messages = conversations.requestMessages(asked, conversation.dropped);
      try {
        yield* streamAnswer(messages, this.#settings.settings, signal);
        return;
      } catch (error) {
        const isTooLong = error instanceof ServerError && error.kind === "too long";
        if (!isTooLong || conversation.dropped + 1 >= conversations.countTurns(asked)) throw error;
        conversation.dropped += 1;
        if (this.#current === conversation) this.#show(); // with a line where the context begins
      }
    }
  }

  // What is kept

  #isRunning() {
    return this.#running.has(this.#current.id);
  }

  /** The one in memory where it is open. */
  #known(/** @type {string} */ id) {
    const found = id === this.#current.id ? this.#current : this.#store.get(id);
    if (!found) throw new Error(`there is no conversation ${id}`);
    return found;
  }

  #save(/** @type {Conversation} */ conversation) {
    if (conversation.messages.every((message) => message.role === "system")) return;
    conversation.changed = Date.now();
    const hadRoom = this.#hasRoom;
    this.#hasRoom = this.#store.save(conversation);
    if (!this.#hasRoom && hadRoom) {
      notify("The browser has no room left: this conversation lasts only as long as the page. Delete others.", {
        verb: "Export it",
        act: () => exportOne(conversation),
      });
    }
  }

  #rename(/** @type {string} */ id, /** @type {string} */ title) {
    const conversation = this.#known(id);
    if (title !== conversation.title) {
      Object.assign(conversation, { title, isNamed: true });
      this.#store.save(conversation);
    }
    this.#showState();
  }

  #delete(/** @type {string} */ id) {
    const conversation = this.#known(id);
    this.#running.get(id)?.abort();
    this.#running.delete(id);
    this.#store.delete(id);
    if (id === this.#current.id) this.#open("");
    else this.#showState();
    notify(`Deleted: ${conversation.title}`, {
      verb: "Undo",
      act: () => {
        this.#store.save(conversation);
        this.#open(id);
      },
    });
  }

  async #import(/** @type {File[]} */ files) {
    const read = await Promise.all(files.map(importFile));
    const found = read.flatMap(({ conversations }) => conversations);
    for (const conversation of found) this.#save(conversation);
    const problem = read.find(({ problem }) => problem)?.problem;
    const count = found.length === 1 ? "One conversation" : `${found.length} conversations`;
    notify(problem ? `${count} imported. ${problem}` : `${count} imported`);
    if (found.length) this.#open(found[found.length - 1].id);
  }
}

new App().start();
