"""Rollouts on disk: back to the bit, named where they are lost or changed, gone when nobody needs them."""

from pathlib import Path

import numpy as np
import pytest

from samosa_jax.errors import UserError
from samosa_jax.rl.policy_batches import PolicyTokens
from samosa_jax.rl.rollout_store import Rollout, RolloutStore
from samosa_jax.training.run_folder import RunFolder


def rollout(*, is_compared: bool) -> Rollout:
    rng = np.random.default_rng(0)
    values = rng.random(10).astype(np.float32)
    return Rollout(
        tokens=PolicyTokens(
            bounds=np.array([0, 4, 10]),
            tokens=np.arange(10, dtype=np.int32),
            turn_position=np.arange(10, dtype=np.int32),
            sampled=np.arange(10) % 2 == 0,
            logprobs=-values,
        ),
        advantages=rng.normal(size=(1, 2)),
        counts=np.array([[True, False]]),
        old=values if is_compared else None,
        reference=-2 * values if is_compared else None,
    )


@pytest.mark.parametrize("is_compared", [True, False])
def test_what_is_read_is_what_was_written(is_compared: bool, tmp_path: Path):
    store = RolloutStore(tmp_path / "rollouts", steps_needed=list)
    written = rollout(is_compared=is_compared)
    read = store.read(store.write(40, written))
    for name, values in written.tokens._asdict().items():
        np.testing.assert_array_equal(getattr(read.tokens, name), values)
        assert getattr(read.tokens, name).dtype == values.dtype
    for name in ("advantages", "counts", "old", "reference"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert (getattr(read, name) is None) == (getattr(written, name) is None)


def test_a_lost_or_changed_one_is_named(tmp_path: Path):
    store = RolloutStore(tmp_path / "rollouts", steps_needed=list)
    stored = store.write(2, rollout(is_compared=True))
    path = store.path(2)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"00000002.npz has changed since it was written, and the newest"):
        store.read(stored)
    path.unlink()
    with pytest.raises(
        UserError, match=r"00000002.npz is missing, and the newest checkpoint goes on with it"
    ):
        store.read(stored)
    path.mkdir()
    with pytest.raises(UserError, match=r"00000002.npz cannot be written \(Is a directory\)"):
        store.write(2, rollout(is_compared=True))


def test_those_that_nobody_needs_go(tmp_path: Path):
    folder = RunFolder(tmp_path)
    store = RolloutStore(folder.rollouts, steps_needed=lambda: [4])
    for step in (0, 2, 4, 6, 8):
        store.write(step, rollout(is_compared=False))
    (folder.rollouts / "00000010.npz.tmp.npz").write_bytes(b"torn by a kill")
    store.remove_others(8)
    assert sorted(path.name for path in folder.rollouts.iterdir()) == ["00000004.npz", "00000008.npz"]
    folder.cut_back(5)  # to a checkpoint between the minibatches of the rollout at 4
    assert [path.name for path in folder.rollouts.iterdir()] == ["00000004.npz"]
    folder.cut_back(4)  # to one before it: it is written again
    assert not list(folder.rollouts.iterdir())
