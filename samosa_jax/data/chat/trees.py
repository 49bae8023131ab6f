"""OpenAssistant's message trees (https://arxiv.org/abs/2304.07327) as conversations.

They are published as trees, one per row, and as single messages that name their parent; `grow_trees` makes
the former of the latter.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from samosa_jax.data.chat.adapters import RawMessage, Row
from samosa_jax.data.chat.conversation import Conversation, ConversationError, parse_conversation
from samosa_jax.data.readers import UnreadableRow

_ROLES = {"prompter": "user", "assistant": "assistant"}


def best_path(row: Row) -> Conversation:
    """{"prompt": {"text", "role": "prompter" | "assistant", "rank"?, "replies": [...]}}: from the root along
    the reply of the lowest rank (ranked before unranked, then in order) to the last answer."""
    path: list[RawMessage] = []
    node: Any = row["prompt"]
    while node is not None:
        path.append(_message(node))
        node = min(_replies(node), key=_rank, default=None)
    return _conversation(path)


def every_path(row: Row) -> Iterator[Conversation]:
    """Every way from the root to a last answer, depth first; schema as `best_path`."""
    found = False
    stack: list[tuple[Any, list[RawMessage]]] = [(row["prompt"], [])]
    while stack:
        node, before = stack.pop()
        path = [*before, _message(node)]
        replies = _replies(node)
        # An answer nobody answers back to is where a conversation ends, whatever users went on to ask.
        if path[-1]["role"] == "assistant" and not any(map(_replies, replies)):
            found = True
            yield _conversation(path)
        else:
            stack += ((reply, path) for reply in reversed(replies))
    if not found:
        raise ConversationError("no message is the assistant's", reason="no assistant turn")


def grow_trees(rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Row | UnreadableRow]]:
    """(row number, {"message_id", "parent_id", "role", "text", "rank"?, "deleted"?}) of a whole file -> (row
    number of the root, tree). A deleted message takes its replies along."""
    nodes: dict[str, tuple[int, dict[str, Any]]] = {}
    deleted: set[str] = set()
    for number, row in rows:
        if isinstance(row, UnreadableRow):
            yield number, row
        elif not isinstance(row, Mapping) or not isinstance(row.get("message_id"), str):
            yield number, UnreadableRow('expected a message with "message_id" and "parent_id"')
        elif row.get("deleted"):
            deleted.add(row["message_id"])
        else:
            nodes[row["message_id"]] = (number, {**row, "replies": []})
    roots: list[tuple[int, Row]] = []
    for number, node in nodes.values():
        parent = node.get("parent_id")
        if parent is None:
            roots.append((number, {"prompt": node}))
        elif parent in nodes:
            nodes[parent][1]["replies"].append(node)
        elif parent not in deleted:
            yield number, UnreadableRow(f"its parent {parent} is not in the file")
    yield from roots


def _conversation(path: list[RawMessage]) -> Conversation:
    if path[-1]["role"] == "user":
        path = path[:-1]
    return parse_conversation({"messages": path})


def _message(node: Any) -> RawMessage:
    if not isinstance(node, Mapping) or not isinstance(node.get("text"), str):
        raise ConversationError("a message of the tree has no text")
    role = _ROLES.get(str(node.get("role")))
    if role is None:
        raise ConversationError(
            f"a message of the tree has the role {node.get('role')!r}; expected prompter or assistant",
            reason="unknown role",
        )
    return {"role": role, "content": node["text"]}


def _replies(node: Any) -> list[Any]:
    replies = node.get("replies") or [] if isinstance(node, Mapping) else []
    return [reply for reply in replies if not (isinstance(reply, Mapping) and reply.get("deleted"))]


def _rank(node: Any) -> float:
    rank = node.get("rank") if isinstance(node, Mapping) else None
    return rank if isinstance(rank, int | float) else float("inf")
