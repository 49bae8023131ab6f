"""A samosa network for transformers, where it has no other name for it.

model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from samosa_jax.convert.pytorch.network import NetworkConfig, Transformer, cap_logits

from .configuration_samosa import SamosaConfig

LAYERS = ["Block"]
TIED = {"lm_head.weight": "model.embed_tokens.weight"}  # in a network with tie_embeddings


class SamosaModel(Transformer):
    """The network without its head; for the gradient, it may compute layers anew instead of keeping them."""

    gradient_checkpointing = False  # transformers sets both, where training asks for it
    _gradient_checkpointing_func: Callable[..., Tensor]

    def run(self, block: nn.Module, *arguments: Any) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(block.__call__, *arguments)
        return block(*arguments)


class SamosaForCausalLM(PreTrainedModel, GenerationMixin):
    """Tokens to logits; `generate`, labels, padding and caches as in every model of transformers."""

    config_class = SamosaConfig
    base_model_prefix = "model"
    _no_split_modules = LAYERS
    _tied_weights_keys = TIED
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def __init__(self, config: SamosaConfig) -> None:
        super().__init__(config)
        self.settings = NetworkConfig.from_dict(config.to_dict())
        self.model = SamosaModel(self.settings)
        self.lm_head = nn.Linear(self.settings.model_dim, self.settings.padded_vocab_size, bias=False)
        # Scales are used in float32, whatever the dtype of the rest.
        scales = [name for name, value in self.named_parameters() if value.ndim < 2]
        self._keep_in_fp32_modules_strict = {name.removesuffix(".weight").split(".")[-1] for name in scales}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError for any other number than the present one: value embeddings are tables, too."""
        if new_num_tokens not in (None, self.settings.vocab_size):
            raise ValueError(
                f"the tables of this network have room for {self.settings.vocab_size} tokens, not for "
                f"{new_num_tokens}; take over special tokens that are there instead of adding some"
            )
        return self.model.embed_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits float32 (B, T, vocab_size), and the loss where there are labels.

        Args:
            input_ids: (B, T), the tokens that the cache has not read.
            attention_mask: (B, S), 0 for padding, at either end; for the tokens in the cache, too.
            labels: (B, T), -100 where none is to be predicted; token t is predicted from those before it.
            logits_to_keep: give logits of so many of the last tokens alone; 0: of all.
        """
        for name in ("position_ids", "inputs_embeds", "output_hidden_states", "output_attentions"):
            value = kwargs.pop(name, None)
            if value is not None and value is not False:
                raise ValueError(f"{name} is not known: this network reads tokens and gives logits alone")
        if input_ids is None:
            raise ValueError("input_ids is missing: this network reads tokens and gives logits alone")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        tokens = input_ids
        if past_key_values is not None:
            tokens = keep_tokens(past_key_values, input_ids, layer=self.settings.num_layers)
        if attention_mask is not None and attention_mask.shape != tokens.shape:
            raise ValueError(
                f"attention_mask is {tuple(attention_mask.shape)}, expected {tuple(tokens.shape)}: one "
                "number for each token, for those in the cache, too"
            )
        is_token = None if attention_mask is None else attention_mask.bool()
        hidden = self.model(tokens, is_token, past_key_values)
        logits = cap_logits(self.settings, self.lm_head(hidden[:, -logits_to_keep:]))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.settings.vocab_size, **kwargs
            )
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
        return output.to_tuple() if return_dict is False else output


def keep_tokens(cache: DynamicCache, new: Tensor, *, layer: int) -> Tensor:
    """What the cache has read and the new tokens (B, T), together (B, S).

    They are kept in the cache as the keys of one layer more, so that whatever transformers does to a cache,
    such as choosing beams, is done to them as well.
    """
    if not isinstance(cache, DynamicCache):
        raise ValueError(f"past_key_values is a {type(cache).__name__}; expected a DynamicCache")
    while len(cache.layers) <= layer:
        cache.layers.append(DynamicLayer())
    keys = new[:, None, :, None]
    kept, _ = cache.update(keys, keys[..., :0], layer)
    return kept[:, 0, :, 0]
