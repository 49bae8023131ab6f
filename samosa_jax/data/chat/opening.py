"""Opens prepared conversations or preference pairs as the pipeline that reads them."""

from collections.abc import Sequence
from typing import Any, Literal

from samosa_jax.config import SourceConfig, TagWeights
from samosa_jax.data.chat.pipeline import ChatPipeline, Curriculum, open_conversations
from samosa_jax.data.chat.preference_pipeline import PreferencePipeline, open_pairs


def open_epoch_pipeline(
    sources: Sequence[SourceConfig],
    *,
    content: Literal["conversations", "preferences"],
    curriculum: Sequence[TagWeights],
    num_steps: int,
    too_long: str,
    context_len: int,
    **reading: Any,
) -> ChatPipeline | PreferencePipeline:
    """The pipeline of what the folders hold. Raises UserError if one holds something else, or nothing fits.

    Args:
        curriculum, num_steps, too_long: of conversations only; see `Curriculum` and `open_conversations`.
        reading: further options of EpochPipeline.
    """
    if content == "preferences":
        pairs = [open_pairs(source, context_len=context_len) for source in sources]
        return PreferencePipeline(pairs, context_len=context_len, **reading)
    conversations = [
        open_conversations(source, context_len=context_len, too_long=too_long) for source in sources
    ]
    weights = Curriculum(curriculum, num_steps=num_steps)
    return ChatPipeline(conversations, curriculum=weights, context_len=context_len, **reading)
