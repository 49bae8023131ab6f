"""What was measured, as JSON, as tables, and as a picture."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from samosa_kernels.bench.measure import Comparison, Measurement, spread

Record = dict[str, Any]

MIB = 2**20
# By implementation, so that a colour means the same in every picture (Okabe and Ito's, for all eyes).
COLOURS = {
    "xla": "#333333",
    "jax_nn": "#a6761d",
    "reference": "#aaaaaa",
    "chunked": "#0072b2",
    "cudnn": "#009e73",
    "triton": "#e69f00",
    "hopper": "#d55e00",
    "torch": "#cc79a7",
    "torch_flash": "#56b4e9",
    "torch_efficient": "#b8a100",
    "torch_cudnn": "#7b4fa3",
}


def records(comparison: Comparison, measurements: Iterable[Measurement]) -> list[Record]:
    """One for each candidate: the labels, then what it achieved, None where it did not run."""
    measurements = list(measurements)
    baseline = next((m for m in measurements if m.impl == comparison.baseline and m.seconds), None)
    found = []
    for measurement in measurements:
        record: Record = {
            **comparison.labels,
            "impl": measurement.impl,
            "auto": measurement.is_auto,
            "status": measurement.status,
            "reason": measurement.reason,
            "flops": comparison.flops,
            "temp_bytes": measurement.temp_bytes,
            "samples": len(measurement.seconds),
        }
        columns = ("ms", "ms_low", "ms_high", "tflops", "gb_per_second", "peak_share", "times_baseline")
        record |= dict.fromkeys(columns)
        record["baseline"] = comparison.baseline
        if measurement.seconds:
            low, middle, high = spread(measurement.seconds)
            record |= {"ms": 1e3 * middle, "ms_low": 1e3 * low, "ms_high": 1e3 * high}
            record["tflops"] = comparison.flops / middle / 1e12
            if comparison.moved_bytes is not None:
                record["gb_per_second"] = comparison.moved_bytes / middle / 1e9
            if baseline is not None:
                record["times_baseline"] = spread(baseline.seconds)[1] / middle
        found.append(record)
    return found


def add_peak_shares(found: list[Record], *, peak_flops: float | None, peak_bandwidth: float | None) -> None:
    """Of what limits the work: memory for decoding, matrix products for the rest."""
    for record in found:
        if record["ms"] is None:
            continue
        if record["gb_per_second"] is not None:
            if peak_bandwidth is not None:
                record["peak_share"] = record["gb_per_second"] * 1e9 / peak_bandwidth
        elif peak_flops is not None:
            record["peak_share"] = record["tflops"] * 1e12 / peak_flops


def write_records(run: Record, found: list[Record], *, folder: Path, name: str) -> None:
    """The file .json alone: every measurement, and what the run was."""
    text = json.dumps({"run": run, "records": found}, indent=1) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def write(run: Record, found: list[Record], *, folder: Path | None, name: str) -> str:
    """The report as Markdown; with a folder, that and .json and .png files of the name there too."""
    if folder is None:
        return markdown(run, found, [])
    write_records(run, found, folder=folder, name=name)
    title = f"Attention on {run['device']}"
    pictures = plot_attention(found, folder, name, title=title, peak=run["peak_flops"])
    text = markdown(run, found, pictures)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return text


def markdown(run: Record, found: list[Record], pictures: list[Path]) -> str:
    """The whole report: what ran where, a table for every shape and pass, and what did not run."""
    lines = [
        f"# Kernels on {run['device']}",
        "",
        "```",
        run["command"],
        "```",
        "",
        run["notes"],
        "",
        *(f"![{path.stem}]({path.name})" for path in pictures),
    ]
    for title, group in _grouped(found).items():
        lines += ["", f"## {title}", "", *_table(group)]
    missing = [record for record in found if record["status"] != "ran"]
    if missing:
        lines += ["", "## Not run", "", "| implementation | where | why |", "|---|---|---|"]
        where: dict[tuple[str, str], list[Record]] = {}
        for record in missing:
            why = record["reason"] if record["status"] == "refused" else f"FAILED: {record['reason']}"
            where.setdefault((record["impl"], why.replace("|", "\\|")), []).append(record)
        for (impl, why), not_run in where.items():
            everywhere = len(not_run) == sum(record["impl"] == impl for record in found)
            lines.append(f"| {impl} | {'everywhere' if everywhere else _places(not_run)} | {why} |")
    return "\n".join(lines) + "\n"


def _places(not_run: list[Record], most: int = 6) -> str:
    """Masks and lengths; beyond some, a number: the JSON has them all."""
    places = list(dict.fromkeys(f"{record['mask']} T{record['length']}" for record in not_run))
    text = ", ".join(places[:most])
    return text if len(places) <= most else f"{text} and {len(places) - most} more"


def _grouped(found: list[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in found:
        groups.setdefault(_title(record), []).append(record)
    return groups


def _title(record: Record) -> str:
    if record["what"] == "cross_entropy":
        sizes = f"{record['length']} tokens, width {record['width']}, vocabulary {record['vocab_size']}"
        return f"Cross-entropy, {sizes}, {record['pass']}, {record['dtype']}"
    shape = f"head width {record['head_dim']}, {record['heads']} heads"
    if record["what"] == "decode":
        return f"Decoding, {shape}, {record['dtype']}"
    return f"Attention, {shape}, {record['pass']}, {record['dtype']}"


def _table(group: list[Record]) -> list[str]:
    kind = group[0]["what"]
    in_tera = max((record["tflops"] or 0) for record in group) >= 1
    rate = "TFLOP/s" if in_tera else "GFLOP/s"
    work = {"attention": ["mask", "T", "B"], "decode": ["S", "B"], "cross_entropy": ["loss"]}[kind]
    rates = ["GB/s"] if kind == "decode" else [rate]
    header = [*work, "implementation", "ms", "quartiles", *rates, "of peak", "temporary MiB", "× xla"]
    align = [*("---" for _ in (*work, "")), *("---:" for _ in header[len(work) + 1 :])]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(align) + "|"]
    last = None
    for record in group:
        if record["status"] != "ran":
            continue
        places = {
            "attention": (record["mask"], record["length"], record["batch"]),
            "decode": (record["length"], record["batch"]),
            "cross_entropy": (record["mask"],),
        }[kind]
        cells = ["" for _ in places] if places == last else [str(place) for place in places]
        last = places
        scale = 1 if in_tera else 1e3
        achieved = record["gb_per_second"] if kind == "decode" else record["tflops"] * scale
        share, times, temp = record["peak_share"], record["times_baseline"], record["temp_bytes"]
        cells += [
            f"**{record['impl']}**" if record["auto"] else record["impl"],
            f"{record['ms']:.3g}" if record["ms"] < 100 else f"{record['ms']:.0f}",
            f"{record['ms_low']:.3g}-{record['ms_high']:.3g}",
            f"{achieved:.3g}" if achieved < 100 else f"{achieved:.0f}",
            "" if share is None else f"{share:.0%}",
            "" if temp is None else f"{temp / MIB:.1f}",
            "" if times is None else f"{times:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def plot_attention(
    found: list[Record], folder: Path, stem: str, *, title: str, peak: float | None
) -> list[Path]:
    """A PNG for every head width and number of heads: a panel for each mask, a row for each pass."""
    shapes: dict[tuple[int, str], list[Record]] = {}
    for record in found:
        if record["what"] == "attention" and record["ms"] is not None:
            shapes.setdefault((record["head_dim"], record["heads"]), []).append(record)
    paths = []
    for (head_dim, heads), group in shapes.items():
        suffix = "" if len(shapes) == 1 else f"_H{head_dim}_{heads.replace('/', 'x')}"
        path = folder / f"{stem}{suffix}.png"
        subtitle = f"head width {head_dim}, {heads} heads, {group[0]['dtype']}"
        _plot(group, path, title=f"{title}\n{subtitle}", peak=peak)
        paths.append(path)
    return paths


def _plot(group: list[Record], path: Path, *, title: str, peak: float | None) -> None:
    # Matplotlib takes most of a second to import; nobody should wait for it before the first measurement.
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    masks, passes = (list(dict.fromkeys(record[key] for record in group)) for key in ("mask", "pass"))
    lengths = sorted({record["length"] for record in group})
    highest = max(record["tflops"] for record in group)
    unit, scale = ("TFLOP/s", 1.0) if highest >= 1 else ("GFLOP/s", 1e3)
    figure = Figure(figsize=(1.2 + 3.4 * len(masks), 1.5 + 2.7 * len(passes)), dpi=160, layout="constrained")
    panels = figure.subplots(len(passes), len(masks), squeeze=False, sharex=True, sharey="row")
    entries: dict[str, Any] = {}
    for row, direction in enumerate(passes):
        for column, mask in enumerate(masks):
            panel = panels[row, column]
            if peak is not None and peak < 2.5e12 * highest:
                line = panel.axhline(peak / 1e12 * scale, color="black", linewidth=0.9, linestyle=":")
                entries["matrix product"] = line
            here = [record for record in group if (record["pass"], record["mask"]) == (direction, mask)]
            entries |= _draw_lines(panel, here, scale)
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_locator(FixedLocator(lengths))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tokens(round(value))))
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        panels[row, 0].set_ylabel(f"{direction}\n{unit} of unmasked work")
    for column, mask in enumerate(masks):
        panels[0, column].set_title(mask, fontsize=11)
        panels[-1, column].set_xlabel("row length T (tokens)")
    figure.suptitle(title, fontsize=12)
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=len(entries), frameon=False
    )
    figure.savefig(path)


def _draw_lines(panel: Any, found: list[Record], scale: float) -> dict[str, Any]:
    """A line for each implementation, with its quartiles as a band; returns them by name."""
    lines = {}
    for impl in dict.fromkeys(record["impl"] for record in found):
        points = sorted((r for r in found if r["impl"] == impl), key=lambda r: r["length"])
        lengths = [r["length"] for r in points]
        middle = [r["tflops"] * scale for r in points]
        low, high = ([r["flops"] / r[key] / 1e9 * scale for r in points] for key in ("ms_high", "ms_low"))
        for_comparison = impl in ("xla", "jax_nn", "reference") or impl.startswith("torch")
        colour = COLOURS.get(impl, "#000000")
        panel.fill_between(lengths, low, high, color=colour, alpha=0.12, linewidth=0)
        (lines[impl],) = panel.plot(
            lengths,
            middle,
            color=colour,
            marker="o",
            markersize=3.5 if for_comparison else 4.5,
            linewidth=1.4 if for_comparison else 2.4,
            linestyle="--" if impl.startswith("torch") else "-",
        )
    return lines


def _tokens(length: int) -> str:
    return f"{length // 1024}k" if length >= 1024 and length % 1024 == 0 else str(length)
