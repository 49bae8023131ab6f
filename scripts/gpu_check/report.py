"""What the check found, for a reader: a line for every process as it ends, and Markdown with tables."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scripts.gpu_check.jobs import Outcome

GIB = 2**30
MIB = 2**20


def one_line(outcome: Outcome) -> str:
    """For the terminal."""
    said = _said(outcome.part, outcome.message, outcome.results)
    return f"{outcome.name:<26} {outcome.status:<9} {outcome.seconds:6.1f} s  {said}".rstrip()


def wrong_kernels(outcomes: Sequence[Outcome]) -> list[str]:
    """What gave numbers outside their tolerance, or none at all."""
    results = [found for outcome in outcomes if outcome.part == "numerics" for found in outcome.results]
    return list(dict.fromkeys(found["what"] for found in results if found["verdict"] in ("FAIL", "error")))


def _said(part: str, message: str, results: Sequence[Mapping[str, Any]]) -> str:
    """In a line: what a part found, and why it ended early if it did."""
    found = _summary(part, results) if results else ""
    return "; ".join(text for text in (" ".join(message.split()), found) if text)


def _summary(part: str, results: Sequence[Mapping[str, Any]]) -> str:
    if part == "environment":
        found = results[0]
        return f"{found['device']['kind']} ({found['device']['platform']}), jax {found['versions']['jax']}"
    if part == "numerics":
        verdicts = [result["verdict"] for result in results]
        return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    if part == "train":
        found = results[0]
        return (
            f"{found['tokens_per_second']:,.0f} tokens/s, MFU {_percent(found['mfu'])}, "
            f"{found['step_ms']:.1f} ms a step of {found['rows']} x {found['context_len']}"
        )
    if part == "decode":
        timed = [found for found in results if found["verdict"] == "timed"]
        return ", ".join(
            f"{found['attention']} B{found['batch']} {found['tokens_per_second']:,.0f} tokens/s"
            for found in timed
        )
    timed = [found for found in results if found["ms"] is not None]
    return ", ".join(f"{found['impl']} {found['ms']:.3g} ms ({found['pass']})" for found in timed)


def markdown(result: Mapping[str, Any]) -> str:
    """The whole report; `result` is what gpu_check.json holds."""
    verdict = "all parts ran" if result["ok"] else "NOT all parts ran"
    wrong = ", ".join(result["wrong_kernels"])
    parts: list[dict[str, Any]] = result["parts"]
    sections = [
        "# GPU check",
        f"{verdict} in {result['seconds']:.0f} s of {result['budget_seconds']:.0f} s"
        + (", with the tiny shapes of `--quick`: its timings mean nothing" if result["quick"] else ""),
        *((f"**Wrong numbers** from {wrong}: see Numerics.",) if wrong else ()),
        *_environment(result["environment"]),
        "## Parts",
        _table(
            ("part", "result", "s", ""),
            (
                (
                    part["name"],
                    part["status"],
                    f"{part['seconds']:.1f}",
                    _said(part["part"], part["message"], part["results"]),
                )
                for part in parts
            ),
        ),
    ]
    for name, title, section in (
        ("numerics", "Numerics", _numerics),
        ("bench", "Attention", _bench),
        ("train", "Training step", functools.partial(_train, auto=_auto(result["environment"]))),
        ("decode", "Decoding", _decode),
    ):
        results = [found for part in parts if part["part"] == name for found in part["results"]]
        if results:
            sections += [f"## {title}", *section(results)]
    for part in parts:
        if part["log_tail"]:
            sections += [f"## The end of {part['name']}", "\n".join(("```", *part["log_tail"], "```"))]
    return "\n\n".join(sections) + "\n"


def _environment(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    limit = found["memory_limit_bytes"]
    rows = [
        ("device", f"{found['devices']} x {found['device']['kind']}"),
        ("memory for JAX", "unknown" if limit is None else f"{limit / GIB:.1f} GiB"),
        ("driver", found["driver"] or "none"),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
        ("commit", found["git_commit"] or "unknown"),
    ]
    rows += [
        (f"attention {name}", "can run" if refusal is None else f"cannot: {refusal}")
        for name, refusal in found["attention"].items()
    ]
    return [_table(("", ""), rows)]


def _numerics(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Failures first; what was refused only as a list of reasons."""
    ran = [found for found in results if found["verdict"] != "refused"]
    ran.sort(key=lambda found: found["verdict"] == "pass")
    rows = [(found["what"], found["case"], found["verdict"], *_errors(found)) for found in ran]
    sections = [
        "Errors relative to the reference, the worst of the results (output, log-sum-exp, gradients): root "
        "mean square, largest entry over largest entry, and the largest difference as it is.",
        _table(("what", "case", "verdict", "rms", "limit", "peak", "limit", "absolute", ""), rows),
    ]
    refused: dict[tuple[str, str], list[str]] = {}
    for found in results:
        if found["verdict"] == "refused":
            refused.setdefault((found["what"], found["message"]), []).append(found["case"])
    reasons = [f"- {what}: {why} ({', '.join(cases)})" for (what, why), cases in refused.items()]
    return [*sections, "Refused:", "\n".join(reasons)] if reasons else sections


