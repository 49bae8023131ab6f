"""nanochat's checkpoints (https://github.com/karpathy/nanochat), read and written.

    model_005568.pt    the state dict
    meta_005568.json   model_config and what training recorded

The shape stands in model_config; much of the function does not, because nanochat keeps it in its code. What
tensors there are says which revision of that code wrote them, and so which constants hold (`_Revision`).
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from samosa_jax.config import VALUE_GATE_CHANNELS, ModelConfig, OptimizerConfig
from samosa_jax.convert.config_reader import ConfigReader
from samosa_jax.convert.foreign import ForeignModel, Logits
from samosa_jax.convert.layout import Layout, Rule
from samosa_jax.convert.torch_files import TorchTensors, import_torch, read_state_dict
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.model.params import Params

NORM_EPS = float(np.finfo(np.float32).eps)  # torch's own for F.rms_norm without one
_LARGEST_EPS = 1e-5  # whose difference to that is lost in the rounding of norms, whose inputs are far larger
_MODEL = re.compile(r"model_(\d+)\.pt")
_LAYER = "transformer.h.{layer}."
_NAMES = {
    "embedding": "transformer.wte.weight",
    "head": "lm_head.weight",
    "blocks/attention/query": _LAYER + "attn.c_q.weight",
    "blocks/attention/key": _LAYER + "attn.c_k.weight",
    "blocks/attention/value": _LAYER + "attn.c_v.weight",
    "blocks/attention/output": _LAYER + "attn.c_proj.weight",
    "blocks/mlp/up": _LAYER + "mlp.c_fc.weight",
    "blocks/mlp/down": _LAYER + "mlp.c_proj.weight",
    "blocks/residual_scale": "resid_lambdas",
    "blocks/x0_scale": "x0_lambdas",
    "value_embeddings/table": "value_embeds.{layer}.weight",
    "value_embeddings/gate": _LAYER + "attn.ve_gate.weight",
    "smear/gate": "smear_gate.weight",
    "smear/scale": "smear_lambda",
    "backout": "backout_lambda",
}
_OF_ONE = ("smear/scale", "backout")  # scalars here, vectors of one number there
_TURNED = ("blocks/attention/query", "blocks/attention/key")


@dataclass(frozen=True)
class _Revision:
    """What the code of a time computes with and its checkpoints do not say.

    Attributes:
        since: the day it begins with.
        window: sequence_len -> tokens before the query that an "S" layer sees beside the query itself.
        values: whether it has value embeddings.
        smear: whether it has smear and backout.
    """

    since: str
    qk_gain: float
    rope_base: float
    window: Callable[[int], int]
    values: bool = False
    smear: bool = False


def _half(sequence_len: int) -> int:
    return sequence_len // 2


def _third(sequence_len: int) -> int:
    return math.ceil(math.ceil(sequence_len / 3) / 128) * 128


def _quarter(sequence_len: int) -> int:
    return math.ceil(math.ceil(sequence_len / 4) / 128) * 128


_PLAIN = _Revision("2025-10-13", qk_gain=1.0, rope_base=10_000.0, window=_half)
_VALUED = _Revision("2026-03-09", qk_gain=1.15, rope_base=100_000.0, window=_third, values=True)
_SMEARED = _Revision("2026-03-14", qk_gain=1.2, rope_base=100_000.0, window=_quarter, values=True, smear=True)
# Tensors of revisions that lasted days and computed what ours cannot.
_REFUSED = {
    "v0_lambdas": "values mixed in by a scalar of the layer",
    "bigram_lambdas": "embeddings of pairs of tokens",
}


def find_checkpoint(path: Path, *, step: int | None = None) -> Path | None:
    """The model_XXXXXX.pt that a path means: that file, or the last in a folder. None: there is none.

    Raises UserError if there are others, but none of the step asked for.
    """
    if path.is_file():
        match = _MODEL.fullmatch(path.name)
        if match is not None and step not in (None, int(match.group(1))):
            raise UserError(f"{path} is not the model of step {step}; name its folder, or leave --step out")
        return path if match is not None else None
    found = {
        int(match.group(1)): file
        for file in path.glob("model_*.pt")
        if (match := _MODEL.fullmatch(file.name))
    }
    if step is not None and found and step not in found:
        raise UserError(
            f"{path} has no model of step {step}; it has those of {', '.join(map(str, sorted(found)))}"
        )
    return found[max(found) if step is None else step] if found else None


def open_nanochat(
    path: Path, *, rope_base: float | None = None, context_len: int | None = None
) -> ForeignModel:
    """Reads model_XXXXXX.pt and the meta_XXXXXX.json beside it.

    Args:
        rope_base: for checkpoints of a changed code; None: that of the revision which wrote such tensors.
        context_len: tokens of the longest dialogue, where less than the checkpoint's own are wanted.

    Raises:
        UserError: a file is missing, damaged or malicious, or the network is one that ours cannot be.
    """
    match = _MODEL.fullmatch(path.name)
    assert match is not None, path
    tensors, _ = read_state_dict(path)
    meta = ConfigReader.open(path.with_name(f"meta_{match.group(1)}.json"))
    reader = ConfigReader(meta.path, meta.group("model_config"))
    for name, what in _REFUSED.items():
        if name in tensors:
            raise UserError(
                f"{path} has {name}: {what}, which only a revision of January 2026 had; ours has none"
            )
    revision = _revision(tensors, path)
    try:
        config = _config(reader, tensors, revision, rope_base=rope_base, context_len=context_len)
    except ConfigError as error:
        raise UserError(f"{reader.path} describes a network that cannot be ours: {error}") from error
    reader.finish()
    rows = tensors.shape("transformer.wte.weight")[0] if "transformer.wte.weight" in tensors else 0
    if rows not in (config.vocab_size, config.padded_vocab_size):
        raise UserError(
            f"{path}: transformer.wte.weight has {rows} rows, {reader.path} has a vocab_size of "
            f"{config.vocab_size}; the two belong to different checkpoints"
        )
    return ForeignModel(
        kind="nanochat",
        path=path,
        config=config,
        tensors=tensors,
        make_layout=nanochat_pt_layout,
        table_rows=rows,
        fills_vocabulary=True,
        tokenizer=_find_tokenizer(path),
        step=int(match.group(1)),
        open_peer=lambda: _peer(config, tensors),
        optimizer=OptimizerConfig(),  # made after nanochat's: Muon, and AdamW at rates that fit its scales
        origin={"format": "nanochat", "revision_since": revision.since},
    )


def nanochat_pt_layout(config: ModelConfig, info: Any) -> Layout:
    """The tensors of nanochat's own GPT, tables padded as ours are; `info` is `Network.info`."""
    half = config.head_dim // 2
    swapped = (*range(half, config.head_dim), *range(half))
    rules = []
    for leaf in jax.tree.leaves(info):
        rules.append(
            Rule(
                leaf.path,
                _NAMES[leaf.path],
                layers=config.value_embedding_layers if leaf.path.startswith("value_embeddings/") else (),
                shape=(1,) if leaf.path in _OF_ONE else None,
                head_order=swapped if leaf.path in _TURNED else (),
            )
        )
    return Layout("nanochat", info, tuple(rules), vocab_rows=config.padded_vocab_size, ignored=("cos", "sin"))


