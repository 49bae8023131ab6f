/**
 * Markdown inside one block: text to a tree of spans, after CommonMark's delimiter runs.
 *
 * HTML is text, images are links, and an address that is not http, https or mailto stays text. The work grows
 * linearly with the text, whatever the model writes.
 *
 * @typedef {{type: "text" | "code", text: string}
 *   | {type: "break"}
 *   | {type: "strong" | "emphasis" | "strike", children: Span[]}
 *   | {type: "link", href: string, children: Span[]}} Span
 * @typedef {{char: string, at: number, length: number, count: number, canOpen: boolean, canClose: boolean,
 *   previous: Run | null, opens: Mark[], closes: Mark[]}} Run  what matching leaves of its `count` is text
 * @typedef {"strong" | "emphasis" | "strike"} Mark
 */

const LINK_PROTOCOLS = new Set(["http:", "https:", "mailto:"]);
const MAX_DEPTH = 24; // a browser lays out deeper trees at its peril
const PLAIN = /[^\\`*_~[\]!\nhHmM<]+/y;
// Lengths are bounded so that a text full of beginnings is not read to its end from every one of them.
const AUTOLINK = /(?:https?:\/\/|mailto:)[^\s<>"'`\[\]{}|\\^]{1,2000}/iy;
const BRACED_LINK = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/iy;
const DESTINATION =
  /\( ?(?:<([^<>\n]{0,2000})>|((?:[^\s()\\]|\\.|\([^\s()]{0,500}\)){0,2000}))(?: (?:"[^"\n]{0,500}"|'[^'\n]{0,500}'))? ?\)/y;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const SPACE = /\s/u;
const PUNCTUATION = /[\p{P}\p{S}]/u;

/** The absolute address if a link may lead there, else null. */
export function safeHref(/** @type {string} */ text) {
  let url;
  try {
    url = new URL(text.trim());
  } catch {
    return null; // relative addresses and nonsense are shown as text
  }
  return LINK_PROTOCOLS.has(url.protocol) ? url.href : null;
}

/** @returns {Span[]} */
export function parseInline(/** @type {string} */ text) {
  /** @type {(Span | Run)[]} */
  const spans = [];
  /** @type {number[]} */
  const brackets = []; // where in `spans` they opened
  const hasNoEnd = new Set(); // lengths of runs of backticks that nothing closes
  let position = 0;

  const addText = (/** @type {string} */ part) => {
    const last = spans.at(-1);
    if (last && "type" in last && last.type === "text") last.text += part;
    else spans.push({ type: "text", text: part });
  };
  const match = (/** @type {RegExp} */ pattern) => {
    pattern.lastIndex = position;
    return pattern.exec(text);
  };

  while (position < text.length) {
    const plain = match(PLAIN);
    if (plain) {
      addText(plain[0]);
      position += plain[0].length;
      continue;
    }
    const char = text[position];
    if (char === "\\" && ESCAPABLE.test(text[position + 1] ?? "")) {
      addText(text[position + 1]);
      position += 2;
    } else if (char === "\n") {
      trimEnd(spans);
      spans.push({ type: "break" });
      position += 1;
      while (text[position] === " ") position += 1;
    } else if (char === "`") {
      const run = /** @type {RegExpExecArray} */ (match(/`+/y))[0];
      const end = hasNoEnd.has(run.length) ? -1 : closingBackticks(text, position + run.length, run.length);
      if (end < 0) {
        hasNoEnd.add(run.length);
        addText(run);
        position += run.length;
      } else {
        spans.push({ type: "code", text: codeText(text.slice(position + run.length, end)) });
        position = end + run.length;
      }
    } else if (char === "*" || char === "_" || char === "~") {
      const run = delimiterRun(text, position);
      spans.push(run);
      position += run.count;
    } else if (char === "[" || (char === "!" && text[position + 1] === "[")) {
      brackets.push(spans.length);
      spans.push({ type: "text", text: char === "!" ? "![" : "[" });
      spans.push({ type: "text", text: "" }); // what follows must not grow the bracket itself
      position += char === "!" ? 2 : 1;
    } else if (char === "]") {
      const opener = brackets.pop();
      position += 1;
      const destination = opener !== undefined && text[position] === "(" ? match(DESTINATION) : null;
      const href = destination && safeHref((destination[1] ?? destination[2]).replace(/\\(.)/g, "$1"));
      if (opener === undefined || !destination || !href) {
        addText("]");
        continue;
      }
      const children = matchRuns(spans.splice(opener).slice(1));
      spans.push({ type: "link", href, children });
      brackets.length = 0; // links do not nest
      position += destination[0].length;
    } else if (char === "<") {
      const link = match(BRACED_LINK);
      const href = link && safeHref(link[1]);
      if (href) spans.push({ type: "link", href, children: [{ type: "text", text: link[1] }] });
      else addText(char);
      position += href ? link[0].length : 1;
    } else {
      const link = isWordStart(text, position) ? match(AUTOLINK) : null;
      const address = link ? withoutTrailingPunctuation(link[0]) : "";
      const href = address && safeHref(address);
      if (href) {
        spans.push({ type: "link", href, children: [{ type: "text", text: address }] });
        position += address.length;
      } else {
        addText(char);
        position += 1;
      }
    }
  }
  return matchRuns(spans);
}

/** @returns {Run} */
function delimiterRun(/** @type {string} */ text, /** @type {number} */ start) {
  const char = text[start];
  let end = start;
  while (text[end] === char) end += 1;
  const before = text[start - 1] ?? " ";
  const after = text[end] ?? " ";
  const leftFlanking = !SPACE.test(after) && (!PUNCTUATION.test(after) || isBoundary(before));
  const rightFlanking = !SPACE.test(before) && (!PUNCTUATION.test(before) || isBoundary(after));
  const length = end - start;
  let canOpen = leftFlanking;
  let canClose = rightFlanking;
  if (char === "_") {
    canOpen = leftFlanking && (!rightFlanking || PUNCTUATION.test(before));
    canClose = rightFlanking && (!leftFlanking || PUNCTUATION.test(after));
  }
  if (char === "~" && length !== 2) canOpen = canClose = false;
  return { char, at: start, length, count: length, canOpen, canClose, previous: null, opens: [], closes: [] };
}

/** Turns matched runs into nested spans; the rest of them is text. @returns {Span[]} */
function matchRuns(/** @type {(Span | Run)[]} */ items) {
  let last = /** @type {Run | null} */ (null); // the open runs, linked backwards
  /** @type {Map<string, number>} */
  const bottoms = new Map(); // up to here there is no opener for such a closer: keeps it linear
  for (const item of items) {
    if ("type" in item) continue;
    if (item.canClose) {
      const key = `${item.char}${item.canOpen}${item.length % 3}`;
      /** @type {Run | null} */
      let opener = last;
      while (item.count > 0 && opener && opener.at > (bottoms.get(key) ?? -1)) {
        if (!matches(opener, item)) {
          opener = opener.previous;
          continue;
        }
        const width = opener.count >= 2 && item.count >= 2 ? 2 : 1;
        const mark = item.char === "~" ? "strike" : width === 2 ? "strong" : "emphasis";
        opener.opens.push(mark);
        item.closes.push(mark);
        opener.count -= width;
        item.count -= width;
        if (opener.count === 0) opener = opener.previous;
        last = opener;
      }
      if (item.count > 0) bottoms.set(key, last?.at ?? -1);
    }
    if (item.canOpen && item.count > 0) {
      item.previous = last;
      last = item;
    }
  }
  return nest(items);
}

function matches(/** @type {Run} */ opener, /** @type {Run} */ closer) {
  if (opener.char !== closer.char) return false;
  const ambiguous = opener.canClose || closer.canOpen;
  return !(ambiguous && (opener.length + closer.length) % 3 === 0 && opener.length % 3 !== 0);
}

/** @returns {Span[]} */
function nest(/** @type {(Span | Run)[]} */ items) {
  /** @type {Span[]} */
  const root = [];
  const stack = [root];
  let tooDeep = 0;
  const addText = (/** @type {string} */ text) => {
    const siblings = stack[stack.length - 1];
    const last = siblings.at(-1);
    if (last?.type === "text") last.text += text;
    else if (text) siblings.push({ type: "text", text });
  };
  for (const item of items) {
    if ("type" in item) {
      if (item.type === "text") addText(item.text);
      else stack[stack.length - 1].push(item);
      continue;
    }
    for (let n = item.closes.length; n > 0; n -= 1) {
      if (tooDeep > 0) tooDeep -= 1;
      else stack.pop();
    }
    addText(item.char.repeat(item.count));
    for (const type of item.opens.reverse()) {
      if (stack.length > MAX_DEPTH) {
        tooDeep += 1;
        continue;
      }
      /** @type {Span} */
      const span = { type, children: [] };
      stack[stack.length - 1].push(span);
      stack.push(span.children);
    }
  }
  return root;
}

function closingBackticks(/** @type {string} */ text, /** @type {number} */ from, /** @type {number} */ length) {
  for (let start = text.indexOf("`", from); start >= 0; ) {
    let end = start;
    while (text[end] === "`") end += 1;
    if (end - start === length) return start;
    start = text.indexOf("`", end);
  }
  return -1;
}

function codeText(/** @type {string} */ text) {
  const line = text.replaceAll("\n", " ");
  return line.startsWith(" ") && line.endsWith(" ") && line.trim() ? line.slice(1, -1) : line;
}

function trimEnd(/** @type {(Span | Run)[]} */ spans) {
  const last = spans.at(-1);
  if (last && "type" in last && last.type === "text") last.text = last.text.replace(/\\$/, "").trimEnd();
}

function isBoundary(/** @type {string} */ char) {
  return SPACE.test(char) || PUNCTUATION.test(char);
}

function isWordStart(/** @type {string} */ text, /** @type {number} */ position) {
  return position === 0 || !/[\p{L}\p{N}]/u.test(text[position - 1]);
}

/** A sentence's full stop is not part of the address, nor is a closing bracket that it did not open. */
function withoutTrailingPunctuation(/** @type {string} */ address) {
  let surplus = address.split(")").length - address.split("(").length;
  let end = address.length;
  for (; end > 0 && ".,:;!?)*_~".includes(address[end - 1]); end -= 1) {
    if (address[end - 1] === ")" && surplus-- <= 0) break;
  }
  return address.slice(0, end);
}
