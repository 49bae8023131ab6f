/**
 * A conversation as the browser keeps it, and its canonical JSON: OpenAI's messages, which training reads too.
 *
 * @typedef {{name: string, arguments: string}} ToolCall  the arguments as JSON text
 * @typedef {{finish: string, tokens: number | null, context: number | null, seconds: number | null}} Ending
 *   `finish` is stop or length, as the server says, stopped by the person, or lost; `context` are the tokens of
 *   the conversation so far
 * @typedef {{role: "system" | "user", content: string}
 *   | {role: "assistant", content: string, think: string, thinkSeconds?: number, call: ToolCall | null,
 *     ending?: Ending}
 *   | {role: "tool", content: string, isError?: boolean, seconds?: number}} Message
 * @typedef {{id: string, title: string, isNamed: boolean, changed: number, dropped: number,
 *   messages: Message[]}} Conversation
 *   `changed` is a time in milliseconds; `dropped` are turns that the context no longer holds
 */

/** What stands for a tool's result where the answer was stopped before there was one. */
export const STOPPED_CALL = "The answer was stopped before the tool returned.";

const MAX_TITLE = 60;
const THINK_MARKS = /<\/?think>/g;
const WITH_THOUGHT = /^\s*<think>([\s\S]*?)<\/think>([\s\S]*)$/;

/** @returns {Conversation} */
export function newConversation(/** @type {Partial<Conversation>} */ values = {}) {
  return {
    id: Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join(""),
    title: "New chat",
    isNamed: false,
    changed: Date.now(),
    dropped: 0,
    messages: [],
    ...values,
  };
}

/** The text of the system message, or "". */
export function systemText(/** @type {Conversation} */ conversation) {
  const first = conversation.messages[0];
  return first?.role === "system" ? first.content : "";
}

export function setSystemText(/** @type {Conversation} */ conversation, /** @type {string} */ text) {
  if (conversation.messages[0]?.role === "system") conversation.messages.shift();
  if (text.trim()) conversation.messages.unshift({ role: "system", content: text.trim() });
}

/** The beginning of what the person said first. */
export function titleOf(/** @type {Message[]} */ messages) {
  const text = messages.find((message) => message.role === "user")?.content ?? "";
  const line = text.trim().split("\n", 1)[0].replace(/\s+/g, " ");
  if (line.length <= MAX_TITLE) return line || "New chat";
  return `${line.slice(0, MAX_TITLE).replace(/\s+\S*$/, "")}…`;
}

/** How many turns of the person there are. */
export function countTurns(/** @type {Message[]} */ messages) {
  return messages.filter((message) => message.role === "user").length;
}

/**
 * What was really said, with none of the oldest `dropped` turns: an answer that says nothing is left out, what the
 * person said around it becomes one message, and a call that no tool answered gets a result that says so.
 *
 * @param {Message[]} messages
 * @param {number} dropped
 * @returns {Message[]}
 */
function spoken(messages, dropped) {
  /** @type {Message[]} */
  const said = [];
  let turn = 0;
  messages.forEach((message, index) => {
    if (message.role === "user") turn += 1;
    if (message.role !== "system" && turn <= dropped) return;
    const last = said.at(-1);
    if (message.role === "user" && last?.role === "user") {
      said[said.length - 1] = { ...last, content: `${last.content}\n\n${message.content}` };
    } else if (message.role === "assistant") {
      const content = message.content.replace(THINK_MARKS, "");
      const think = message.think.replace(THINK_MARKS, "").trim();
      if (!content.trim() && !think && !message.call) return;
      said.push({ role: "assistant", content, think, call: message.call });
      const isAnswered = messages[index + 1]?.role === "tool";
      if (message.call && !isAnswered) said.push({ role: "tool", content: STOPPED_CALL, isError: true });
    } else {
      said.push(message);
    }
  });
  return said;
}

