"""The merges of a BPE vocabulary that is only given as tokens with ranks: sentencepiece's and tiktoken's.

Both join, again and again, the leftmost pair of neighbours whose joint token has the lowest rank. The
tokenizers library wants the pairs themselves, each with a rank of its own. One pair per token is all there
is: what happens inside a stretch of text until it is one token depends on that stretch alone, because a
neighbour that took part would have ended up in the same token. So every token is always made of the same two
parts, which joining its own text shows, and a token that this does not make is never made at all.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise


def find_merges(tokens: Iterable[str], ranks: Mapping[str, int]) -> list[tuple[str, str]]:
    """The two parts of every token that merging can make, by rank.

    Args:
        tokens: what may be made, any order.
        ranks: of all tokens that may arise on the way; no two may be equal.
    """
    pairs = (_last_pair(token, ranks) for token in sorted(tokens, key=ranks.__getitem__))
    return [pair for pair in pairs if pair is not None]


def _last_pair(token: str, ranks: Mapping[str, int]) -> tuple[str, str] | None:
    parts = list(token)
    while len(parts) > 1:
        joined = [left + right for left, right in pairwise(parts)]
        known = [(ranks[text], place) for place, text in enumerate(joined) if text in ranks]
        if not known:
            return None
        _, place = min(known)
        if len(parts) == 2:
            return parts[0], parts[1]
        parts = [*parts[:place], joined[place], *parts[place + 2 :]]
    return None
