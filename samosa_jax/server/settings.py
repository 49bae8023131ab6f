"""What whoever starts the server decides."""

from dataclasses import dataclass, field

from samosa_jax.config.checks import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What holds where a request says nothing."""

    temperature: float = 0.8
    top_k: int = 50
    max_tokens: int = 512  # of an answer

    def __post_init__(self) -> None:
        require_at_least(0, self, "", "temperature top_k")
        require_at_least(1, self, "", "max_tokens")
        require(self.temperature <= 2, f"temperature is {self.temperature}; requests may ask for 2 at most")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all of them together, may take."""

    max_running: int  # answers in the making at once, over all engines
    max_queue: int = 64  # answers that may wait for that; more are refused with 429
    max_choices: int = 16  # answers that one request may ask for
    max_body_bytes: int = 1 << 20
    body_seconds: float = 30.0  # that a client may take to send its body

    def __post_init__(self) -> None:
        require_at_least(1, self, "", "max_running max_choices max_body_bytes")
        require_at_least(0, self, "", "max_queue")
        require(self.body_seconds > 0, f"body_seconds is {self.body_seconds}; it must be above 0")

    @property
    def max_at_once(self) -> int:
        """Answers that one request may ask for and that there can ever be room for."""
        return min(self.max_choices, self.max_running + self.max_queue)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    model_name: str
    vocab_size: int  # of its tokenizer
    max_token_bytes: int  # of text that one token stands for
    limits: Limits
    defaults: Defaults = field(default_factory=Defaults)
    created: int = 0  # seconds since 1970, of the model
    describe_tools: bool = False  # the model reads the schemas of the server's tools
    api_key: str = field(default="", repr=False)  # empty: everyone may ask
    cors_origins: tuple[str, ...] = ()  # of other pages that may call from a browser; "*" for all
    keep_alive_seconds: float = 15.0  # between comments on a stream with nothing else to say

    def __post_init__(self) -> None:
        require(bool(self.model_name), "the name of the model is empty")
        require(
            self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key,
            "the key has characters that no HTTP header carries; use letters, digits and punctuation",
        )
