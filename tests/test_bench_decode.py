"""The benchmark of decoding: its numbers hang together, and a peer runs beside it."""

import json
from pathlib import Path

import pytest

from samosa_jax import bench_decode
from samosa_jax.errors import UserError

SMALL = ["--depth=1", "--vocab_size=256", "--prompt_tokens=8", "--new_tokens=16", "--rounds=1"]


def test_it_measures_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "decode.json"
    peer = "python -c 'print(\"tokens_per_sec {batch}0.0\")'"
    bench_decode.main([*SMALL, "--batches=1,3", f"--json={out}", f"--peer={peer}"])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert [result["batch"] for result in record["results"]] == [1, 3]
    for result in record["results"]:
        assert result["peer_tokens_per_sec"] == 10 * result["batch"]
        steps_per_sec = 1e3 / result["ms_per_step"]
        assert result["decode_tokens_per_sec"] == pytest.approx(result["batch"] * steps_per_sec)
        assert result["num_compiled"] == 0
        assert 0 < result["bandwidth_share"] < 2
    said = capsys.readouterr().out
    assert "nanochat's shape of depth 1" in said
    assert "ratio" in said


def test_the_shape_is_that_of_the_peers():
    model = bench_decode.nanochat_shape(6, vocab_size=32_768, context_len=2048)
    assert (model.model_dim, model.num_heads, model.head_dim, model.mlp_dim) == (384, 3, 128, 1536)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batches=1,x"], "--batches is '1,x'; expected numbers from 1 on with commas"),
        (["--batches=0"], "--batches is '0'"),
        (["--prompt_tokens=3000", "--run=nowhere"], "nowhere"),
        (["--rounds=0"], "--rounds is 0; it must be at least 1"),
        (["--prompt_tokens=0"], "--prompt_tokens is 0"),
        (["--new_tokens=4", "--block_tokens=4"], "--new_tokens is 4; what follows the first block of 4"),
        (["--temperature=-1"], "--temperature is -1.0; it must be at least 0"),
        (["--json=/"], "--json is /, a folder"),
        (["--batches=1", "--peer=no-such-program {batch}"], "--peer: 'no-such-program 1' cannot be run"),
        (["--batches=1", "--peer=echo {size}"], "braces are for batch, prompt_tokens, new_tokens"),
        (["--batches=1", "--peer=python -c 'print(7)'"], "said '7'; expected a line tokens_per_sec N"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], message: str):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace("?", r"\?")):
        bench_decode.main([*SMALL, *flags])