def _revision(tensors: TorchTensors, path: Path) -> _Revision:
    """The code that had these tensors. Raises UserError for gates of another width than ours."""
    gates = [name for name in tensors if name.endswith("ve_gate.weight")]
    if gates and (width := tensors.shape(gates[0])[-1]) != VALUE_GATE_CHANNELS:
        raise UserError(
            f"{path}: {gates[0]} reads {width} channels, as in nanochat before 2026-03-09; only gates of "
            f"{VALUE_GATE_CHANNELS} channels, opened between 0 and 3, can be imported"
        )
    if any(name.startswith(("smear_", "backout_")) for name in tensors):
        return _SMEARED
    return _VALUED if any(name.startswith("value_embeds.") for name in tensors) else _PLAIN


def _config(
    reader: ConfigReader,
    tensors: TorchTensors,
    revision: _Revision,
    *,
    rope_base: float | None,
    context_len: int | None,
) -> ModelConfig:
    width, heads, whole = reader.whole("n_embd"), reader.whole("n_head"), reader.whole("sequence_len")
    pattern = str(reader.take("window_pattern", "L")).upper()
    has_lambdas = revision.values or "resid_lambdas" in tensors or "x0_lambdas" in tensors
    length = whole if context_len is None else context_len
    if not 1 <= length <= whole:
        raise UserError(f"--context-len is {length}; {reader.path} allows 1 to {whole}")
    # A window of theirs counts the tokens before the query, ours the query as well.
    windows = {"window": revision.window(whole) + 1, "window_pattern": pattern}
    if "S" not in pattern or windows["window"] >= length:
        windows = {}
    return ModelConfig(
        vocab_size=reader.whole("vocab_size"),
        context_len=length,
        num_layers=reader.whole("n_layer"),
        model_dim=width,
        num_heads=heads,
        num_kv_heads=reader.whole("n_kv_head", heads),
        head_dim=width // heads,
        mlp="relu2",
        mlp_dim=4 * width,
        norm_eps=NORM_EPS,
        embedding_norm=True,
        qk_gain=revision.qk_gain,
        rope_base=rope_base or revision.rope_base,
        **windows,
        soft_cap=15.0,
        value_embeddings=revision.values,
        residual_scalars=has_lambdas,
        x0_scalars=has_lambdas,
        smear=revision.smear,
        backout=revision.smear,
    )


