"""A peer for `samosa bench-decode`: `generate` of Hugging Face's transformers, in PyTorch.

    samosa bench-decode --peer="python scripts/decode_with_transformers.py --batch={batch}"

A Llama of the same width, depth, heads, vocabulary and number of parameters as nanochat's shape (its
feed-forward has three matrices of two thirds the width), random weights, float32, greedy. Prints
`tokens_per_sec N` for the tokens after the first, best of two.
"""

import argparse
import importlib
import time
from typing import Any

from transformers import LlamaConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--vocab_size", type=int, default=32_768)
    parser.add_argument("--prompt_tokens", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=128)
    given = parser.parse_args()
    num_heads = -(-64 * given.depth // 128)
    width = 128 * num_heads
    config = LlamaConfig(
        vocab_size=given.vocab_size,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=given.depth,
        num_attention_heads=num_heads,
        head_dim=128,
        max_position_embeddings=2048,
        eos_token_id=None,
        bos_token_id=None,
    )
    torch: Any = importlib.import_module("torch")  # no dependency of the project
    torch.manual_seed(0)
    model = importlib.import_module("transformers").LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, given.vocab_size, (given.batch, given.prompt_tokens))
    mask = torch.ones_like(tokens)

    def seconds(new_tokens: int) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                tokens,
                attention_mask=mask,
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )
        return time.perf_counter() - start

    first = min(seconds(1) for _ in range(3))
    whole = min(seconds(given.new_tokens) for _ in range(2))
    print(f"tokens_per_sec {given.batch * (given.new_tokens - 1) / (whole - first):.1f}")


if __name__ == "__main__":
    main()
