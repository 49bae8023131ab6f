/** Markdown on the page, growing as it streams: what is settled stays, only the last block is made again. */

import { copyButton, element } from "./elements.js";
import { parseBlocks } from "./markdown_blocks.js";
import { parseInline } from "./markdown_inline.js";

/**
 * @typedef {import("./markdown_blocks.js").Placed} Placed
 * @typedef {import("./markdown_inline.js").Span} Span
 */

const MARKS = /** @type {const} */ ({ strong: "strong", emphasis: "em", strike: "s" });
const HEADINGS = /** @type {const} */ (["h3", "h4", "h5", "h6", "h6", "h6"]); // h1 and h2 are the page's

export class MarkdownView {
  element = element("div", { class: "markdown" });
  #text = "";
  #settled = 0; // characters of blocks that more text cannot change
  /** @type {{source: string, node: HTMLElement}[]} */
  #live = [];

  /** Shows the text; cheap where it is the last text and more. */
  update(/** @type {string} */ text) {
    if (text === this.#text) return;
    if (!text.startsWith(this.#text)) {
      this.element.replaceChildren();
      this.#settled = 0;
      this.#live = [];
    }
    this.#text = text;
    const lines = text.slice(this.#settled).split("\n");
    const blocks = parseBlocks(lines.join("\n"));
    const ends = [...blocks.slice(1).map((block) => block.line), lines.length];
    blocks.forEach((block, index) => {
      const source = lines.slice(block.line, ends[index]).join("\n");
      this.#show(index, block, source);
    });
    for (const dropped of this.#live.splice(blocks.length)) dropped.node.remove();

    // A block's end is certain once the next one stands on a line that is complete, and the line after it too:
    // a table shows only by its second line.
    let numSettled = 0;
    while (numSettled + 1 < blocks.length && blocks[numSettled + 1].line < lines.length - 2) numSettled += 1;
    if (numSettled > 0) {
      const line = blocks[numSettled].line;
      this.#settled += lines.slice(0, line).reduce((length, one) => length + one.length + 1, 0);
      this.#live.splice(0, numSettled);
    }
  }

  #show(/** @type {number} */ index, /** @type {Placed} */ block, /** @type {string} */ source) {
    const shown = this.#live[index];
    if (shown?.source === source) return;
    if (shown && block.type === "code" && extendCode(shown.node, block)) {
      shown.source = source;
      return;
    }
    const node = blockElement(block);
    if (shown) shown.node.replaceWith(node);
    else this.element.append(node);
    this.#live[index] = { source, node };
  }
}

/** @returns {HTMLElement} */
function blockElement(/** @type {Placed} */ block) {
  switch (block.type) {
    case "paragraph":
      return element("p", {}, ...inline(block.text));
    case "heading":
      return element(HEADINGS[block.level - 1], {}, ...inline(block.text));
    case "rule":
      return element("hr");
    case "quote":
      return element("blockquote", {}, ...block.blocks.map(blockElement));
    case "code":
      return codeElement(block);
    case "table":
      return tableElement(block);
    case "list": {
      const start = block.start === null || block.start === 1 ? null : block.start;
      const items = block.items.map((blocks) => element("li", {}, ...itemContent(blocks, block.isTight)));
      return element(block.start === null ? "ul" : "ol", { start }, ...items);
    }
  }
}

/** @returns {Node[]} */
function itemContent(/** @type {Placed[]} */ blocks, /** @type {boolean} */ isTight) {
  return blocks.flatMap((block) =>
    isTight && block.type === "paragraph" ? inline(block.text) : [blockElement(block)],
  );
}

function codeElement(/** @type {Extract<Placed, {type: "code"}>} */ block) {
  const code = element("code", {}, document.createTextNode(block.text));
  const name = block.language || "code";
  return element(
    "figure",
    { class: "code", "data-language": name },
    element("figcaption", {}, name, copyButton("Copy this code", () => code.textContent ?? "")),
    element("pre", { tabindex: 0, role: "group", "aria-label": `Code: ${name}` }, code),
  );
}

/** Appends to a code block instead of making it again, so that a selection in it survives. */
function extendCode(/** @type {HTMLElement} */ figure, /** @type {Extract<Placed, {type: "code"}>} */ block) {
  const text = figure.querySelector("code")?.firstChild;
  if (figure.dataset.language !== (block.language || "code") || !(text instanceof Text)) return false;
  if (!block.text.startsWith(text.data)) return false;
  text.appendData(block.text.slice(text.data.length));
  return true;
}

function tableElement(/** @type {Extract<Placed, {type: "table"}>} */ block) {
  /** @type {(tag: "th" | "td") => (text: string, column: number) => HTMLElement} */
  const cell = (tag) => (text, column) =>
    element(
      tag,
      { "data-align": block.align[column] || null, scope: tag === "th" ? "col" : null },
      ...inline(text),
    );
  const rows = block.rows.map((row) => element("tr", {}, ...row.map(cell("td"))));
  const table = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...block.header.map(cell("th")))),
    element("tbody", {}, ...rows),
  );
  return element("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Table" }, table);
}

/** @returns {Node[]} */
function inline(/** @type {string} */ text) {
  return parseInline(text).map(spanNode);
}

/** @returns {Node} */
function spanNode(/** @type {Span} */ span) {
  switch (span.type) {
    case "text":
      return document.createTextNode(span.text);
    case "code":
      return element("code", {}, span.text);
    case "break":
      return element("br");
    case "link":
      return element(
        "a",
        { href: span.href, target: "_blank", rel: "noopener noreferrer nofollow" },
        ...span.children.map(spanNode),
      );
    default:
      return element(MARKS[span.type], {}, ...span.children.map(spanNode));
  }
}
