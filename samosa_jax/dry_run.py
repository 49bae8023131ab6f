"""The dry run of training: two steps on random tokens, and what they cost."""

import time
from functools import partial

import jax

from samosa_jax.announcing import describe
from samosa_jax.batch_fitting import refuse_too_large, resolve_device_batch
from samosa_jax.beginning import make_state
from samosa_jax.config import Config, with_steps
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.parallel.sharding import param_shardings
from samosa_jax.same_start import check_alike, describe_program
from samosa_jax.sizes import flops_per_token
from samosa_jax.stages import build, synthetic_batch
from samosa_jax.training.display import format_seconds
from samosa_jax.training.environment import bytes_per_device, device_memory_bytes, peak_bytes

STAND_IN_STEPS = 1_000_000  # of the schedule, where the steps are those of epochs: data are not read here


def dry_run(config: Config, *, group: ProcessGroup) -> None:
    """Two steps on random tokens, and what they cost. Writes nothing."""
    check_alike(group, describe_program(config), mend="start all with the same command and the same code")
    say = partial(print, flush=True) if group.is_first else lambda line: None
    is_counted = config.train.num_steps > 0
    if not is_counted:
        config = with_steps(config, STAND_IN_STEPS)
    config = resolve_device_batch(config, recorded=None, say=say)
    machinery = build(config)
    refuse_too_large(config, machinery, limit_bytes=device_memory_bytes(), say=say)
    for line in describe(config, machinery):
        say(line)
    batch = machinery.row_share.of(synthetic_batch(config))
    seconds, losses = [], []
    state = jax.block_until_ready(make_state(machinery, seed=config.seed, folder=None, origin=None))
    frozen = None
    if machinery.needs_frozen:
        shardings = param_shardings(machinery.network.info, machinery.mesh)
        frozen = jax.jit(machinery.network.init, out_shardings=shardings)(jax.random.key(config.seed))
    sizes = {"parameters": bytes_per_device(state.params), "optimizer": bytes_per_device(state.opt_state)}
    for _ in range(2):
        begun = time.perf_counter()
        state, metrics = machinery.train_step(state, machinery.put(batch), frozen)
        losses.append(float(jax.device_get(metrics.loss)))
        seconds.append(time.perf_counter() - begun)
    say(f"FLOPs per token: {flops_per_token(config.model):,}")
    say("bytes per device: " + ", ".join(f"{kind} {size:,}" for kind, size in sizes.items()))
    say(f"peak memory: {peak_bytes():,} bytes")
    say(f"losses: {losses[0]:.4f}, {losses[1]:.4f}")
    say(
        f"first step {seconds[0]:.2f} s (compilation with it), second step {seconds[1]:.3f} s, "
        f"{config.train.batch_tokens / seconds[1]:,.0f} tokens/s"
    )
    whole = format_seconds(seconds[1] * config.train.num_steps)
    length = f"the run would take {whole} at this pace" if is_counted else "its data say how long the run is"
    say(f"{length}; nothing was written")
