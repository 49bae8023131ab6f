"""An answer in the making on both levels: the tokens of the engine, and the turn that is read from them."""

from dataclasses import dataclass

from samosa_jax.rollout.events import Usage
from samosa_jax.rollout.request import Generation
from samosa_jax.rollout.turn import Turn


@dataclass(eq=False, kw_only=True)
class OpenAnswer:
    generation: Generation
    turn: Turn
    num_read: int = 0  # of the generation's tokens
    num_calls: int = 0  # of tools

    def read(self) -> int:
        """Lets the turn read what is new; returns how many new tokens the model chose."""
        generation, first = self.generation, self.num_read
        while self.num_read < len(generation.tokens) and not self.turn.is_over:
            at = self.num_read
            self.num_read += 1
            self.turn.read(
                generation.tokens[at],
                sampled=generation.sampled[at],
                logprob=generation.logprobs[at],
                top=generation.top_logprobs[at],
            )
        return sum(generation.sampled[first : self.num_read])

    def room(self, context_len: int) -> int:
        """Tokens that the context has left."""
        return context_len - len(self.generation.prompt) - len(self.generation.tokens)

    def usage(self) -> Usage:
        """Of what was read."""
        num_sampled = sum(self.generation.sampled[: self.num_read])
        return Usage(
            prompt_tokens=len(self.generation.prompt) + self.num_read - num_sampled,
            cached_tokens=self.generation.cached_tokens,
            completion_tokens=num_sampled,
        )