def _errors(found: Mapping[str, Any]) -> tuple[str, ...]:
    if found["verdict"] == "error":
        return "", "", "", "", "", found["message"][:300]
    limit = found["tolerance"]
    values = (found["rms"], limit["rms"], found["peak"], limit["peak"], found["absolute"])
    return (*(f"{value:.1e}" for value in values), "")


def _bench(results: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            f"{found['mask']} T{found['length']} H{found['head_dim']} {found['heads']} heads",
            found["pass"],
            found["impl"] + (" (auto)" if found["auto"] else ""),
            _number(found["ms"], ".3f"),
            _number(found["tflops"], ".1f"),
            _percent(found["peak_share"]),
            _number(None if found["temp_bytes"] is None else found["temp_bytes"] / MIB, ",.0f"),
            found["reason"] or "",
        )
        for found in results
    ]
    header = ("shape", "pass", "attention", "ms", "TFLOP/s", "of the peak", "temporary MiB", "")
    return [
        "By `python -m samosa_kernels.bench`. Work is counted from the mask: keys not seen are no work.",
        _table(header, rows),
    ]


def _auto(environment: Mapping[str, Any]) -> dict[str, str]:
    """By model what "auto" stands for."""
    return {model: choices["auto"] for model, choices in environment.get("training", {}).items()}


def _train(results: Sequence[Mapping[str, Any]], *, auto: Mapping[str, str]) -> list[str]:
    rows = [
        (
            found["model"],
            f"{found['parameters']:,}",
            found["attention"] + (" (auto)" if auto[found["model"]] == found["attention"] else ""),
            f"{found['rows']} x {found['context_len']}",
            f"{found['tokens_per_second']:,.0f}",
            _percent(found["mfu"]),
            f"{found['step_ms']:.1f}",
            f"{min(found['step_ms_all']):.1f} to {max(found['step_ms_all']):.1f}",
            _gib(found["predicted_peak_bytes"]),
            _gib(found["actual_peak_bytes"]),
            f"{found['compile_seconds']:.1f}",
            f"{found['losses'][0]:.2f} to {found['losses'][-1]:.2f}",
        )
        for found in results
    ]
    header = (
        *("model", "parameters", "attention", "batch", "tokens/s", "MFU", "ms", "range"),
        *("predicted GiB", "actual GiB", "compile s", "loss"),
    )
    return [
        "bfloat16, one device, one microbatch, packed documents. MFU counts 6 FLOPs a matmul parameter and "
        "12 L N H T of attention for each token. Milliseconds are the median of the timed steps.",
        _table(header, rows),
    ]


def _decode(results: Sequence[Mapping[str, Any]]) -> list[str]:
    timed = [found for found in results if found["verdict"] == "timed"]
    rows = [
        (
            found["attention"],
            str(found["batch"]),
            f"{found['layers']} x {found['keys']}",
            f"{found['tokens_per_second']:,.0f}",
            f"{found['microseconds_per_layer']:.1f}",
            f"{found['bytes_per_second'] / 1e9:,.0f}",
            _percent(found["share_of_bandwidth"]),
        )
        for found in timed
    ]
    header = ("what", "sequences", "layers x keys", "tokens/s", "us a layer", "GB/s", "of the peak")
    refused = dict.fromkeys(
        f"- {found['attention']}: {found['message']}" for found in results if found not in timed
    )
    return [
        "Attention alone, one token a sequence over the caches of all layers. A share above 100 % would mean "
        "that the caches stayed in the L2.",
        _table(header, rows),
        *(("Refused:", "\n".join(refused)) if refused else ()),
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _gib(count: int | None) -> str:
    return "-" if count is None else f"{count / GIB:.2f}"
