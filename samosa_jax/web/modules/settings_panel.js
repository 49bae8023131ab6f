/** What the person may choose: model, sampling, system message, key and colours. */

import { byId, element, icon, iconButton } from "./elements.js";
import { setKey } from "./server.js";
import { remember } from "./store.js";

/**
 * @typedef {import("./server.js").Model} Model
 * @typedef {import("./server.js").Settings} Settings
 * @typedef {Partial<Settings>} Chosen  what differs from the model's defaults
 */

const CHOSEN_NAME = "samosa.settings";
const THEME_NAME = "samosa.theme";
const THEMES = /** @type {const} */ ([
  ["system", "screen", "As the system"],
  ["light", "sun", "Light"],
  ["dark", "moon", "Dark"],
]);
const UNKNOWN_MODEL = { id: "", contextLength: null, tools: [], defaults: { temperature: 0.8, topK: 50, maxTokens: 512 } };

export class SettingsPanel {
  #dialog = /** @type {HTMLDialogElement} */ (byId("settings"));
  #model = /** @type {HTMLSelectElement} */ (byId("model"));
  #system = /** @type {HTMLTextAreaElement} */ (byId("system"));
  #temperature = input("temperature");
  #topK = input("top-k");
  #maxTokens = input("max-tokens");
  /** @type {Model[]} */
  #models = [];
  /** @type {Chosen} */
  #chosen = readChosen();
  #onSystem;

  /** @param {{onModel: () => void, onSystem: (text: string) => void, onKey: () => void}} actions */
  constructor({ onModel, onSystem, onKey }) {
    this.#onSystem = onSystem;
    byId("settings-open").append(iconButton("settings", "Settings", () => this.#dialog.showModal()));
    byId("settings-close").append(iconButton("close", "Close the settings", () => this.#dialog.close()));
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close(); // beside its content
    });
    this.#model.addEventListener("change", () => {
      this.#choose({ model: this.#model.value });
      onModel();
    });
    this.#temperature.addEventListener("input", () => this.#choose({ temperature: this.#temperature.valueAsNumber }));
    this.#topK.addEventListener("change", () => this.#choose({ topK: whole(this.#topK) }));
    this.#maxTokens.addEventListener("change", () => this.#choose({ maxTokens: whole(this.#maxTokens) }));
    this.#system.addEventListener("change", () => this.#onSystem(this.#system.value));
    const key = input("key");
    key.addEventListener("change", () => {
      setKey(key.value.trim());
      onKey();
    });
    byId("defaults").addEventListener("click", () => this.#choose(null));
    makeThemes();
    this.#show();
  }

  /** The chosen model, or one without a name before the server has said which there are. */
  get model() {
    return this.#models.find((model) => model.id === this.#chosen.model) ?? this.#models[0] ?? UNKNOWN_MODEL;
  }

  /** @returns {Settings} */
  get settings() {
    const { id, contextLength, defaults } = this.model;
    const settings = { ...defaults, ...this.#chosen, model: id };
    return { ...settings, maxTokens: Math.min(settings.maxTokens, contextLength ?? Infinity) };
  }

  set models(/** @type {Model[]} */ models) {
    this.#models = models;
    this.#model.replaceChildren(...models.map(({ id }) => element("option", { value: id }, id)));
    byId("model-field").hidden = models.length < 2;
    this.#show();
  }

  set system(/** @type {string} */ text) {
    this.#system.value = text;
  }

  /** Null takes every choice back but the model's. */
  #choose(/** @type {Chosen | null} */ change) {
    this.#chosen = change ? { ...this.#chosen, ...change } : { model: this.#chosen.model };
    for (const [name, value] of Object.entries(this.#chosen)) {
      if (Number.isNaN(value)) delete this.#chosen[/** @type {keyof Chosen} */ (name)];
    }
    remember(CHOSEN_NAME, JSON.stringify(this.#chosen));
    this.#show();
  }

  #show() {
    const { temperature, topK, maxTokens } = this.settings;
    const { contextLength } = this.model;
    this.#model.value = this.model.id;
    this.#temperature.value = String(temperature);
    byId("temperature-shown").textContent = temperature.toFixed(2);
    this.#topK.value = String(topK);
    this.#maxTokens.value = String(maxTokens);
    this.#maxTokens.max = contextLength ? String(contextLength) : "";
    byId("max-tokens-about").textContent = contextLength
      ? `The model's context holds ${contextLength} tokens, questions and answers together`
      : "";
  }
}

function input(/** @type {string} */ id) {
  return /** @type {HTMLInputElement} */ (byId(id));
}

/** The number in the box within its limits; NaN where there is none. */
function whole(/** @type {HTMLInputElement} */ box) {
  const high = box.max === "" ? Infinity : Number(box.max);
  return Math.min(high, Math.max(Number(box.min), Math.round(box.valueAsNumber)));
}

/** @returns {Chosen} */
function readChosen() {
  try {
    const value = JSON.parse(localStorage.getItem(CHOSEN_NAME) ?? "{}");
    return value !== null && typeof value === "object" ? value : {};
  } catch {
    return {}; // damaged: the model's defaults
  }
}

function makeThemes() {
  const root = document.documentElement;
  const options = THEMES.map(([name, iconName, label]) => {
    const radio = element("input", { type: "radio", name: "theme", value: name, "aria-label": label });
    radio.checked = name === (root.dataset.theme ?? "system");
    radio.addEventListener("change", () => {
      if (name === "system") delete root.dataset.theme;
      else root.dataset.theme = name;
      remember(THEME_NAME, name);
    });
    return element("label", { title: label }, radio, icon(iconName));
  });
  byId("theme").append(...options);
}
