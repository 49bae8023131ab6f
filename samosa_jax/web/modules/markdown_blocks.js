/**
 * Markdown as models write it: text to blocks, line by line, after GitHub's dialect.
 *
 * More lenient where models are: a table or a list may follow a paragraph without an empty line, and nested
 * lists may be indented by two. Left out: HTML, indented code, link definitions, underlined headings.
 *
 * @typedef {"left" | "center" | "right" | ""} Align
 * @typedef {{type: "paragraph", text: string}
 *   | {type: "heading", level: number, text: string}
 *   | {type: "code", language: string, text: string}
 *   | {type: "rule"}
 *   | {type: "quote", blocks: Placed[]}
 *   | {type: "list", start: number | null, isTight: boolean, items: Placed[][]}
 *   | {type: "table", align: Align[], header: string[], rows: string[][]}} Block
 * @typedef {Block & {line: number}} Placed  `line` is where it begins, counted from 0
 */

const MAX_DEPTH = 8; // deeper quotes and lists are paragraphs
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?: (.*))?$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})(?:[-*+]|(\d{1,9})[.)])( +|$)/;

/** @returns {Placed[]} */
export function parseBlocks(/** @type {string} */ text) {
  return new BlockReader(text.split("\n").map(withoutTabs), 0).blocks();
}

class BlockReader {
  #at = 0;
  /** @type {string[]} */
  #lines;
  #depth;

  constructor(/** @type {string[]} */ lines, /** @type {number} */ depth) {
    this.#lines = lines;
    this.#depth = depth;
  }

