"""Inside DeepSpeed: what engine/backends/deepspeed_*.py lean on beyond `initialize` and its
documented settings. Read from source: nothing here imports DeepSpeed."""

from __future__ import annotations

import pytest

from engine.backends.deepspeed_engine import _PARTITIONS
from engine.backends.deepspeed_settings import DEEPSPEED_DECIDED, zero_fields
from upstream.source_text import parameters, text

ENGINE = "deepspeed/runtime/engine.py"
ZERO_12 = "deepspeed/runtime/zero/stage_1_and_2.py"
ZERO_3 = "deepspeed/runtime/zero/stage3.py"
WRAPPER = "deepspeed/runtime/fp16/unfused_optimizer.py"


def test_an_op_is_left_out_by_a_table():
    assert "globals()['__compatible_ops__'] = _probe_compatible_ops()" in text(
        "deepspeed/ops/__init__.py"
    )
    shared_memory = text("deepspeed/ops/op_builder/cpu/comm.py", "ShareMemCommBuilder")
    assert "NAME = 'deepspeed_shm_comm'" in shared_memory
    built = text("deepspeed/comm/torch.py")
    assert "deepspeed.ops.__compatible_ops__.get(builder.NAME, False)" in built


def test_gradients_of_a_micro_batch_are_taken_as_they_are():
    takes = parameters(ENGINE, "DeepSpeedEngine.backward")
    assert takes == ["self", "loss", "retain_graph", "scale_wrt_gas"]
    assert parameters(ENGINE, "DeepSpeedEngine.get_global_grad_norm") == ["self"]
    assert parameters(ENGINE, "DeepSpeedEngine.zero_optimization_stage") == ["self"]
    config = text("deepspeed/runtime/constants.py", "MANAGED_GRADIENT_ACCUMULATION")
    assert "'managed_gradient_accumulation'" in config


@pytest.mark.parametrize(("stage", "file"), [(1, ZERO_12), (2, ZERO_12), (3, ZERO_3)])
def test_the_fp32_weights_of_a_rank_lie_where_they_are_filled(stage, file):
    assert f"self.{_PARTITIONS[stage]} = []" in text(file)
    assert "self.optimizer = init_optimizer" in text(file)


def test_the_optimizers_state_is_linked_to_parameters_once():
    link = "DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state"
    assert parameters(ZERO_12, link) == ["self"]
    inside = text(ZERO_12, link)
    assert "if not self._hp_optimizer_states_linked:" in inside
    assert "self.single_partition_of_fp32_groups[i], self.optimizer.state" in inside


def test_without_zero_a_wrapper_of_bf16_holds_the_fp32_copies():
    chosen = text(ENGINE, "DeepSpeedEngine._configure_fp16_optimizer")
    assert "isinstance(optimizer, fused_opts)" in chosen, "torch's AdamW may get another wrapper"
    built = text(WRAPPER, "FP16_UnfusedOptimizer.__init__")
    assert "self.optimizer = init_optimizer" in built
    assert "self.fp16_groups.append(trainable)" in built
    assert "self.fp32_groups.append(fp32_group)" in built


def test_that_wrapper_takes_a_step_when_it_is_built():
    assert "self.initialize_optimizer_states()" in text(WRAPPER, "FP16_UnfusedOptimizer.__init__")
    made = text(WRAPPER, "FP16_UnfusedOptimizer.initialize_optimizer_states")
    assert "self.optimizer.step()" in made, "its state need not be cleared any more"


def test_the_source_names_the_settings_of_zero():
    names = zero_fields()
    assert {"stage", "offload_optimizer", "reduce_bucket_size", "overlap_comm"} <= set(names)
    assert "stage3_prefetch_bucket_size" in names, "an alias"
    prefix = "zero_optimization."
    for name in DEEPSPEED_DECIDED:
        if name.startswith(prefix):
            assert name.removeprefix(prefix).partition(".")[0] in names


def test_the_accelerator_is_chosen_by_a_variable():
    assert "'DS_ACCELERATOR'" in text("deepspeed/accelerator/real_accelerator.py")
