"""The training step on one device: its numbers, accumulation under ragged masks, the guard, donation."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import LENGTH, LOSS, ROWS, mesh_of, new_state, new_step, ragged_batch

from samosa_jax.training.losses import LossOutput
from samosa_jax.training.state import TrainState
from samosa_jax.training.step import accumulate, put_batch

GOLDEN = Path(__file__).parent / "golden" / "step_pretrain.json"
SOUND = {"loss": np.float32(0), "gradient": np.float32(0)}


def poisoned_loss(params, batch, frozen) -> LossOutput:
    """The pretraining loss, with an addend in the loss and one in nothing but its gradient."""
    output = LOSS(params, batch, frozen)
    nothing = params["head"][0, 0] - jax.lax.stop_gradient(params["head"][0, 0])
    return output._replace(sum=output.sum + frozen["loss"] + frozen["gradient"] * nothing)


@pytest.fixture(scope="module")
def mesh():
    return mesh_of()


@pytest.fixture(scope="module")
def step(mesh):
    return new_step(mesh, loss_fn=poisoned_loss)


@pytest.fixture(scope="module")
def initial(mesh):
    return jax.device_get(new_state(mesh))


def put(batch, mesh, num_microbatches=1):
    return put_batch(batch, num_microbatches=num_microbatches, mesh=mesh)


def on_device(state: TrainState, mesh) -> TrainState:
    """A copy that may be donated."""
    return jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def assert_same_bits(left, right):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(left), jax.device_get(right))


def test_first_steps_match_the_golden_numbers(step, initial, mesh):
    state, found = on_device(initial, mesh), []
    for index in range(2):
        state, metrics = step(state, put(ragged_batch(index), mesh), SOUND)
        numbers = {name: float(value) for name, value in metrics._asdict().items() if name != "extra"}
        numbers |= {f"extra.{name}": float(value) for name, value in metrics.extra.items()}
        norms = {
            jax.tree_util.keystr(path): float(jnp.linalg.norm(leaf.ravel()))
            for path, leaf in jax.tree.leaves_with_path(state.params)
        }
        found.append({"metrics": numbers, "parameter_norms": norms})
    if os.environ.get("SAMOSA_UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    advice = f"if the change is meant, rerun with SAMOSA_UPDATE_GOLDEN=1 and commit {GOLDEN.name}"
    for ours, theirs in zip(found, expected, strict=True):
        for part in ("metrics", "parameter_norms"):
            assert ours[part].keys() == theirs[part].keys(), advice
            for name, value in theirs[part].items():
                assert ours[part][name] == pytest.approx(value, rel=1e-4, abs=1e-6), f"{name}: {advice}"


def test_loss_is_the_mean_of_nll_and_step_lr_and_tokens_are_reported(step, initial, mesh):
    batch = ragged_batch()
    microbatch = jax.tree.map(jnp.asarray, batch)
    output = jax.jit(LOSS)(jax.tree.map(jnp.asarray, initial.params), microbatch, None)
    state, metrics = step(on_device(initial, mesh), put(batch, mesh), SOUND)
    np.testing.assert_allclose(metrics.loss, output.metrics["nll"] / batch.weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(
        metrics.extra["z_loss"], output.metrics["z_loss"] / batch.weights.sum(), rtol=1e-4
    )
    assert metrics.tokens == batch.weights.sum()
    np.testing.assert_allclose(metrics.lr, 0.01)  # half of it: the first of two warm-up steps
    assert (state.step, metrics.skipped, metrics.bad_steps) == (1, 0, 0)


def test_overfits_one_batch(step, initial, mesh):
    state, batch = on_device(initial, mesh), put(ragged_batch(), mesh)
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch, SOUND)
        losses.append(float(metrics.loss))
    assert losses[0] == pytest.approx(np.log(61), rel=0.02)
    assert losses[-1] < 0.5


def test_accumulation_is_exact_under_ragged_masks(initial):
    batch = ragged_batch()
    supervised = batch.weights.reshape(4, -1).sum(axis=1)
    assert supervised.max() > 3 * supervised.min()  # the microbatches do weigh differently
    gradient = jax.jit(lambda params, batch: accumulate(LOSS, params, batch, None))

    def means(num_microbatches, batch):
        parts = jax.tree.map(lambda array: array.reshape(num_microbatches, -1, LENGTH), batch)
        output, sums = gradient(initial.params, parts)
        return output, jax.tree.map(lambda leaf: np.asarray(leaf) / float(output.weight), sums)

    whole, expected = means(1, batch)
    for num_microbatches in (2, 4):
        output, grads = means(num_microbatches, batch)
        np.testing.assert_allclose(output.sum, whole.sum, rtol=1e-6)
        assert output.weight == whole.weight
        for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max() + 1e-9)
    # The mean of the halves' means is another gradient: what is compared above does depend on the division.
    halves = [
        means(1, jax.tree.map(lambda array, rows=rows: array[rows], batch))[1]["head"]
        for rows in np.split(np.arange(ROWS), 2)
    ]
    assert np.abs(np.mean(halves, axis=0) - expected["head"]).max() > 0.05 * np.abs(expected["head"]).max()


@pytest.mark.parametrize("num_microbatches", [2, 4])
def test_accumulated_step_updates_alike(step, initial, mesh, num_microbatches):
    after = [
        step(on_device(initial, mesh), put(ragged_batch(), mesh, microbatches), SOUND)
        for microbatches in (1, num_microbatches)
    ]
    (alone, alone_metrics), (accumulated, metrics) = after
    np.testing.assert_allclose(metrics.loss, alone_metrics.loss, rtol=1e-6)
    np.testing.assert_allclose(metrics.grad_norm, alone_metrics.grad_norm, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(accumulated.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max() + 1e-9)


@pytest.mark.parametrize(
    "poison", [{"loss": np.nan}, {"loss": np.inf}, {"gradient": np.nan}, {"gradient": 3e38}], ids=str
)
def test_a_non_finite_step_changes_nothing_but_the_counters(step, initial, mesh, poison):
    before, _ = step(on_device(initial, mesh), put(ragged_batch(), mesh), SOUND)
    kept = jax.device_get(before)
    bad = {**SOUND, **{name: np.float32(value) for name, value in poison.items()}}
    state, metrics = step(before, put(ragged_batch(1), mesh), bad)
    assert_same_bits(state.params, kept.params)
    assert_same_bits(state.opt_state, kept.opt_state)
    assert (state.step, metrics.skipped, metrics.bad_steps) == (2, 1, 1)
    state, metrics = step(state, put(ragged_batch(1), mesh), bad)
    assert (metrics.skipped, metrics.bad_steps) == (1, 2)
    # Sound again: as if the bad steps had not been, but for the schedule, which has moved on.
    state, metrics = step(state, put(ragged_batch(2), mesh), SOUND)
    assert (state.step, state.bad_steps, metrics.skipped, metrics.bad_steps) == (4, 0, 0, 0)
    expected, _ = step(
        on_device(
            TrainState(step=np.int32(3), params=kept.params, opt_state=kept.opt_state, bad_steps=np.int32(0)),
            mesh,
        ),
        put(ragged_batch(2), mesh),
        SOUND,
    )
    assert_same_bits(state, expected)
    assert any(
        np.any(new != old)
        for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(kept.params), strict=True)
    )


def test_a_batch_without_supervised_token_changes_nothing_and_is_no_bad_step(step, initial, mesh):
    before, _ = step(on_device(initial, mesh), put(ragged_batch(), mesh), SOUND)
    kept = jax.device_get(before)
    empty = ragged_batch(1)._replace(weights=np.zeros((ROWS, LENGTH), np.float32))
    state, metrics = step(before, put(empty, mesh), SOUND)
    assert (metrics.loss, metrics.tokens, metrics.skipped, metrics.bad_steps) == (0, 0, 0, 0)
    assert_same_bits((state.params, state.opt_state), (kept.params, kept.opt_state))
    assert state.step == 2


def test_the_state_is_donated(step, initial, mesh):
    state = on_device(initial, mesh)
    step(state, put(ragged_batch(), mesh), SOUND)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_any_optax_transformation_will_do(mesh, initial):
    from samosa_jax.training.step import make_train_step

    optimizer = optax.sgd(0.1)
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = TrainState(
        step=jnp.int32(0),
        params={"w": jnp.float32(3)},
        opt_state=optimizer.init({"w": jnp.float32(3)}),
        bad_steps=jnp.int32(0),
    )

    def loss_fn(params, batch, frozen):
        return LossOutput(
            sum=jnp.sum(batch["x"] * params["w"] ** 2), weight=jnp.float32(batch["x"].size), metrics={}
        )

    plain = make_train_step(
        loss_fn,
        optimizer,
        learning_rate=lambda step: jnp.float32(0.1),
        shardings=jax.tree.map(lambda _: replicated, state),
    )
    state, metrics = plain(state, put({"x": np.ones((2, 4), np.float32)}, mesh), None)
    np.testing.assert_allclose(
        (state.params["w"], metrics.loss, metrics.grad_norm), (3 - 0.6, 9, 6), rtol=1e-6
    )


def test_put_batch_keeps_the_order_of_rows_and_spreads_each_microbatch():
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    rows = np.arange(16 * 3, dtype=np.int32).reshape(16, 3)
    placed = put_batch({"x": rows}, num_microbatches=2, mesh=mesh)["x"]
    np.testing.assert_array_equal(np.asarray(placed).reshape(16, 3), rows)
    assert placed.shape == (2, 8, 3)
    for shard in placed.addressable_shards:
        assert shard.data.shape == (2, 2, 3)
        assert np.all(np.diff(np.asarray(shard.data)[:, :, 0], axis=1) == 3)  # neighbours stay together
    with pytest.raises(ValueError, match="16 rows do not divide into 3 microbatches"):
        put_batch({"x": rows}, num_microbatches=3, mesh=mesh)