  /** @returns {Placed[]} */
  blocks() {
    /** @type {Placed[]} */
    const blocks = [];
    while (this.#at < this.#lines.length) {
      if (isBlank(this.#lines[this.#at])) {
        this.#at += 1;
      } else {
        const line = this.#at;
        blocks.push({ ...this.#block(), line });
      }
    }
    return blocks;
  }

  /** @returns {Block} */
  #block() {
    const line = this.#lines[this.#at];
    const fence = FENCE.exec(line);
    if (fence) return this.#code(fence);
    const heading = HEADING.exec(line);
    if (heading) {
      this.#at += 1;
      const text = (heading[2] ?? "").trim().replace(/(?:^| )#+$/, "");
      return { type: "heading", level: heading[1].length, text: text.trim() };
    }
    if (RULE.test(line)) {
      this.#at += 1;
      return { type: "rule" };
    }
    if (this.#depth < MAX_DEPTH) {
      if (QUOTE.test(line)) return this.#quote();
      const item = ITEM.exec(line);
      if (item) return this.#list(item[2] === undefined ? null : Number(item[2]));
    }
    return this.#table() ?? this.#paragraph();
  }

  /** @returns {Block} */
  #code(/** @type {RegExpExecArray} */ fence) {
    const indent = indentOf(fence[0]);
    const close = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},} *$`);
    const lines = [];
    for (this.#at += 1; this.#at < this.#lines.length; this.#at += 1) {
      if (close.test(this.#lines[this.#at])) {
        this.#at += 1;
        break;
      }
      lines.push(withoutIndent(this.#lines[this.#at], indent));
    }
    return { type: "code", language: fence[2].trim().split(/[\s{,]/)[0], text: lines.join("\n") };
  }

  /** @returns {Block} */
  #quote() {
    const lines = [];
    for (; this.#at < this.#lines.length && QUOTE.test(this.#lines[this.#at]); this.#at += 1) {
      lines.push(this.#lines[this.#at].replace(QUOTE, ""));
    }
    return { type: "quote", blocks: new BlockReader(lines, this.#depth + 1).blocks() };
  }

  /** @returns {Block} */
  #list(/** @type {number | null} */ start) {
    const items = [];
    let isTight = true;
    let item = this.#nextItem(start !== null);
    while (item) {
      const [lines, endsBlank] = this.#itemLines(item);
      const blocks = new BlockReader(lines, this.#depth + 1).blocks();
      item = this.#nextItem(start !== null);
      if (item && endsBlank) isTight = false;
      if (blocks.slice(1).some((block) => isBlank(lines[block.line - 1]))) isTight = false;
      items.push(blocks);
    }
    return { type: "list", start, isTight, items };
  }

  /** The next line where it goes on with a list of this kind. */
  #nextItem(/** @type {boolean} */ isOrdered) {
    const line = this.#lines[this.#at] ?? "";
    const item = RULE.test(line) ? null : ITEM.exec(line);
    return item && (item[2] !== undefined) === isOrdered ? item : null;
  }

  /** The lines of one item, without its indent, and whether empty lines follow it. @returns {[string[], boolean]} */
  #itemLines(/** @type {RegExpExecArray} */ item) {
    const width = item[3].length > 4 ? item[0].length - item[3].length + 1 : item[0].length;
    const lines = [item.input.slice(width)];
    let numBlank = 0;
    for (this.#at += 1; this.#at < this.#lines.length; this.#at += 1) {
      const line = this.#lines[this.#at];
      if (isBlank(line)) {
        numBlank += 1;
        continue;
      }
      const belongs = indentOf(line) >= Math.min(width, 2);
      const isLazy = numBlank === 0 && !this.#beginsBlock(line) && !ITEM.test(line);
      if (!belongs && !isLazy) break;
      for (; numBlank > 0; numBlank -= 1) lines.push("");
      lines.push(withoutIndent(line, width));
    }
    return [lines, numBlank > 0];
  }

  /** @returns {Block | null} */
  #table() {
    const line = this.#lines[this.#at];
    const align = this.#delimiters(this.#at + 1);
    if (!line.includes("|") || !align) return null;
    const header = cells(line);
    if (header.length !== align.length) return null;
    const rows = [];
    for (this.#at += 2; this.#at < this.#lines.length; this.#at += 1) {
      const row = this.#lines[this.#at];
      if (isBlank(row) || this.#beginsBlock(row) || !row.includes("|")) break;
      rows.push(cells(row).slice(0, header.length));
    }
    return { type: "table", align, header, rows };
  }

  /** The alignments in the row under a table's header. @returns {Align[] | null} */
  #delimiters(/** @type {number} */ at) {
    const line = this.#lines[at];
    if (line === undefined || !line.includes("-") || !line.includes("|") || /[^-|: ]/.test(line)) return null;
    const row = cells(line);
    if (!row.every((cell) => /^:?-+:?$/.test(cell))) return null;
    return row.map((cell) => {
      if (cell.endsWith(":")) return cell.startsWith(":") ? "center" : "right";
      return cell.startsWith(":") ? "left" : "";
    });
  }

  /** @returns {Block} */
  #paragraph() {
    const lines = [this.#lines[this.#at].trim()];
    for (this.#at += 1; this.#at < this.#lines.length; this.#at += 1) {
      const line = this.#lines[this.#at];
      if (isBlank(line) || this.#beginsBlock(line) || this.#beginsList(line)) break;
      if (line.includes("|") && this.#delimiters(this.#at + 1)?.length === cells(line).length) break;
      lines.push(line.trimStart());
    }
    return { type: "paragraph", text: lines.join("\n").trimEnd() };
  }

  #beginsBlock(/** @type {string} */ line) {
    return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || this.#isInside(QUOTE, line);
  }

  /** Whether a list begins here, within a paragraph: not by a year that happens to begin a line. */
  #beginsList(/** @type {string} */ line) {
    const item = this.#isInside(ITEM, line) ? ITEM.exec(line) : null;
    return item !== null && item[3] !== "" && (item[2] === undefined || Number(item[2]) === 1);
  }

  #isInside(/** @type {RegExp} */ pattern, /** @type {string} */ line) {
    return this.#depth < MAX_DEPTH && pattern.test(line);
  }
}

function cells(/** @type {string} */ line) {
  const row = line.trim().replace(/^\|/, "");
  const found = [];
  let cell = "";
  for (let at = 0; at < row.length; at += 1) {
    if (row[at] === "\\" && row[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (row[at] === "|") {
      found.push(cell.trim());
      cell = "";
    } else {
      cell += row[at];
    }
  }
  if (cell.trim() || found.length === 0) found.push(cell.trim());
  return found;
}

function isBlank(/** @type {string} */ line) {
  return line.trim() === "";
}

function withoutTabs(/** @type {string} */ line) {
  const text = line.endsWith("\r") ? line.slice(0, -1) : line;
  return text.replace(/^[ \t]*\t[ \t]*/, (indent) => indent.replaceAll("\t", "    "));
}

function indentOf(/** @type {string} */ line) {
  return line.length - line.trimStart().length;
}

function withoutIndent(/** @type {string} */ line, /** @type {number} */ width) {
  return line.slice(Math.min(width, indentOf(line)));
}
