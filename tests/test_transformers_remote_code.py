"""What an export ships for transformers: its stock classes load it, generate with it and train it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch not found: pip install torch to load exports with it")
pytest.importorskip("transformers", reason="transformers not found: pip install transformers to load exports")

import torch
from safetensors.torch import save_file
from test_pytorch_network import EVERYTHING
from torch_parity import (
    BASE,
    SPECIAL_IDS,
    assert_close,
    dialogues,
    jax_logits,
    random_params,
    state_dict,
    to_torch,
)
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from samosa_jax.config import ModelConfig
from samosa_jax.convert.pytorch_sources import remote_code, samosa_config
from samosa_jax.model.gpt import Network

TIED = dataclasses.replace(
    BASE, tie_embeddings=True, mlp="swiglu", qk_norm=False, backout=True, position="hirope"
)
NUM_NEW = 12


def write_folder(folder: Path, config: ModelConfig) -> Path:
    folder.mkdir(exist_ok=True)
    values = samosa_config(config, SPECIAL_IDS) | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    save_file(state_dict(config, random_params(Network.build(config))), folder / "model.safetensors")
    for name, text in remote_code().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("everything"), EVERYTHING)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load(folder).eval()


def greedy(config: ModelConfig, prompt: torch.Tensor, num_new: int = NUM_NEW) -> torch.Tensor:
    """The likeliest tokens by the network that parity is shown of, everything read anew for each."""
    network = to_torch(config, random_params(Network.build(config)))
    tokens = prompt
    for _ in range(num_new):
        tokens = torch.cat([tokens, network(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens


@pytest.mark.parametrize("config", [EVERYTHING, TIED], ids=["everything", "tied"])
def test_logits_are_ours(config: ModelConfig, tmp_path: Path):
    tokens = dialogues(config)
    network = Network.build(config)
    loaded, told = load(write_folder(tmp_path, config), output_loading_info=True)
    assert not any(told.values()), told
    logits = loaded(torch.from_numpy(tokens)).logits
    assert_close(logits, jax_logits(network, random_params(network), tokens))


@pytest.mark.parametrize("config", [EVERYTHING, TIED], ids=["everything", "tied"])
def test_it_generates_the_same_with_a_cache_and_without(config: ModelConfig, tmp_path: Path):
    model = load(write_folder(tmp_path, config))
    prompt = torch.from_numpy(dialogues(config))[:, :10]
    expected = greedy(config, prompt)
    assert len(set(expected[0, 10:].tolist())) > 3  # it says more than one thing
    for use_cache in (True, False):
        options = {"max_new_tokens": NUM_NEW, "do_sample": False, "use_cache": use_cache}
        found = model.generate(prompt, eos_token_id=None, **options)
        torch.testing.assert_close(found, expected)


def test_rows_of_different_length_are_padded_on_the_left(model: Any):
    rows = [torch.from_numpy(dialogues(EVERYTHING))[0, :length] for length in (12, 7, 17)]
    padded = torch.stack([torch.nn.functional.pad(row, (17 - len(row), 0), value=4) for row in rows])
    mask = torch.arange(17) >= torch.tensor([[17 - len(row)] for row in rows])
    options = {"max_new_tokens": NUM_NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 4}
    together = model.generate(padded, attention_mask=mask.long(), **options)
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found[17:], greedy(EVERYTHING, row[None])[0, len(row) :])


def test_sampling_follows_the_seed(model: Any):
    prompt = torch.from_numpy(dialogues(EVERYTHING))[:, :10]
    options = {"max_new_tokens": NUM_NEW, "do_sample": True, "top_k": 50, "eos_token_id": None}
    said = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        said.append(model.generate(prompt, **options))
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])


def test_beams_take_their_tokens_along(model: Any):
    prompt = torch.from_numpy(dialogues(EVERYTHING))[:, :10]
    options = {"max_new_tokens": NUM_NEW, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    torch.testing.assert_close(
        model.generate(prompt, **options), model.generate(prompt, use_cache=False, **options)
    )


def test_generation_goes_on_from_a_cache(model: Any):
    prompt = torch.from_numpy(dialogues(EVERYTHING))[:, :10]
    cache = DynamicCache(config=model.config)
    options = {"do_sample": False, "eos_token_id": None, "past_key_values": cache}
    begun = model.generate(prompt, max_new_tokens=5, **options)
    assert cache.get_seq_length() == 14
    whole = model.generate(begun, max_new_tokens=NUM_NEW - 5, **options)
    torch.testing.assert_close(whole, greedy(EVERYTHING, prompt))


def test_it_learns(folder: Path):
    model = load(folder)
    tokens = torch.from_numpy(dialogues(EVERYTHING))
    labels = tokens.clone()
    labels[:, :6] = -100
    logits = model(tokens).logits
    expected = torch.nn.functional.cross_entropy(logits[:, 5:-1].flatten(0, 1), tokens[:, 6:].flatten())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    model.train()
    for _ in range(4):
        loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss
        loss.backward()
        losses.append(loss.item())
        assert all(value.grad.any() for value in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] == pytest.approx(expected.item(), rel=1e-5)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradients_are_the_same_when_layers_are_computed_anew(folder: Path):
    tokens = torch.from_numpy(dialogues(EVERYTHING))
    gradients = []
    for is_anew in (False, True):
        model = load(folder).train()
        layer, calls = model.model.layers[0], []
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if is_anew:
            model.gradient_checkpointing_enable()
        model(tokens, labels=tokens).loss.backward()
        assert len(calls) == (2 if is_anew else 1)
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_tables_keep_their_size(model: Any):
    assert model.resize_token_embeddings(EVERYTHING.vocab_size) is model.model.embed_tokens
    with pytest.raises(ValueError, match="have room for 150 tokens, not for 151"):
        model.resize_token_embeddings(151)


def test_it_is_saved_and_loaded_again(model: Any, folder: Path, tmp_path: Path):
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    tokens = torch.from_numpy(dialogues(EVERYTHING))
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=0, atol=0)
    before, after = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path))
    assert {name: after.get(name) for name in before if name != "auto_map"} == {
        name: value for name, value in before.items() if name != "auto_map"
    }


def test_a_tied_network_has_one_table(tmp_path: Path):
    model = load(write_folder(tmp_path, TIED))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(load(tmp_path / "again").lm_head.weight, model.lm_head.weight)


def test_in_bfloat16_norms_and_scales_stay_exact(folder: Path):
    model = load(folder, dtype=torch.bfloat16)
    types = {name: value.dtype for name, value in model.named_parameters()}
    exact = {name for name, dtype in types.items() if dtype == torch.float32}
    assert exact == {name for name, value in model.named_parameters() if value.ndim < 2}
    network = Network.build(EVERYTHING)
    tokens = dialogues(EVERYTHING)
    found = model(torch.from_numpy(tokens)).logits
    assert_close(found, jax_logits(network, random_params(network), tokens), relative=0.1)


def test_only_the_last_logits_are_made_where_they_are_enough(model: Any):
    tokens = torch.from_numpy(dialogues(EVERYTHING))
    torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, model(tokens).logits[:, -2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"position_ids": torch.arange(4)[None]}, "position_ids is not known"),
        ({"inputs_embeds": torch.zeros(1, 4, 32)}, "inputs_embeds is not known"),
        ({"output_hidden_states": True}, "output_hidden_states is not known"),
        ({"input_ids": None}, "input_ids is missing"),
        ({"attention_mask": torch.ones(1, 3)}, r"attention_mask is \(1, 3\), expected \(1, 4\)"),
    ],
)
def test_what_it_cannot_read_is_refused(model: Any, arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": torch.zeros(1, 4, dtype=torch.int64), **arguments})


def test_a_cache_of_another_kind_is_refused(model: Any):
    cache = StaticCache(config=model.config, max_cache_len=4)
    with pytest.raises(ValueError, match="past_key_values is a StaticCache; expected a DynamicCache"):
        model(torch.zeros(1, 4, dtype=torch.int64), past_key_values=cache)
