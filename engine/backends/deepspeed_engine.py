"""DeepSpeed ZeRO as a training engine: TrainSpec -> configuration, and step, validate, save, load,
export on top of it.

The optimizer is torch's fused AdamW at every stage and on every device, so its state has one form
and a checkpoint moves between ZeRO stages, world sizes and offload. Loss functions, files and
schedules are the caller's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import distributed, nn

from engine.backends.deepspeed_settings import REDUCE_BUCKET, zero_config
from engine.errors import StageError
from engine.job.spec import TrainSpec

# Where DeepSpeed's ZeRO optimizers keep this rank's fp32 weights, by stage.
_PARTITIONS = {
    1: "single_partition_of_fp32_groups",
    2: "single_partition_of_fp32_groups",
    3: "fp32_partitioned_groups_flat",
}
_MOMENTS = ("exp_avg", "exp_avg_sq")
_PARTS = ("weight", *_MOMENTS)


def build(spec: TrainSpec, student: Any, *, device: str) -> DeepSpeedEngine:
    """Wrap `student`, a module whose forward gives the summed loss and the number of right tokens;
    what has a gradient is trained.

    torch.distributed must be initialised: gloo on CPU, nccl on GPU. StageError if DeepSpeed refuses
    what `spec.deepspeed` adds.
    """
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    # A shared-memory all-reduce that only DeepSpeed's inference uses; here it would cost a
    # compilation per machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.WARNING)
    named = {}
    for name, param in student.named_parameters():
        if param.requires_grad:
            named[name] = param
    config = zero_config(spec, device)
    # ZeRO-3 allocates the whole bucket for good, however small the student: 2 GB in fp32.
    count = sum(param.numel() for param in named.values())
    bucket = min(REDUCE_BUCKET, count)
    config["zero_optimization"].setdefault("reduce_bucket_size", bucket)
    try:
        if spec.zero_stage == 3:
            # Now, weight by weight: initialize would first move the whole module, teacher and all,
            # to the device.
            deepspeed.zero.Init(module=student, config_dict_or_path=config)
        engine, *_ = deepspeed.initialize(
            model=student,
            # Annotated as a module, documented as an iterable, and used as one.
            model_parameters=list(named.values()),  # ty: ignore[invalid-argument-type]
            config=config,
        )
    # Its ways of refusing a setting, pydantic's among them.
    except (AssertionError, TypeError, ValueError) as error:
        if not spec.deepspeed:
            raise
        said = (
            f"train: DeepSpeed does not start with train.deepspeed={spec.deepspeed} ({error});"
            " correct or remove it"
        )
        raise StageError(said) from error
    return DeepSpeedEngine(engine, named, spec)


class DeepSpeedEngine:
    """One rank of a ZeRO job. Every method is collective."""

    def __init__(
        self,
        engine: Any,
        named: dict[str, nn.Parameter],
        spec: TrainSpec,
    ) -> None:
        self._engine = engine
        self._named = named
        self._spec = spec
        self._stage = engine.zero_optimization_stage()
        self._rank = distributed.get_rank()
        self._workers = distributed.get_world_size()
        self._adam = getattr(engine.optimizer, "optimizer", engine.optimizer)
        self._norm: Any = None
        self._copies: dict[nn.Parameter, torch.Tensor] = {}  # at stage 0, of each parameter in fp32
        if not self._stage:
            self._take_over_copies()
            # Between the gradients' all-reduce and the update.
            self._adam.register_step_pre_hook(self._clip)

    def _take_over_copies(self) -> None:
        """Without a ZeRO optimizer the fp32 copies are DeepSpeed's bf16 wrapper's, or the
        parameters themselves."""
        params = [self._named.values()]
        used = getattr(self._engine.optimizer, "fp16_groups", params)
        copies = getattr(self._engine.optimizer, "fp32_groups", params)
        pairs = zip(chain(*used), chain(*copies), strict=True)
        self._copies = dict(pairs)
        # The wrapper takes a step on zero gradients when it is built: a weight decay, and a count
        # that a resume lacks.
        self._adam.state.clear()
        for param, copy in self._copies.items():
            copy.data.copy_(param.data)

    def _clip(self, *_: Any) -> None:
        copies = self._copies.values()
        most = self._spec.max_grad_norm
        self._norm = nn.utils.clip_grad_norm_(copies, most)

    def step(
        self,
        batches: Iterable[Any],
        tokens: int,
        learning_rate: float,
    ) -> tuple[float, float, float]:
        """One optimizer step over `tokens` targets of all ranks: mean loss, token accuracy, and the
        gradients' norm."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        sums = torch.zeros(2, device=self._engine.device)
        for batch in batches:
            loss, correct = self._engine(batch.to(self._engine.device))
            # DeepSpeed averages gradients over workers; the objective is one sum over all of them.
            scale = self._workers / tokens
            self._engine.backward(loss * scale, scale_wrt_gas=False)
            sums += torch.stack([loss.detach(), correct])
        # at stage 0 a step that DeepSpeed skips (bf16, gradients not finite) clips nothing
        self._norm = None
        self._engine.step()
        norm = self._norm
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        distributed.all_reduce(sums)
        loss, accuracy = (sums / tokens).tolist()
        return loss, accuracy, float(norm)

    def validate(self, batches: Iterable[Any], tokens: int) -> float:
        """Mean loss over `tokens` target tokens of all ranks."""
        self._engine.eval()
        total = torch.zeros((), device=self._engine.device)
        with torch.no_grad():
            for batch in batches:
                loss, _ = self._engine(batch.to(self._engine.device))
                total += loss
        self._engine.train()
        distributed.all_reduce(total)
        return float(total) / tokens

    def save(self) -> dict[str, Any]:
        """Whole fp32 tensors of every n-th parameter: "weight/…", "exp_avg/…", "exp_avg_sq/…"."""
        share = {}
        for number, (name, param) in enumerate(self._named.items()):
            # Gathering is collective, so every rank gathers what one of them keeps.
            whole = {part: self._gather(param, part) for part in _PARTS}
            if number % self._workers == self._rank:
                for part, tensor in whole.items():
                    plain = tensor.detach().float()
                    share[f"{part}/{name}"] = plain.cpu().clone()
        return share

    def _gather(self, param: nn.Parameter, part: str) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if not self._stage:
            return self._copy(param, part)
        if part == "weight":
            return safe_get_full_fp32_param(param)
        return safe_get_full_optimizer_state(param, part)

    def _copy(self, param: nn.Parameter, part: str) -> torch.Tensor:
        copy = self._copies[param]
        if part == "weight":
            return copy.data
        return self._adam.state[copy][part]

    def load(self, tensors: Mapping[str, Any], step: int) -> None:
        """Go on as after `step` steps, from tensors that any ZeRO stage and number of workers
        saved.

        StageError under NVMe offload: the optimizer's tensors are then DeepSpeed's files, which
        nobody else can fill.
        """
        import deepspeed

        if self._spec.offload == "nvme":
            raise StageError(
                f"train: step {step} is saved, but with train.offload: nvme DeepSpeed cannot go on"
                " from it; set train.offload: cpu (the"
                " checkpoint fits, and the job stays the same) and give the command again"
            )
        self._make_adam_state(step)
        is_shared_out = self._stage == 3
        for name, param in self._named.items():
            gathered = deepspeed.zero.GatheredParameters(
                [param],
                modifier_rank=0,
                enabled=is_shared_out,
            )
            with gathered:
                if not is_shared_out or self._rank == 0:
                    param.data.copy_(tensors[f"weight/{name}"])
            for part in _PARTS:
                saved = tensors[f"{part}/{name}"]
                self._scatter(param, part, saved.to(self._engine.device))

    def _make_adam_state(self, step: int) -> None:
        """AdamW makes its state at the first step; setting it earlier needs the same tensors
        there."""
        zero = self._engine.optimizer
        tensors: Iterable[torch.Tensor] = self._copies.values()
        if self._stage:
            tensors = getattr(zero, _PARTITIONS[self._stage])
        for tensor in tensors:
            state = {"step": torch.tensor(float(step), device=tensor.device)}
            for name in _MOMENTS:
                state[name] = torch.zeros_like(tensor, requires_grad=False)
            self._adam.state[tensor] = state
        if self._stage in (1, 2):
            # DeepSpeed links each parameter to its part of these once: again, now that they are
            # others.
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def _scatter(self, param: nn.Parameter, part: str, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if not self._stage:
            self._copy(param, part).copy_(value)
        elif part == "weight":
            safe_set_full_fp32_param(param, value)
        else:
            safe_set_full_optimizer_state(param, value, part)

    def export(self) -> dict[str, Any] | None:
        """What was trained, in its compute type, on the CPU of rank 0; None elsewhere."""
        import deepspeed

        weights = {}
        is_shared_out = self._stage == 3
        keeps = self._rank == 0
        for name, param in self._named.items():
            with deepspeed.zero.GatheredParameters([param], enabled=is_shared_out):
                if keeps:
                    weights[name] = param.detach().cpu().clone()
        return weights if keeps else None