def _find_tokenizer(checkpoint: Path) -> Path | None:
    """Beside the checkpoint, or where nanochat keeps it: tokenizer/ beside base_checkpoints/d24/model_..."""
    folder = checkpoint.absolute().parent
    places = [folder, folder / "tokenizer", folder.parent / "tokenizer", folder.parent.parent / "tokenizer"]
    return next((place for place in places if (place / "tokenizer.pkl").exists()), None)


def _peer(config: ModelConfig, tensors: TorchTensors) -> Logits:
    import_torch("checking an import of nanochat")
    from samosa_jax.convert.nanochat_forward import NanochatForward

    return NanochatForward(config, tensors)


def write_nanochat(
    folder: Path,
    params: Params,
    config: ModelConfig,
    info: Any,
    *,
    step: int,
    meta: Mapping[str, object] = {},
) -> Path:
    """Writes model_XXXXXX.pt and meta_XXXXXX.json, which nanochat's checkpoint_manager loads; float32.

    Args:
        folder: made if it is not there; a checkpoint of that step in it is replaced.
        info: `Network.info`.
        meta: further entries for the meta file.

    Returns:
        The .pt file.

    Raises:
        UserError: nanochat's code of today computes something else than this network; names the option.
    """
    torch = import_torch("writing nanochat's format")
    check_nanochat(config)
    tensors = nanochat_pt_layout(config, info).to_foreign(params)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model_{step:06d}.pt"
    unfinished = path.with_suffix(".unfinished")
    own = {name: np.require(tensor, requirements="W") for name, tensor in tensors.items()}
    torch.save({name: torch.from_numpy(tensor) for name, tensor in own.items()}, unfinished)
    model_config = {
        "sequence_len": config.context_len,
        "vocab_size": config.vocab_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_kv_head": config.num_kv_heads,
        "n_embd": config.model_dim,
        "window_pattern": config.window_pattern,
    }
    text = json.dumps({**meta, "step": step, "model_config": model_config}, indent=2) + "\n"
    path.with_name(f"meta_{step:06d}.json").write_text(text, encoding="utf-8")
    unfinished.rename(path)
    return path


def check_nanochat(config: ModelConfig) -> None:
    """Raises UserError unless nanochat's code of today (since 2026-03-14) computes what this network does."""
    window = min(_quarter(config.context_len) + 1, config.context_len)
    needed = {
        "mlp": "relu2",
        "mlp_dim": 4 * config.model_dim,
        "head_dim": config.model_dim // config.num_heads,
        "tie_embeddings": False,
        "norm_scale": False,
        "embedding_norm": True,
        "qk_norm": True,
        "qk_norm_scale": False,
        "qk_gain": _SMEARED.qk_gain,
        "position": "rope",
        "rope_base": _SMEARED.rope_base,
        "rope_scaling_type": "none",
        "soft_cap": 15.0,
        "value_embeddings": True,
        "residual_scalars": True,
        "x0_scalars": True,
        "smear": True,
        "backout": True,
    }
    for name, value in needed.items():
        if getattr(config, name) != value:
            raise UserError(
                f"model.{name} is {getattr(config, name)}, nanochat's code has {value}: it would compute "
                "something else; export this model with --format=hf"
            )
    if config.norm_eps > _LARGEST_EPS:
        raise UserError(
            f"model.norm_eps is {config.norm_eps}, nanochat's code has {NORM_EPS:.3g}, which would show; "
            "export this model with --format=hf"
        )
    if "S" in config.window_pattern and config.short_window != window:
        raise UserError(
            f"a sliding layer of this model sees {config.short_window} keys, one of nanochat's sees {window} "
            f"at a context of {config.context_len}; export this model with --format=hf, or train one with "
            f"model.window={window}"
        )
