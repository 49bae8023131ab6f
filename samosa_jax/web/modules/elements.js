/**
 * Elements without markup: every text becomes a text node, so nothing that a model writes can become a script.
 *
 * @typedef {Node | string | null | undefined | false} Child
 */

const SVG = "http://www.w3.org/2000/svg";

// Strokes on a grid of 24, drawn by style.css with the colour of the text around them.
const ICON_PATHS = {
  alert: "M12 8v5 M12 16.5v.01 M12 3.5 21 19.5H3Z",
  brain: "M9.5 18h5 M10.5 21h3 M12 3a6.5 6.5 0 0 0-3.7 11.8c.8.6 1.2 1.2 1.2 2.2h5c0-1 .4-1.6 1.2-2.2A6.5 6.5 0 0 0 12 3Z",
  calculator: "M6 3h12v18H6Z M9 7h6 M9 12h.01 M12 12h.01 M15 12h.01 M9 16h.01 M12 16h.01 M15 16h.01",
  check: "m5 12.5 4.5 4.5L19 7.5",
  chevron: "m9 6 6 6-6 6",
  close: "m6 6 12 12 M18 6 6 18",
  copy: "M9 9h11v11H9Z M5 15H4V4h11v1",
  dots: "M5 12h.01 M12 12h.01 M19 12h.01",
  down: "M12 5v14 m-6-6 6 6 6-6",
  download: "M12 4v11 m-5-5 5 5 5-5 M4 20h16",
  edit: "M4 20h4L19 9l-4-4L4 16Z M13 7l4 4",
  globe: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Z M3 12h18 M12 3c3 3 3 15 0 18 M12 3c-3 3-3 15 0 18",
  menu: "M4 6h16 M4 12h16 M4 18h16",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5Z",
  plus: "M12 5v14 M5 12h14",
  refresh: "M20 11a8 8 0 1 0-.7 4.5 M20 5v6h-6",
  screen: "M3 5h18v11H3Z M9 20h6 M12 16v4",
  send: "M12 19V5 m-6 6 6-6 6 6",
  settings: "M4 7h9 M17 7h3 M4 17h3 M11 17h9 M15 4.7a2.3 2.3 0 1 0 0 4.6 2.3 2.3 0 0 0 0-4.6Z M9 14.7a2.3 2.3 0 1 0 0 4.6 2.3 2.3 0 0 0 0-4.6Z",
  stop: "M7 7h10v10H7Z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8Z M12 2.5v2 M12 19.5v2 M2.5 12h2 M19.5 12h2 M5.3 5.3l1.4 1.4 M17.3 17.3l1.4 1.4 M5.3 18.7l1.4-1.4 M17.3 6.7l1.4-1.4",
  terminal: "M3 5h18v14H3Z M7 10l3 2.5L7 15 M13 15h4",
  tool: "M14.5 6.5a4 4 0 0 1 5-1l-2.6 2.6 1.9 1.9L21.4 7.4a4 4 0 0 1-5.4 5L8.5 20 4 15.5l7.5-7.5a4 4 0 0 1 3-1.5Z",
  trash: "M5 7h14 M10 7V4h4v3 M7 7l1 13h8l1-13",
  upload: "M12 15V4 m-5 5 5-5 5 5 M4 20h16",
};

/**
 * One element. Attributes that are null, undefined or false are left out and true ones are empty; `onclick` and
 * its like are listeners.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(.../** @type {(Node | string)[]} */ (children.filter(Boolean)));
  return node;
}

/** @param {keyof typeof ICON_PATHS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICON_PATHS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button of an icon alone; its label is spoken and shown as a hint.
 *
 * @param {keyof typeof ICON_PATHS} name
 * @param {string} label
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, any>} [attributes]
 */
export function iconButton(name, label, onclick, attributes = {}) {
  return element(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes },
    icon(name),
  );
}

/** A button that puts text on the clipboard and says so by its icon. */
export function copyButton(/** @type {string} */ label, /** @type {() => string} */ text) {
  const button = iconButton("copy", label, async () => {
    const isCopied = await copy(text());
    button.replaceChildren(icon(isCopied ? "check" : "alert"));
    button.setAttribute("aria-label", isCopied ? "Copied" : "The browser did not allow to copy");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", label);
    }, 1500);
  });
  return button;
}

/** Pages without TLS have no clipboard but the selection's. */
async function copy(/** @type {string} */ text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not allowed to this page: the selection may still be
    }
  }
  const area = element("textarea", { class: "visually-hidden", readonly: true });
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  return isCopied;
}

/** The element with this id, of this kind; the page is broken without it. */
export function byId(/** @type {string} */ id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}