/** What is sent, in OpenAI's form, without the oldest `dropped` turns. */
export function requestMessages(/** @type {Message[]} */ messages, /** @type {number} */ dropped) {
  let call = 0;
  return spoken(messages, dropped).map((message) => {
    const { role, content } = message;
    if (role === "tool") return { role, content, tool_call_id: `call_${call}` };
    if (role !== "assistant") return { role, content };
    const thought = message.think ? { reasoning_content: message.think } : {};
    if (!message.call) return { role, content, ...thought };
    call += 1;
    return { role, content, ...thought, tool_calls: [toolCall(message.call, `call_${call}`)] };
  });
}

/** @param {ToolCall} call @param {string} id */
function toolCall(call, id) {
  const text = JSON.stringify(parsedArguments(call));
  return { id, type: "function", function: { name: call.name, arguments: text } };
}

/** The arguments as a JSON object; what is none becomes the object's one text. @param {ToolCall} call */
export function parsedArguments(call) {
  try {
    const value = JSON.parse(call.arguments);
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return value;
  } catch {
    // a model writes what it likes: below it is kept as text
  }
  return { text: call.arguments };
}

/** The canonical JSON of a conversation, and its title. */
export function toCanonical(/** @type {Conversation} */ conversation) {
  const messages = spoken(conversation.messages, 0).map((message) => {
    if (message.role !== "assistant") return { role: message.role, content: message.content };
    const { role, think, call } = message;
    const content = think ? `<think>\n${think}\n</think>\n\n${message.content}`.trimEnd() : message.content;
    if (!call) return { role, content };
    const named = { name: call.name, arguments: parsedArguments(call) };
    return { role, content, tool_calls: [{ type: "function", function: named }] };
  });
  return { title: conversation.title, messages };
}

/**
 * A conversation out of canonical JSON, or OpenAI's variants of it. Throws Error with a line for the person.
 *
 * @param {any} value
 * @returns {Conversation}
 */
export function fromCanonical(value) {
  if (!Array.isArray(value?.messages)) throw new Error('expected an object with a list "messages"');
  /** @type {Message[]} */
  const messages = value.messages.flatMap(readMessage);
  if (countTurns(messages) === 0) throw new Error("no message is the user's");
  const isNamed = typeof value.title === "string" && value.title.trim() !== "";
  return newConversation({ title: isNamed ? value.title.trim() : titleOf(messages), isNamed, messages });
}

/** @param {any} raw @param {number} index @returns {Message[]} */
function readMessage(raw, index) {
  const role = raw?.role === "developer" ? "system" : raw?.role;
  const content = contentText(raw?.content);
  if (content === null) throw new Error(`message ${index} has no text`);
  if (role === "system" && index > 0) throw new Error("only the first message may be a system message");
  if (role === "system" || role === "user" || role === "tool") return [{ role, content }];
  if (role !== "assistant") throw new Error(`message ${index} has the role ${JSON.stringify(role)}`);
  const thought = WITH_THOUGHT.exec(content);
  const think = String(raw.reasoning_content ?? thought?.[1] ?? "").trim();
  const text = raw.reasoning_content || !thought ? content : thought[2].trim();
  const calls = Array.isArray(raw.tool_calls) ? raw.tool_calls.map(readCall) : [];
  if (calls.length > 1) throw new Error(`message ${index} calls several tools; one call a message is read`);
  const ending = { finish: "stop", tokens: null, context: null, seconds: null };
  return [{ role: "assistant", content: text, think, call: calls[0] ?? null, ending }];
}

/** @param {any} raw @returns {ToolCall} */
function readCall(raw) {
  const call = raw?.function;
  if (typeof call?.name !== "string") throw new Error("a tool call has no name");
  const text = typeof call.arguments === "string" ? call.arguments : JSON.stringify(call.arguments ?? {});
  return { name: call.name, arguments: text };
}

/** @param {unknown} content */
function contentText(content) {
  if (content === null || content === undefined) return "";
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return null;
  const isText = content.every((part) => part?.type === "text" && typeof part.text === "string");
  return isText ? content.map((part) => part.text).join("") : null;
}
