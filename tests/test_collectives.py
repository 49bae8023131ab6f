"""Collectives read out of HLO: from text by hand, and from programs whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tiny_training import mesh_of

from samosa_jax.parallel.collectives import Traffic, by_kind, read_collectives, total_bytes
from samosa_jax.parallel.scaling import predict_scaling, zero1_bytes

# As XLA prints programs for GPUs, shortened: started and awaited, joined in tuples, in loops and in branches.
PROGRAM = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%region_1 (arg: (s32[], f32[64])) -> (s32[], f32[64]) {
  %inner = (bf16[2,16]{1,0}, bf16[8,16]{1,0}) all-gather-start(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, metadata={op_name="jit(step)/while/body/gather"}
  %done = bf16[8,16]{1,0} all-gather-done(%inner)
}

%condition_1 (arg: (s32[], f32[64])) -> pred[] {
  %compare = pred[] compare(%a, %b), direction=LT
}

%branch_0 (arg: f32[64]) -> f32[64] {
  ROOT %sum = f32[64]{0} all-reduce(%arg), replica_groups={}, to_apply=%add
}

%never_called (arg: f32[64]) -> f32[64] {
  ROOT %sum.2 = f32[64]{0} all-reduce(%arg), replica_groups={}, to_apply=%add
}

ENTRY %main (p: f32[64]) -> f32[64] {
  %w = (s32[], f32[64]) while(%t), condition=%condition_1, body=%region_1, backend_config={"known_trip_count":{"n":"5"}}
  %c = f32[64] conditional(%i, %x, %y), branch_computations={%branch_0, %branch_0}
  %scatter = ((f32[80]{0}, f32[16,10]{1,0}), (f32[10]{0}, f32[2,10]{1,0})) reduce-scatter-start(%x, %y), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %exchange = ((f32[8,2]{1,0}), f32[8,2]{1,0}) all-to-all-start(%x), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  %half = f32[8,2]{1,0} all-to-all(%x), replica_groups=mesh['axis_0'=8] {'axis_0':(2)4}, dimensions={0}
  %permute = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
}
"""  # noqa: E501


def test_every_form_is_counted_once_with_its_bytes():
    found = {(one.kind, one.in_loop, one.op_name): one for one in read_collectives(PROGRAM)}
    gather = found["all-gather", True, "jit(step)/while/body/gather"]
    assert (gather.bytes, gather.group_size, gather.times, gather.dtypes) == (8 * 16 * 2, 4, 5, ("bf16",))
    assert gather.wire_bytes == 256 * 3 // 4
    assert by_kind(found.values())["all-gather"] == Traffic(operations=1, wire_bytes=5 * 192, in_loop=1)
    reduce = found["all-reduce", False, ""]
    assert (reduce.bytes, reduce.group_size, reduce.wire_bytes) == (256, 8, 2 * 256 * 7 // 8)
    scatter = found["reduce-scatter", False, ""]
    assert (scatter.bytes, scatter.wire_bytes) == (4 * (80 + 160), 4 * 240 * 7 // 8)
    exchanges = [one for one in read_collectives(PROGRAM) if one.kind == "all-to-all"]
    assert [(one.bytes, one.group_size) for one in exchanges] == [(64, 4), (64, 4)]
    assert found["collective-permute", False, ""].wire_bytes == 24
    assert len(read_collectives(PROGRAM)) == 6  # what is never called does not run


def test_groups_that_are_not_understood_are_an_error():
    with pytest.raises(ValueError, match="not understood: ROOT %sum"):
        read_collectives(PROGRAM.replace("replica_groups={}", "replica_groups=all"))


def test_a_compiled_loop_is_told_from_what_stands_outside():
    mesh = mesh_of(data=8)
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def each(x):
        total = jax.lax.psum(x, "data")
        return jax.lax.fori_loop(0, 3, lambda _, y: y + jax.lax.all_gather(y, "data").sum(0), total)

    program = jax.jit(
        jax.shard_map(
            each,
            mesh=mesh,
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )
    )
    text = program.lower(jax.ShapeDtypeStruct((800,), jnp.float32, sharding=rows)).compile().as_text()
    assert text is not None
    traffic = by_kind(read_collectives(text))
    assert traffic["all-reduce"] == Traffic(operations=1, wire_bytes=2 * 400 * 7 // 8, in_loop=0)
    assert traffic["all-gather"].in_loop == 1
    assert traffic["all-gather"].wire_bytes == 3 * 3200 * 7 // 8
    assert total_bytes(read_collectives(text)) == 700 + 8400


def test_prediction_by_hand():
    # 1 B parameters: 2 GB gathered, 4 GB scattered, seven eighths of each sent, at 450 GB/s.
    sent = zero1_bytes(1_000_000_000, replicas=8)
    assert sent == 5_250_000_000
    scaling = predict_scaling(
        sent_bytes=sent,
        link_bandwidth=450e9,
        tokens_per_step=2**20,
        flops_per_token=6e9,
        num_devices=8,
        peak_flops=989e12,
        mfu=0.5,
    )
    assert scaling.link_seconds == pytest.approx(5.25 / 450)
    assert scaling.compute_seconds == pytest.approx(2**20 * 6e9 / (8 * 0.5 * 989e12))
    assert scaling.efficiency == pytest.approx(1.59 / (1.59 + 0.01167), abs=1e-3)
    assert zero1_bytes(1_000, replicas=1) == 0
