"""What it takes to get the same run again: data, commands, machines, software; and its exports."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from samosa_jax.data.manifest import Manifest, load_manifest
from samosa_jax.errors import UserError
from samosa_jax.reporting.document import Block, Cell, Code, Folded, Missing, Paragraph, Section, Table
from samosa_jax.reporting.figures_in_words import NONE, count, figure, large, share
from samosa_jax.reporting.lineage import Lineage, start_of_paths
from samosa_jax.reporting.run_history import RunHistory
from samosa_jax.training.run_folder import EXPORT_RECORD


def data_section(lineage: Lineage) -> Section:
    rows, blocks, missing, opened = [], list[Block](), list[str](), list[Manifest]()
    for run in lineage.runs:
        sources = run.config.get("data.sources") or []
        if not sources:
            missing.append(f"data of {run.name}: its configuration names none")
        fingerprints = _fingerprints(run)
        for source in sources:
            path = str(source.get("path", ""))
            fingerprint = fingerprints.get(path, "")
            manifest = _find_manifest(run, path)
            if isinstance(manifest, str):
                missing.append(f"data of {run.name}: {manifest}")
                rows.append(
                    (Cell(path, run.name), _weight(run, source), *[NONE] * 4, fingerprint[:12] or NONE)
                )
                continue
            if fingerprint and fingerprint not in prefix_fingerprints(manifest):
                missing.append(
                    f"data of {run.name}: {path} holds other documents by now than the run has read"
                )
            train = manifest.select("train")
            tokens = sum(shard.num_tokens for shard in train)
            rows.append(
                (
                    Cell(path, run.name),
                    _weight(run, source),
                    large(tokens),
                    count(sum(shard.num_documents for shard in train)),
                    _epochs(run, source, tokens),
                    count(sum(shard.num_documents for shard in manifest.select("val"))),
                    fingerprint[:12] or NONE,
                )
            )
            if manifest not in opened:
                opened.append(manifest)
                blocks.append(_contents(path, manifest))
    header = ("source", "weight", "tokens", "documents", "epochs", "held out", "fingerprint")
    table = Table(caption="Prepared data, by stage", header=header, rows=rows)
    before: list[Block] = [table] if rows else []
    tokenizers: dict[str, dict[str, None]] = {}
    for run in lineage.runs:
        for start in run.starts:
            if start.get("tokenizer"):
                tokenizers.setdefault(str(start["tokenizer"]), {})[run.name] = None
    before += [
        Paragraph(f"Tokenizer of {', '.join(names)}: {fingerprint}.")
        for fingerprint, names in tokenizers.items()
    ]
    return Section(name="data", title="Data", blocks=[*before, *map(Missing, missing), *blocks])


def environment_section(lineage: Lineage) -> Section:
    blocks: list[Block] = []
    without = [run.name for run in lineage.runs if not run.starts]
    commands = "\n\n".join(
        f"# {run.name}, from step {start.get('from_step', 0)}\n{start.get('command', '(not recorded)')}"
        for run in lineage.runs
        for start in run.starts
    )
    if commands:
        blocks += [Paragraph("Every start of a command, as it was typed:"), Code(commands)]
    columns = [(run, number, start) for run in lineage.runs for number, start in enumerate(run.starts)]
    described = [_described(start) for _, _, start in columns]
    keys = list(dict.fromkeys(key for values in described for key in values))
    if columns:
        names = [run.name if len(run.starts) == 1 else f"{run.name}, start {n + 1}" for run, n, _ in columns]
        blocks.append(
            Table(
                caption="Machines and software",
                header=("what", *names),
                rows=[(key, *(values.get(key, NONE) for values in described)) for key in keys],
                numeric=False,
                code=True,
            )
        )
    if without:
        blocks.append(Missing(f"environment: {', '.join(without)} has no environment.json"))
    rows = [
        (Cell(run.name), str(checkpoint.step), checkpoint.seal_digest)
        for run in lineage.runs
        for checkpoint in run.checkpoints
    ]
    if rows:
        table = Table(
            caption="Finished checkpoints, and the SHA-256 of the seal over all their files",
            header=("run", "step", "seal"),
            rows=rows,
            numeric=False,
            code=True,
        )
        blocks.append(Folded(summary=f"Checkpoints ({len(rows)})", blocks=[table]))
    else:
        blocks.append(Missing("checkpoints: no finished one is left"))
    return Section(name="environment", title="Environment and commands", blocks=blocks)


def export_section(lineage: Lineage, *, exports: Path) -> Section:
    """Exports of this run under a folder, and whether they were found equal to it."""
    run = lineage.last
    rows, missing = [], list[str]()
    seals = {checkpoint.seal_digest for checkpoint in run.checkpoints}
    places = (exports, start_of_paths(run) / exports)
    folders = dict.fromkeys(place.resolve() for place in places if place.is_dir())
    for record_file in (path for folder in folders for path in sorted(folder.glob(f"*/{EXPORT_RECORD}"))):
        try:
            record = json.loads(record_file.read_text(encoding="utf-8"))
            is_sealed = record["checkpoint_sha256"] in seals
            if is_sealed or record["name"] == run.name:
                rows.append(_export_row(record_file.parent, record, is_sealed=is_sealed))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            missing.append(f"export {record_file.parent}: its {EXPORT_RECORD} cannot be read ({error})")
    blocks: list[Block] = []
    if rows:
        header = (
            "export",
            "format",
            "parameters",
            "tensors equal",
            "largest logit error",
            "greedy tokens equal",
        )
        blocks.append(Table(caption=f"Exports of {run.name}", header=header, rows=rows))
        blocks.append(
            Paragraph(
                "Found by the seal of their checkpoint, which an export keeps; by the name of the run where "
                "no such checkpoint is left."
            )
        )
    elif not missing:
        blocks.append(
            Missing(f"exports: none of {run.name} under {exports}; samosa export writes and verifies one")
        )
    return Section(name="export", title="Exports", blocks=[*blocks, *map(Missing, missing)])


def prefix_fingerprints(manifest: Manifest) -> set[str]:
    """Of the first, the first two, ... training shards: what a run may have read of a growing folder."""
    digest, found = hashlib.sha256(), set[str]()
    for shard in manifest.select("train"):
        digest.update((" ".join(entry.sha256 for entry in shard.files) + "\n").encode())
        found.add(digest.copy().hexdigest())
    return found


def _fingerprints(run: RunHistory) -> Mapping[str, str]:
    for start in reversed(run.starts):
        if isinstance(start.get("sources"), dict):
            return {str(path): str(value) for path, value in start["sources"].items()}
    return {}


def _find_manifest(run: RunHistory, path: str) -> Manifest | str:
    """The manifest, or why there is none."""
    places = (Path(path), start_of_paths(run) / path)
    found = next((place for place in places if (place / "manifest.json").exists()), None)
    if found is None:
        return f"{path} is not there any more, so its manifest is not shown"
    try:
        return load_manifest(found)
    except UserError as error:
        return str(error)


def _weight(run: RunHistory, source: Mapping[str, Any]) -> str:
    weight = float(source.get("weight", 1.0))
    if run.is_chat:
        return f"{weight:g} x an epoch"
    total = sum(float(other.get("weight", 1.0)) for other in run.config["data.sources"])
    return f"{share(weight / total)} of rows"


def _epochs(run: RunHistory, source: Mapping[str, Any], tokens: int) -> str:
    """How often the run has seen each document, by what its configuration says of weights."""
    weight = float(source.get("weight", 1.0))
    planned = int(run.config.get("train.num_steps", 0))
    if run.is_chat:
        if run.config.get("train.horizon") != "epochs" or not planned:
            return NONE
        return figure(float(run.config["train.horizon_value"]) * weight * run.last_step / planned)
    total = sum(float(other.get("weight", 1.0)) for other in run.config["data.sources"])
    return figure(run.tokens * weight / total / tokens) if tokens else NONE


def _contents(path: str, manifest: Manifest) -> Folded:
    """Which files a prepared folder was made from, how, and what its shards are."""
    rows = []
    for number, generation in enumerate(manifest.generations):
        rows += [
            (
                Cell(str(file.get("name", "")), f"generation {number}"),
                f"{int(file.get('num_bytes', 0)):,} bytes",
            )
            for file in generation.files
        ]
    shards = [
        (Cell(shard.tokens.name, shard.split), count(shard.num_tokens), shard.tokens.sha256)
        for shard in manifest.shards
    ]
    options = "\n".join(
        json.dumps({"options": generation.options, "rows": generation.statistics}, ensure_ascii=False)
        for generation in manifest.generations
    )
    blocks: list[Block] = [
        Table(caption="Read from", header=("file", "size"), rows=rows),
        Code(options),
        Table(caption="Shards", header=("file", "tokens", "SHA-256"), rows=shards, numeric=False, code=True),
    ]
    if not manifest.complete:
        blocks.insert(0, Missing(f"{path}: preparing it never ended"))
    return Folded(summary=f"{path}: files and hashes", blocks=blocks)


def _described(start: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in _leaves(start) if key not in ("command", "from_step")}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name} ")
        elif value not in ("", None):
            yield f"{prefix}{name}", str(value)


def _export_row(folder: Path, record: Mapping[str, Any], *, is_sealed: bool) -> tuple[str | Cell, ...]:
    about = (
        Cell(folder.name, f"{record['dtype']}{'' if is_sealed else ', by name'}"),
        f"{record['format']} ({record['architecture']})",
        count(int(record["parameters"])),
    )
    verified = record.get("verified")
    if verified is None:
        return (*about, Cell("never verified", tone="bad"), NONE, NONE)
    error = f"{float(verified['max_logit_error']):.1e}"
    return (
        *about,
        count(int(verified["num_tensors"])),
        Cell(error, f"of {count(int(verified['num_logits']))} logits"),
        count(int(verified["greedy_tokens"])),
    )
