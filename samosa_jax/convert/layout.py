"""Between our parameters and the tensors of PyTorch: one table, read in both directions, exact to the bit.

A `Rule` names a parameter here and there. How its numbers lie follows from the dimensions that every one of
ours declares (`model.params`): a product becomes the weight of a `torch.nn.Linear`, (out, in), a table that
of a `torch.nn.Embedding`, (rows, channels), and a stack of layers one tensor for each.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from samosa_jax.errors import UserError
from samosa_jax.model.params import ParamInfo, Params


@dataclass(frozen=True)
class Rule:
    """One parameter, and the tensors that hold it elsewhere."""

    path: str  # of ours: "blocks/attention/query"
    name: str  # of theirs: "layers.{layer}.q_proj.weight"; without {layer} a stack is one tensor
    layers: tuple[int, ...] = ()  # the layers that a stack is of, where it is not of all
    shape: tuple[int, ...] | None = None  # of a tensor of theirs, where it is not what the dimensions say
    head_order: tuple[int, ...] = ()  # channel j of a head of theirs is channel head_order[j] of ours


@dataclass(frozen=True)
class Constant:
    """A tensor of theirs for which ours has no parameter, such as the scale of a norm without one."""

    shape: tuple[int, ...]
    value: float

    def array(self) -> np.ndarray:
        return np.full(self.shape, self.value, np.float32)


@dataclass(frozen=True)
class Tensor:
    """One tensor of theirs: what it is called, its shape, and the part of a parameter that it holds."""

    name: str
    shape: tuple[int, ...]
    rule: Rule
    info: ParamInfo
    index: int | None  # in the stack; None: all of it


@dataclass(frozen=True)
class Layout:
    """How a network's parameters lie in the files of another implementation.

    Attributes:
        name: what errors call it: "Qwen3".
        info: `Network.info`; every parameter has one rule.
        vocab_rows: rows of their tables; ours may be longer by rows of zeros, which stand for no token.
        constants: tensors that hold no parameter of ours, with the value that they must have.
        repeated: tensors that files may hold a second time, each with the name it must be equal to.
        ignored: ends of names of tensors that are computed and not trained.
    """

    name: str
    info: Any = field(repr=False)
    rules: tuple[Rule, ...]
    vocab_rows: int
    constants: Mapping[str, Constant] = field(default_factory=dict)
    repeated: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of theirs, layer by layer for a stack."""
        infos = {info.path: info for info in jax.tree.leaves(self.info)}
        for rule in self.rules:
            info = infos.pop(rule.path)
            if "{layer}" not in rule.name:
                yield Tensor(rule.name, _shape(rule, info, self.vocab_rows), rule, info, index=None)
                continue
            layers = rule.layers or range(info.shape[0])
            for index, layer in enumerate(layers):
                name = rule.name.format(layer=layer)
                yield Tensor(name, _shape(rule, info, self.vocab_rows), rule, info, index)
        if infos:
            raise ValueError(f"the layout {self.name} has no rule for {', '.join(infos)}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of theirs by name, in the order of `stream`."""
        constants = {name: constant.shape for name, constant in self.constants.items()}
        return {tensor.name: tensor.shape for tensor in self.tensors()} | constants

    def to_foreign(self, params: Params) -> dict[str, np.ndarray]:
        """Their tensors by name, float32. Raises UserError where rows of no token are not zero."""
        return dict(self.stream(params))

    def stream(self, params: Params) -> Iterator[tuple[str, np.ndarray]]:
        """As `to_foreign`, one tensor after the other: no more than one parameter is copied at a time."""
        leaves = _leaves(params)
        path, array = "", np.zeros(())
        for tensor in self.tensors():
            if tensor.rule.path != path:
                path, array = tensor.rule.path, np.asarray(leaves[tensor.rule.path], np.float32)
            yield tensor.name, _to_foreign(array, tensor)
        for name, constant in self.constants.items():
            yield name, constant.array()

    def to_params(self, tensors: Mapping[str, Any], *, source: str) -> Params:
        """Our parameters, float32 numpy arrays. `source` is the file or folder that errors name.

        Raises:
            UserError: a tensor is missing, is of another shape, is not finite, or belongs to nothing.
        """
        expected = list(self.tensors())
        self._check_names(tensors, set(self.shapes()), source=source)
        arrays = {info.path: np.zeros(info.shape, np.float32) for info in jax.tree.leaves(self.info)}
        for tensor in expected:
            found = np.asarray(tensors[tensor.name]).astype(np.float32, copy=False)
            if found.shape != tensor.shape:
                raise UserError(
                    f"{source}: tensor {tensor.name} is {found.shape}, expected {tensor.shape} for this "
                    f"{self.name} configuration; the configuration belongs to another checkpoint"
                )
            if not np.isfinite(found).all():
                raise UserError(
                    f"{source}: tensor {tensor.name} holds numbers that are not finite; fetch it again"
                )
            _place(arrays[tensor.rule.path], found, tensor)
        for name, constant in self.constants.items():
            if not np.array_equal(np.asarray(tensors[name]).astype(np.float32), constant.array()):
                raise UserError(
                    f"{source}: tensor {name} is not {constant.value:g} everywhere, as it is without a "
                    "learned scale; set norm_scale and qk_norm_scale to true in the configuration"
                )
        for name, original in self.repeated.items():
            if name in tensors and not np.array_equal(tensors[name], tensors[original]):
                raise UserError(
                    f"{source}: tensor {name} differs from {original}, which it should repeat: the "
                    "configuration says that they are tied (tie_word_embeddings)"
                )
        return _nested(arrays)

    def _check_names(self, found: Mapping[str, Any], expected: set[str], *, source: str) -> None:
        missing = sorted(expected - set(found))
        if missing:
            raise UserError(
                f"{source}: tensor {missing[0]} is missing ({len(missing)} of {len(expected)} are); "
                f"expected those of {self.name} with this configuration"
            )
        known = expected | set(self.repeated)
        unknown = sorted(name for name in found if name not in known and not name.endswith(self.ignored))
        if unknown:
            raise UserError(
                f"{source}: tensor {unknown[0]} ({len(unknown)} in all) belongs to nothing in {self.name} "
                "with this configuration; such a model cannot be taken over without loss"
            )


def _shape(rule: Rule, info: ParamInfo, vocab_rows: int) -> tuple[int, ...]:
    if rule.shape is not None:
        return rule.shape
    if "{layer}" not in rule.name and info.batch_axis:
        return info.shape
    sizes = [info.shape[dim] for dim in range(len(info.shape)) if dim not in info.batch_axis]
    if _is_table(info):
        return vocab_rows, math.prod(sizes[1:])
    if info.reduction_axis:
        return math.prod(info.shape[dim] for dim in info.output_axis), info.fan_in
    return tuple(sizes)


def _is_table(info: ParamInfo) -> bool:
    """Whether its rows are tokens, of an embedding or of the head."""
    return "V" in info.letters


def _to_foreign(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    part = array if tensor.index is None else array[tensor.index]
    if tensor.rule.head_order:
        part = part[..., list(tensor.rule.head_order)]
    if _is_table(tensor.info):
        rows = tensor.shape[0]
        if part[rows:].any():
            raise UserError(
                f"parameter {tensor.rule.path} is not zero in the rows from {rows} on, which stand for no "
                "token; it was trained by an older version and cannot be written in this format"
            )
        return np.ascontiguousarray(part[:rows].reshape(tensor.shape))
    if tensor.info.reduction_axis:
        part = part.reshape(tensor.info.fan_in, -1).T
    return np.ascontiguousarray(part).reshape(tensor.shape)


def _place(array: np.ndarray, found: np.ndarray, tensor: Tensor) -> None:
    """Writes a tensor of theirs to where it stands in a parameter of ours; the inverse of `_to_foreign`."""
    part = array[...] if tensor.index is None else array[tensor.index, ...]
    if _is_table(tensor.info):
        part = part[: tensor.shape[0]]
    elif tensor.info.reduction_axis:
        found = found.reshape(-1, tensor.info.fan_in).T
    found = found.reshape(part.shape)
    if tensor.rule.head_order:
        found = found[..., np.argsort(tensor.rule.head_order)]
    part[...] = found


def _leaves(params: Params) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def _nested(arrays: Mapping[str, np.ndarray]) -> Params:
    params: Params = {}
    for path, array in arrays.items():
        *folders, name = path.split("/")
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = array
    return params
