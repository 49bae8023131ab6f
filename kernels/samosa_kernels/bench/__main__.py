"""python -m samosa_kernels.bench: see --help."""

import argparse
import functools
import itertools
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import jax

from samosa_kernels.bench import attention, cross_entropy, decode, report, torch_attention
from samosa_kernels.bench.measure import GIB, Comparison, Limits, MatmulPeak, compare, skip
from samosa_kernels.device import Device, current_device, peak_bandwidth, peak_flops

WHATS = ("attention", "decode", "cross_entropy")
DTYPES = ("float32", "bfloat16")

Value = TypeVar("Value")


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def _listed(parse: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    """A comma-separated list of what `parse` reads."""

    def parse_list(text: str) -> tuple[Value, ...]:
        try:
            return tuple(dict.fromkeys(parse(part.strip()) for part in text.split(",")))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_list


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a positive whole number")
    return int(text)


def _heads(text: str) -> tuple[int, int]:
    queries, _, keys = text.partition("/")
    pair = _positive(queries), _positive(keys)
    if pair[0] % pair[1]:
        raise ValueError(f"{text!r}: the heads of queries must be a multiple of those of keys, as in 16/4")
    return pair


def _one_of(choices: Sequence[str], text: str) -> str:
    if text not in choices:
        raise ValueError(f"{text!r} is none of {', '.join(choices)}")
    return text


def _positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def make_parser(device: Device) -> argparse.ArgumentParser:
    """The flags, with defaults for the device: a CPU gets a sweep of minutes, not hours."""
    small = device.platform == "cpu"
    parser = _Parser(
        prog="python -m samosa_kernels.bench",
        description="Times every implementation of a kernel in turn on the same random inputs.",
        epilog="Lists are separated by commas. On a CPU the defaults are a smaller sweep, in float32.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    lengths = "512,1024,2048,4096" if small else "512,1024,2048,3000,4096,8192,16384"
    add = functools.partial(parser.add_argument, metavar="LIST")
    add("--what", type=_listed(functools.partial(_one_of, WHATS)), default="attention", help=", ".join(WHATS))
    add("--lengths", type=_listed(_positive), default=lengths, help="T, or of the cache")
    add("--head-dims", type=_listed(_positive), default="64" if small else "64,128")
    add("--heads", type=_listed(_heads), default="8/8,8/2" if small else "16/16,16/4", help="queries/keys")
    add(
        "--masks",
        type=_listed(attention.parse_mask),
        default="causal,window:256,documents:800" if small else "causal,window:1024,documents:800",
        help="causal, window:W, documents:MEAN_LENGTH",
    )
    passes = functools.partial(_one_of, attention.PASSES)
    add("--passes", type=_listed(passes), default=",".join(attention.PASSES))
    add("--impls", type=_listed(str), default=None, help="only these")
    add("--batches", type=_listed(_positive), default="1,8" if small else "1,8,64", help="rows that decode")
    add = parser.add_argument
    add("--dtype", choices=DTYPES, default="float32" if small else "bfloat16")
    add(
        "--tokens", type=int, default=4096 if small else 16384, help="in a batch of attention and of the loss"
    )
    add("--vocab-size", type=int, default=32768)
    add("--width", type=int, default=384 if small else 2048, help="of the loss's hidden vectors")
    add("--chunk-tokens", type=int, default=1024 if small else 4096, help="of the loss")
    add("--repeats", type=int, default=5 if small else 15, help="rounds, one sample of each implementation")
    add("--max-seconds", type=_positive_number, default=10.0, help="of measuring one comparison")
    add(
        "--total-seconds",
        type=_positive_number,
        default=3600.0,
        help="of the whole run: what is left then is listed as not run",
    )
    add(
        "--memory-gib",
        type=_positive_number,
        default=_default_memory(device),
        help="an implementation may need",
    )
    add("--torch", action="store_true", help="PyTorch's scaled_dot_product_attention too")
    add("--out", type=Path, default=None, metavar="FOLDER", help="write .json, .md and .png there")
    add("--name", default=f"kernels_{device.platform}", help="of these files")
    return parser


def _default_memory(device: Device) -> float:
    """GiB: most of an accelerator's memory, a quarter of the machine's."""
    statistics = jax.devices()[0].memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return round(0.8 * statistics["bytes_limit"] / GIB, 1)
    return round(0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1)


def _check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    for name in ("tokens", "vocab_size", "width", "chunk_tokens", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(arguments, name)}; it must be at least 1")
    if arguments.out is not None:
        try:
            arguments.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--out: {arguments.out} cannot be made a folder ({error.strerror})")
    if arguments.torch and not torch_attention.is_installed():
        parser.error("--torch: PyTorch is not installed here")
    known: set[str] = set()
    if "attention" in arguments.what:
        known.update(attention.implementation_names(arguments.torch))
    if "decode" in arguments.what:
        known.update(decode.DECODE_IMPLEMENTATIONS)
    if "cross_entropy" in arguments.what:
        known.update(cross_entropy.IMPLEMENTATIONS)
    unknown = [impl for impl in arguments.impls or () if impl not in known]
    if unknown:
        parser.error(f"--impls: {unknown[0]!r} is none of {', '.join(sorted(known))}")


def _comparisons(arguments: argparse.Namespace, limits: Limits) -> Iterator[Comparison]:
    shared = {"dtype": arguments.dtype, "impls": arguments.impls, "limits": limits}
    shapes = {"lengths": arguments.lengths, "head_dims": arguments.head_dims, "heads": arguments.heads}
    sweeps = {
        "attention": lambda: attention.comparisons(
            **shapes,
            **shared,
            masks=arguments.masks,
            passes=arguments.passes,
            tokens=arguments.tokens,
            torch=arguments.torch,
        ),
        "decode": lambda: decode.comparisons(**shapes, **shared, batches=arguments.batches),
        "cross_entropy": lambda: cross_entropy.comparisons(
            **shared,
            tokens=arguments.tokens,
            vocab_size=arguments.vocab_size,
            width=arguments.width,
            chunk_tokens=arguments.chunk_tokens,
            passes=arguments.passes,
        ),
    }
    return itertools.chain.from_iterable(sweeps[what]() for what in arguments.what)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 if an implementation failed rather than refused, or none ran; 2 on bad flags."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--torch" in argv:  # both want the GPU's memory, and JAX would take most of it at its first use
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = current_device()
    parser = make_parser(device)
    arguments = parser.parse_args(argv)
    _check(arguments, parser)
    limits = Limits(arguments.repeats, arguments.max_seconds, arguments.memory_gib * GIB)

    listed_peak = peak_flops(device, arguments.dtype)
    measured_peak = MatmulPeak() if listed_peak is None else None
    found: list[report.Record] = []
    start = time.perf_counter()
    run: report.Record = {
        "device": f"CPU, {os.cpu_count()} cores" if device.platform == "cpu" else device.kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "command": shlex.join(["python", "-m", "samosa_kernels.bench", *argv]),
        "peak_is_measured": measured_peak is not None,
    }

    def sum_up() -> None:
        peak = listed_peak if measured_peak is None else measured_peak.best
        report.add_peak_shares(found, peak_flops=peak, peak_bandwidth=peak_bandwidth(device))
        run.update(peak_flops=peak, seconds=round(time.perf_counter() - start))
        run["notes"] = _notes(run, arguments)

    for comparison in _comparisons(arguments, limits):
        if time.perf_counter() - start > arguments.total_seconds:
            skipped = skip(comparison, f"--total-seconds {arguments.total_seconds:g} were over")
            found += report.records(comparison, skipped)
            continue
        if measured_peak is not None:
            measured_peak.sample()
        found += report.records(comparison, compare(comparison, limits))
        _say(comparison, found[-len(comparison.candidates) :])
        if arguments.out is not None:  # what is cut off keeps what it has measured
            sum_up()
            report.write_records(run, found, folder=arguments.out, name=arguments.name)
    sum_up()
    print(report.write(run, found, folder=arguments.out, name=arguments.name), end="")
    statuses = [record["status"] for record in found]
    return 1 if "failed" in statuses or "ran" not in statuses else 0


def _say(comparison: Comparison, found: list[report.Record]) -> None:
    """One line about a comparison, on stderr: the report comes at the end."""
    times = ", ".join(
        f"{record['impl']} {record['ms']:.3g} ms" if record["ms"] else f"{record['impl']} {record['status']}"
        for record in found
    )
    place = " ".join(str(value) for value in comparison.labels.values())
    print(f"{place}: {times}", file=sys.stderr, flush=True)


def _notes(run: report.Record, arguments: argparse.Namespace) -> str:
    peak = "unknown" if run["peak_flops"] is None else f"{run['peak_flops'] / 1e12:.3g} TFLOP/s"
    source = "the best float32 matrix product of this run" if run["peak_is_measured"] else "its data sheet"
    sweep = " A CPU's defaults are a smaller sweep than an accelerator's." if run["platform"] == "cpu" else ""
    return (
        f"jax {run['jax']}, {run['seconds']} s in all. Peak: {peak}, {source}. Times are medians, "
        f"with quartiles, of up to {arguments.repeats} samples, one of each implementation in turn. Work is "
        "counted from the mask: pairs of query and key that are not seen are no work; a backward counts 2.5 "
        "forwards. Temporary memory is what XLA sets aside beside arguments and results. "
        f"In bold: what `auto` chooses.{sweep}"
    )


if __name__ == "__main__":
    sys.exit(main())
