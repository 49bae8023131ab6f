"""What a compiled program sends between devices: every collective of its HLO, its bytes, how often it runs.

    collectives = read_collectives(compiled.as_text())
    sum(collective.wire_bytes * collective.times for collective in collectives)   # of one device, one run

Reads the text that XLA prints of the partitioned program: https://openxla.org/xla/operation_semantics.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One operation, as every device of a group of devices takes part in it."""

    kind: str  # one of KINDS
    dtypes: tuple[str, ...]  # of its arrays, as HLO names them: "bf16"
    bytes: int  # of the larger side on one device: what is gathered, or what is to be reduced
    group_size: int  # devices that take part together
    in_loop: bool  # inside the body of a loop
    times: int  # runs of it in one run of the program; of a loop whose length is not known, one
    op_name: str  # where in the traced program it comes from

    @property
    def wire_bytes(self) -> int:
        """What one device sends each time, by the algorithm that sends least (a ring).

        https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
        """
        share = (self.group_size - 1) / self.group_size
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}
        return round(self.bytes * factor.get(self.kind, share))


class Traffic(NamedTuple):
    """Collectives of one kind in one run of a program."""

    operations: int
    wire_bytes: int  # sent by one device
    in_loop: int  # operations that stand in a loop


def total_bytes(collectives: Iterable[Collective]) -> int:
    """Sent by one device in one run of the program."""
    return sum(collective.wire_bytes * collective.times for collective in collectives)


def by_kind(collectives: Iterable[Collective]) -> dict[str, Traffic]:
    """The traffic of every kind there is, in alphabetical order. An operation in a loop counts once."""
    sums: dict[str, Traffic] = {}
    for one in collectives:
        before = sums.get(one.kind, Traffic(0, 0, 0))
        sums[one.kind] = Traffic(
            before.operations + 1,
            before.wire_bytes + one.wire_bytes * one.times,
            before.in_loop + one.in_loop,
        )
    return dict(sorted(sums.items()))


def read_collectives(hlo: str) -> list[Collective]:
    """Every collective of a partitioned program, in the order of its text; what a tuple joins counts once.

    Raises:
        ValueError: the text names groups of devices in a way that is not understood.
    """
    computations = _computations(hlo)
    loops = _loops(computations)
    partitions = re.search(r"\bnum_partitions=(\d+)", hlo)
    num_devices = int(partitions[1]) if partitions else 1
    return [
        Collective(
            kind=found["kind"],
            dtypes=tuple(sorted({dtype for dtype, _ in _arrays(found["type"])})),
            bytes=_larger_side(found["kind"], found["start"] is not None, found["type"], group_size),
            group_size=group_size,
            in_loop=loops[name].depth > 0,
            times=loops[name].times,
            op_name=_first(r'op_name="([^"]*)"', line) or "",
        )
        for name, lines in computations.items()
        if name in loops
        for line in lines
        for found in _COLLECTIVE.finditer(line)
        for group_size in [_group_size(line, num_devices)]
    ]


_COLLECTIVE = re.compile(
    rf"^\s*(?:ROOT )?%?\S+ = (?P<type>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\("
)


def _computations(hlo: str) -> dict[str, list[str]]:
    """The lines of every computation, by name; the entry computation first, under ""."""
    computations: dict[str, list[str]] = {"": []}
    lines = computations[""]
    for line in hlo.splitlines():
        opened = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if opened and not line.startswith("HloModule"):
            lines = computations.setdefault("" if opened[1] else opened[2], [])
        else:
            lines.append(line)
    return computations


class _Repeated(NamedTuple):
    depth: int  # loops around it
    times: int


def _loops(computations: Mapping[str, list[str]]) -> dict[str, _Repeated]:
    """How often each computation that the program reaches is run."""
    found: dict[str, _Repeated] = {}

    def visit(name: str, repeated: _Repeated) -> None:
        if name not in computations or found.get(name, _Repeated(-1, 0)) >= repeated:
            return
        found[name] = repeated
        for line in computations[name]:
            for called, trips in _calls(line):
                inner = _Repeated(repeated.depth + 1, repeated.times * trips) if trips else repeated
                visit(called, inner)

    visit("", _Repeated(0, 1))
    return found


def _calls(line: str) -> Iterator[tuple[str, int]]:
    """The computations that an operation runs, and how often: 0 for what is no loop."""
    trips = int(_first(r'"known_trip_count":\{"n":"(\d+)"\}', line) or 1)
    for role, names in re.findall(
        r"\b(body|condition|calls|to_apply|true_computation|false_computation|branch_computations|"
        r"called_computations)=(\{[^}]*\}|%?[\w.\-]+)",
        line,
    ):
        for name in re.findall(r"[\w.\-]+", names):
            yield name, trips if role == "body" else 0


def _arrays(hlo_type: str) -> list[tuple[str, int]]:
    """(dtype, bytes) of every array in a type; scalars of bookkeeping (u32[]) aside."""
    return [
        (dtype, math.prod(int(dim) for dim in dims.split(",") if dim) * int(bits or 8) // 8)
        for dtype, bits, dims in re.findall(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]", hlo_type)
        if dims or dtype not in ("u32", "s32")
    ]


def _larger_side(kind: str, is_start: bool, hlo_type: str, group_size: int) -> int:
    """Bytes of operand or result, whichever is larger. The type is of the results, or of both sides."""
    listed = sum(size for _, size in _arrays(hlo_type))
    if kind == "all-reduce":
        return listed  # its start, too, is of the type of the result
    if kind in ("all-gather", "reduce-scatter"):
        if is_start:
            return listed * group_size // (group_size + 1)
        return listed * group_size if kind == "reduce-scatter" else listed
    return listed // 2 if is_start else listed


def _group_size(line: str, num_devices: int) -> int:
    """Devices in one of its groups, which are all of the same size."""
    if "-permute" in line and "source_target_pairs" in line:
        return num_devices
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line)
    if iota:
        return int(iota[2])
    of_mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line)
    if of_mesh:
        sizes = {axis: int(size) for axis, size in re.findall(r"('[^']+')=(\d+)", of_mesh[1])}
        # A part of an axis is written 'axis':(before)size.
        parts = re.findall(r"('[^']+')(?::\(\d+\)(\d+))?", of_mesh[2])
        return math.prod(int(part) if part else sizes[axis] for axis, part in parts)
    listed = re.search(r"replica_groups=\{(?:\{([\d,]*)\})?", line)
    if not listed:
        raise ValueError(f"groups of devices that are not understood: {line.strip()[:300]}")
    return len(listed[1].split(",")) if listed[1] else num_devices


def _first(pattern: str, line: str) -> str | None:
    found = re.search(pattern, line)
    return found[1] if found else None
