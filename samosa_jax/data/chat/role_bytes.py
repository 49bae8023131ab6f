"""A token's role and whether it begins a turn, in the one byte that shards keep of it."""

from typing import NamedTuple

import numpy as np

from samosa_jax.data.chat.template import Rendered, Role

BEGINS_TURN = 0x80
SPOKEN = (Role.ASSISTANT, Role.THINK, Role.TOOL_CALL)  # what the assistant itself writes


class Roles(NamedTuple):
    """Both (L,)."""

    role: np.ndarray  # uint8, Role
    begins_turn: np.ndarray  # bool


def to_bytes(rendered: Rendered) -> np.ndarray:
    """uint8, (L,): each token's role, plus BEGINS_TURN where it begins a turn."""
    return rendered.roles | np.where(rendered.begins_turn, BEGINS_TURN, 0).astype(np.uint8)


def from_bytes(data: np.ndarray) -> Roles:
    """What `to_bytes` was made of."""
    return Roles(data & (BEGINS_TURN - 1), data >= BEGINS_TURN)


def turn_positions(begins_turn: np.ndarray) -> np.ndarray:
    """int32, (L,): for every token how many tokens of its turn came before it."""
    place = np.arange(len(begins_turn), dtype=np.int32)
    return place - np.maximum.accumulate(np.where(begins_turn, place, 0))
