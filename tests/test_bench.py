"""The benchmark of the kernels: its count of the work, its columns, its word on those that cannot run."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from samosa_kernels.attention import IMPLEMENTATIONS, attention
from samosa_kernels.bench import attention as attention_bench
from samosa_kernels.bench import decode, report, torch_attention
from samosa_kernels.bench.__main__ import main
from samosa_kernels.bench.attention import AttentionCase, Mask, parse_mask
from samosa_kernels.bench.measure import (
    Candidate,
    CannotRunError,
    Comparison,
    Limits,
    MatmulPeak,
    Prepared,
    compare,
    prepare_jax,
    spread,
)
from samosa_kernels.device import current_device, peak_flops

LIMITS = Limits(repeats=3, max_seconds=60.0, memory_bytes=2**30)
MASKS = (Mask("causal"), Mask("window", 5), Mask("documents", 7))
COLUMNS = {
    *("what", "length", "batch", "mask", "pass", "dtype", "impl", "auto", "status", "reason"),
    *("ms", "ms_low", "ms_high", "samples", "flops", "tflops", "gb_per_second", "peak_share"),
    *("temp_bytes", "times_baseline", "baseline"),
}


def make_case(mask: Mask, direction: str = "forward", **changes) -> AttentionCase:
    case = AttentionCase(
        length=20, head_dim=8, heads=(4, 2), mask=mask, direction=direction, batch=3, dtype="float32"
    )
    return case._replace(**changes)


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_work_is_counted_pair_by_pair(mask):
    case = make_case(mask)
    lo = np.asarray(case.ranges().lo)
    pairs = 0
    for row in range(3):
        for query in range(20):
            for key in range(20):
                seen = key <= query and (mask.kind != "window" or key > query - 5)
                pairs += seen and (mask.kind != "documents" or key >= lo[row, query])
    assert (
        case.flops() == 4 * 8 * 4 * pairs
    )  # two products of width 8, in 4 heads, an addition counted as one
    assert case._replace(direction="forward+backward").flops() == 3.5 * case.flops()


def test_documents_have_the_length_they_are_named_for():
    lo = np.asarray(make_case(Mask("documents", 50), length=5000, batch=4).ranges().lo)
    documents = sum(len(np.unique(row)) for row in lo)
    assert 40 < 4 * 5000 / documents < 60
    assert np.all(np.diff(lo) >= 0)
    assert np.all(lo <= np.arange(5000))


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_candidates_compute_the_same(mask):
    """Faster than something else is no merit; the reference is the judge."""
    case = make_case(mask, batch=2)
    q, k, v, _, ranges = case.inputs()
    documents = ranges if mask.kind == "documents" else None
    expected = attention(q, k, v, documents, window=mask.window, impl="reference").out
    for function in (attention_bench.attention_xla, attention_bench.attention_jax_nn):
        np.testing.assert_allclose(function(q, k, v, documents, window=mask.window), expected, atol=1e-5)
    everything = attention(q, k, v, None, window=None, impl="reference").out
    assert mask.kind == "causal" or np.abs(everything - expected).max() > 0.1


def test_a_small_run_has_every_column(tmp_path, capsys):
    flags = "--lengths 64,128 --heads 2/1 --head-dims 16 --tokens 128 --passes forward --masks window:16"
    sizes = "--batches 2 --vocab-size 64 --width 16 --chunk-tokens 32 --repeats 2"
    what = "--what attention,decode,cross_entropy"
    assert (
        main([*flags.split(), *sizes.split(), *what.split(), "--out", str(tmp_path), "--name", "small"]) == 0
    )
    written = json.loads((tmp_path / "small.json").read_text())
    records = written["records"]
    assert all(set(record) >= COLUMNS for record in records)
    assert {record["what"] for record in records} == {"attention", "decode", "cross_entropy"}
    everyone = {*attention_bench.PLAIN, *IMPLEMENTATIONS}
    for length in (64, 128):
        here = [r for r in records if (r["what"], r["length"]) == ("attention", length)]
        assert {(record["impl"], record["mask"]) for record in here} == {
            (impl, "window 16") for impl in everyone
        }
        assert [record["impl"] for record in here if record["auto"]] == ["chunked"]
    ran = [record for record in records if record["status"] == "ran"]
    for record in ran:
        assert 0 < record["ms_low"] <= record["ms"] <= record["ms_high"]
        assert record["tflops"] == pytest.approx(record["flops"] / record["ms"] / 1e9)
        assert record["temp_bytes"] >= 0
        assert record["samples"] == 2
        if record["impl"] == "xla":
            assert record["times_baseline"] == 1
        assert record["peak_share"] is None or record["what"] != "decode"
    assert all(record["reason"] for record in records if record["status"] != "ran")
    assert any(record["impl"] == "triton" and "NVIDIA GPU" in (record["reason"] or "") for record in records)
    report_text = (tmp_path / "small.md").read_text()
    assert capsys.readouterr().out == report_text
    assert "Peak: " in report_text
    assert "best float32 matrix product of this run" in report_text
    assert "| triton |" in report_text
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")


def test_places_are_named_where_only_some_did_not_run():
    record = {"what": "attention", "impl": "xla", "mask": "causal", "pass": "forward", "heads": "4/2"}
    record |= {"head_dim": 64, "batch": 1, "dtype": "float32", "auto": False, "times_baseline": 1.0}
    record |= {
        "peak_share": None,
        "temp_bytes": None,
        "ms": 1.0,
        "ms_low": 1.0,
        "ms_high": 1.0,
        "tflops": 1.0,
    }
    ran = record | {"length": 512, "status": "ran", "reason": None}
    refused = [
        record | {"length": length, "status": "refused", "reason": "it needs 17 GiB"}
        for length in range(1, 9)
    ]
    text = report.markdown({"device": "x", "command": "y", "notes": "z"}, [ran, *refused], [])
    assert (
        "| xla | causal T1, causal T2, causal T3, causal T4, causal T5, causal T6 and 2 more | it needs"
        in text
    )


def run_nothing(calls: int) -> None:
    del calls


def test_who_does_not_run_is_listed_with_the_reason():
    def refuses() -> Prepared:
        raise CannotRunError("no time")

    def is_not_for_this() -> Prepared:
        raise ValueError("attention impl=x cannot run: it needs a GPU")

    def breaks() -> Prepared:
        raise ValueError("shapes differ\nat length")

    def is_too_large() -> Prepared:
        return prepare_jax(
            lambda x: x @ x.T, (jax.numpy.ones((1024, 1)),), LIMITS._replace(memory_bytes=2**20)
        )

    candidates = {"a": refuses, "b": is_not_for_this, "c": breaks, "d": is_too_large}
    ready = Candidate("e", lambda: Prepared(run_nothing, None))
    comparison = Comparison(
        {"what": "attention", "length": 1, "mask": "causal"},
        1,
        None,
        "xla",
        (*(Candidate(impl, prepare) for impl, prepare in candidates.items()), ready),
    )
    found = report.records(comparison, compare(comparison, LIMITS))
    assert [(record["impl"], record["status"], record["reason"]) for record in found] == [
        ("a", "refused", "no time"),
        ("b", "refused", "it needs a GPU"),
        ("c", "failed", "ValueError: shapes differ"),
        ("d", "refused", "needs 0.0 GiB of memory, more than --memory-gib 0.000976562"),
        ("e", "ran", None),
    ]
    assert [record["ms"] is None for record in found] == [True, True, True, True, False]


def test_candidates_take_turns():
    order = []

    def prepare(impl: str) -> Prepared:
        return Prepared(lambda calls: order.append(impl), None)

    candidates = tuple(Candidate(impl, lambda impl=impl: prepare(impl)) for impl in "ab")
    compare(Comparison({}, 1, None, "a", candidates), LIMITS)
    assert order[-6:] == list("ababab")


def test_a_slow_candidate_is_not_repeated():
    limits = LIMITS._replace(max_seconds=1e-9)
    (found,) = compare(
        Comparison({}, 1, None, "a", (Candidate("a", lambda: Prepared(run_nothing, None)),)), limits
    )
    assert found.status == "refused"
    assert "more than --max-seconds" in (found.reason or "")


def test_carried_arguments_are_the_next_call_s():
    start = np.zeros(3, np.float32)
    seen = []

    def step(x):
        jax.debug.callback(lambda value: seen.append(float(value[0])), x)
        return x + 1, x

    prepared = prepare_jax(step, (jax.numpy.asarray(start),), LIMITS, carry=1)
    prepared.run(3)
    prepared.run(1)
    jax.effects_barrier()
    assert seen == [0, 1, 2, 3]


def test_spread_is_quartiles():
    assert spread((1.0,)) == (1.0, 1.0, 1.0)
    assert spread((5.0, 1.0, 3.0, 2.0, 4.0)) == (2.0, 3.0, 4.0)


def test_a_cpu_s_peak_is_measured():
    assert peak_flops(current_device(), "float32") is None
    peak = MatmulPeak()
    peak.sample()
    assert 1e9 < peak.best < 1e14


def test_decoding_reads_the_keys_it_sees():
    assert decode.mean_keys_seen(1000) == np.mean(np.arange(1000 - decode.STEPS + 1, 1001))
    assert decode.mean_keys_seen(4) == np.mean([1, 2, 3, *[4] * (decode.STEPS - 3)])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--lengths 0", "'0' is not a positive whole number"),
        ("--lengths 12,x", "'x' is not a positive whole number"),
        ("--heads 3/2", "multiple of those of keys"),
        ("--masks diagonal", "'diagonal' is no mask; use causal, window:1024 or documents:800"),
        ("--masks window:0", "'window:0' is no mask"),
        ("--passes backward", "'backward' is none of forward, forward+backward"),
        ("--what newton", "'newton' is none of attention, decode, cross_entropy"),
        ("--impls magic", "'magic' is none of chunked, "),
        ("--tokens 0", "--tokens is 0; it must be at least 1"),
        ("--max-seconds nan", "'nan' is not a positive number"),
        ("--dtype float8", "invalid choice: 'float8'"),
        ("--out /dev/null/results", "--out: /dev/null/results cannot be made a folder (Not a directory)"),
        ("--frobnicate", "unrecognized arguments: --frobnicate"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(flags, complaint, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(flags.split())
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert message.count("\n") == 1


def test_torch_must_be_there(capsys, monkeypatch):
    monkeypatch.setattr(torch_attention, "is_installed", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main(["--torch"])
    assert "PyTorch is not installed here" in capsys.readouterr().err


def test_a_failure_is_exit_code_1(monkeypatch, capsys):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the compiler gave up")

    monkeypatch.setattr(attention_bench, "attention_xla", broken)
    flags = "--lengths 64 --heads 2/1 --head-dims 16 --tokens 64 --passes forward --masks causal --repeats 1"
    assert main([*flags.split(), "--impls", "xla,chunked"]) == 1
    assert "| xla | everywhere | FAILED: RuntimeError: the compiler gave up |" in capsys.readouterr().out


def test_what_there_was_no_time_for_is_listed(capsys):
    flags = "--lengths 64,128 --heads 2/1 --masks causal --passes forward --total-seconds 1e-9 --impls xla"
    assert main(flags.split()) == 1
    assert "| xla | everywhere | --total-seconds 1e-09 were over |" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["causal", "window:1024", "documents:800"])
def test_masks_are_read_as_they_are_written(text):
    mask = parse_mask(text)
    assert mask.name == text.replace(":", " ")
    assert mask.window == (1024 if "window" in text else None)


def test_a_picture_for_every_shape(tmp_path: Path):
    found = []
    for head_dim in (64, 128):
        for impl, speed in (("xla", 1.0), ("chunked", 2.0)):
            for length in (512, 1024):
                found.append(
                    {"what": "attention", "length": length, "batch": 1, "head_dim": head_dim, "heads": "4/2"}
                    | {"mask": "causal", "pass": "forward", "dtype": "float32", "impl": impl}
                    | {"ms": 1.0, "ms_low": 0.9, "ms_high": 1.1, "flops": 10**9, "tflops": speed}
                )
    paths = report.plot_attention(found, tmp_path, "p", title="Attention", peak=3e12)
    assert [path.name for path in paths] == ["p_H64_4x2.png", "p_H128_4x2.png"]
    assert all(path.stat().st_size > 10_000 for path in paths)
