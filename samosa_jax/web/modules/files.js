/** Conversations as files: canonical JSON for one, a line of it each for many. */

import { fromCanonical, toCanonical } from "./conversation.js";
import { element } from "./elements.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */

export function exportOne(/** @type {Conversation} */ conversation) {
  const name = conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  download(`${name || "conversation"}.json`, `${JSON.stringify(toCanonical(conversation), null, 2)}\n`);
}

export function exportAll(/** @type {Conversation[]} */ conversations) {
  const lines = conversations.map((conversation) => `${JSON.stringify(toCanonical(conversation))}\n`);
  download("conversations.jsonl", lines.join(""));
}

/**
 * The conversations in a file, and a line about the first that is none.
 *
 * @param {File} file
 * @returns {Promise<{conversations: Conversation[], problem: string | null}>}
 */
export async function importFile(file) {
  /** @type {Conversation[]} */
  const conversations = [];
  let problem = null;
  const text = await file.text();
  const rows = wholeFile(text) ?? text.split("\n").map((line) => line.trim()).filter(Boolean);
  rows.forEach((row, index) => {
    try {
      conversations.push(fromCanonical(typeof row === "string" ? JSON.parse(row) : row));
    } catch (error) {
      problem ??= `${file.name}, conversation ${index + 1}: ${error instanceof Error ? error.message : error}`;
    }
  });
  return { conversations, problem };
}

/** @returns {any[] | null} */
function wholeFile(/** @type {string} */ text) {
  try {
    const value = JSON.parse(text);
    return Array.isArray(value) ? value : [value];
  } catch {
    return null; // a line for each, or no JSON at all, which is found line by line
  }
}

function download(/** @type {string} */ name, /** @type {string} */ text) {
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}
