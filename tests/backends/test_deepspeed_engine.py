"""ZeRO stages, world sizes and offload are placement: the same numbers come out, and a checkpoint
moves between them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from engine.backends.deepspeed_engine import build
from engine.backends.deepspeed_settings import zero_config
from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.training.data import TokenSequence
from engine.training.packing import write_blocks

HALF, WHOLE = 3, 6
ROOT = Path(__file__).parents[2]


def run_ranks(
    folder: Path, name: str, workers: int, runs: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Fresh processes, one per rank; rank 0's results."""
    plan = {
        "store": str(folder / f"{name}.store"),
        "workers": workers,
        "model": str(folder / "model"),
        "blocks": str(folder / "blocks"),
        "result": str(folder / f"{name}.json"),
        "runs": runs,
    }
    (folder / f"{name}.plan").write_text(json.dumps(plan))
    command = [
        sys.executable,
        str(ROOT / "tests/drivers/zero_rank.py"),
        str(folder / f"{name}.plan"),
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*command, str(rank)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(workers)
    ]
    try:
        said = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * workers, "\n".join(said)[-4000:]
    return json.loads((folder / f"{name}.json").read_text())


def run(
    zero_stage: int,
    *,
    load: Path | None = None,
    save: Path | None = None,
    first: int = 0,
    last: int = WHOLE,
    **spec: Any,
) -> dict:
    fields = {
        "precision": "fp32",
        "batch_size": 2,
        "epochs": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.01,
        "max_grad_norm": 0.5,
    }
    return {
        "spec": fields | {"zero_stage": zero_stage} | spec,
        "load": load and str(load),
        "save": save and str(save),
        "first": first,
        "last": last,
    }


LAYOUTS = [
    *({"zero_stage": stage} for stage in (0, 1, 2, 3)),
    {"zero_stage": 2, "offload": "cpu", "batch_size": 1},
    {"zero_stage": 3, "offload": "cpu"},
    {"zero_stage": 3, "gradient_checkpointing": True, "batch_size": 3},
    *({"zero_stage": stage, "precision": "bf16"} for stage in (0, 1, 2, 3)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    config.hidden_size, config.tie_word_embeddings, config.num_hidden_layers = 48, False, 3
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "teacher")
    rng = np.random.default_rng(0)
    rows = [
        TokenSequence(rng.integers(0, 48, n, dtype=np.int32), np.arange(n) >= n // 2)
        for n in rng.integers(4, 30, 40)
    ]
    write_blocks(rows, folder / "blocks", "train", room=32, seed=0)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict[str, Any]]:
    """All that one process is enough for, by name: its start is dearer than all its runs.

    ZeRO-2 the whole way in fp32 and bf16 with a checkpoint half way; each stage in both, with a
    resume from half way; and adapters with matched layers, with a resume too.
    """
    runs = {
        "half": run(2, last=HALF, save=folder / "half"),
        "whole": run(2, save=folder / "end"),
        "whole-bf16": run(2, precision="bf16"),
        "half-bf16": run(2, precision="bf16", last=HALF, save=folder / "half-bf16"),
    }
    for precision in ("fp32", "bf16"):
        more = {"precision": precision, "weight_decay": 0.5}
        for stage in (0, 1, 2, 3):
            runs |= resumed_half_way(f"{precision}-{stage}", folder, stage, **more)
    matched = KINDS["teacher"] | {"teacher": {"model": str(folder / "teacher")}}
    runs |= resumed_half_way("both", folder, 3, **KINDS["lora"] | matched, precision="bf16")
    return dict(zip(runs, run_ranks(folder, "alone", 1, list(runs.values())), strict=True))


def resumed_half_way(name: str, folder: Path, stage: int, **spec: Any) -> dict[str, dict[str, Any]]:
    """Runs of the whole way, of its first half with a checkpoint, and of the rest from there."""
    half = folder / f"exact-{name}"
    return {
        f"{name} whole": run(stage, **spec),
        f"{name} half": run(stage, last=HALF, save=half, **spec),
        f"{name} resumed": run(stage, load=half, first=HALF, **spec),
    }


@pytest.fixture(scope="module")
def resumed(folder: Path, alone: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Two processes go on from that checkpoint in every layout."""
    return run_ranks(
        folder,
        "resumed",
        2,
        [
            run(
                layout["zero_stage"],
                first=HALF,
                save=folder / f"resumed-{at}",
                load=folder / ("half-bf16" if "precision" in layout else "half"),
                **{key: value for key, value in layout.items() if key != "zero_stage"},
            )
            for at, layout in enumerate(LAYOUTS)
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "at", range(len(LAYOUTS)), ids=[" ".join(map(str, layout.values())) for layout in LAYOUTS]
)
def test_two_workers_in_any_layout_continue_one_workers_checkpoint(
    at: int, folder: Path, alone: dict[str, dict[str, Any]], resumed: list[dict[str, Any]]
) -> None:
    bf16 = "precision" in LAYOUTS[at]
    reference = alone["whole-bf16" if bf16 else "whole"]
    tolerance = 2e-2 if bf16 else 1e-4
    assert resumed[at]["losses"] == pytest.approx(reference["losses"][HALF:], rel=tolerance)
    assert resumed[at]["norms"] == pytest.approx(reference["norms"][HALF:], rel=5 * tolerance)
    assert resumed[at]["validation"] == pytest.approx(reference["validation"], rel=tolerance)
    exported = torch.load(folder / f"resumed-{at}.pt")
    assert {tensor.dtype for tensor in exported.values()} == {
        torch.bfloat16 if bf16 else torch.float32
    }
    assert exported.keys() == torch.load(folder / "alone-1.pt").keys()
    if not bf16:
        (share,) = (folder / f"end/step-{WHOLE:06d}").glob("share-*")
        whole = load_file(share)
        shares = [
            load_file(file)
            for file in sorted((folder / f"resumed-{at}/step-{WHOLE:06d}").glob("share-*"))
        ]
        assert len(shares) == 2
        assert not shares[0].keys() & shares[1].keys()
        merged = shares[0] | shares[1]
        assert merged.keys() == whole.keys()
        for name, tensor in whole.items():
            torch.testing.assert_close(merged[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resume_in_the_same_layout_is_exact(
    alone: dict[str, dict[str, Any]], precision: str, stage: int
) -> None:
    whole, resumed = (alone[f"{precision}-{stage} {part}"] for part in ("whole", "resumed"))
    assert resumed["losses"] == whole["losses"][HALF:]
    assert resumed["validation"] == whole["validation"]


KINDS = {
    "lora": {"lora": {"rank": 4}},
    "teacher": {
        "loss": "forward_kl",
        "teacher": {"model": "teacher"},
        "hidden": {"layers": [[1, 2]]},
        "attention_transfer": {"layers": [[2, 3]]},
    },
}


@pytest.mark.proof
def test_adapters_and_live_teachers_train_alike_in_every_layout(folder: Path) -> None:
    def runs(*stages: int, **more: Any) -> list[dict[str, Any]]:
        at_folder = {"teacher": KINDS["teacher"] | {"teacher": {"model": str(folder / "teacher")}}}
        return [
            run(stage, **kind, **more) for kind in (KINDS | at_folder).values() for stage in stages
        ]

    reference = run_ranks(folder, "kinds-1", 1, runs(2, save=folder / "kinds"))
    sharded = run_ranks(folder, "kinds-2", 2, runs(0, 3))
    for at, kind in enumerate(KINDS):
        for stage in (0, 1):
            seen = sharded[2 * at + stage]
            assert seen["losses"] == pytest.approx(reference[at]["losses"], rel=1e-4), (kind, stage)
            assert seen["norms"] == pytest.approx(reference[at]["norms"], rel=5e-4), (kind, stage)
        assert reference[at]["losses"][-1] < reference[at]["losses"][0]
        names = {name.split(".")[0] for name in torch.load(folder / f"kinds-1-{at}.pt")}
        assert names == ({"model"} if kind == "lora" else {"model", "match"})
    assert all("lora_" in name for name in torch.load(folder / "kinds-2-1.pt"))
    assert not any(name.startswith("teacher.") for name in torch.load(folder / "kinds-2-3.pt"))


@pytest.mark.slow
def test_adapters_and_matched_layers_in_bf16_resume_exactly(
    alone: dict[str, dict[str, Any]],
) -> None:
    whole, resumed = alone["both whole"], alone["both resumed"]
    assert resumed["losses"] == whole["losses"][HALF:]
    assert whole["losses"][-1] < whole["losses"][0]


def test_a_setting_that_deepspeed_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise AssertionError("not with ZeRO")

    silent = SimpleNamespace(
        ops=SimpleNamespace(__compatible_ops__={}),
        utils=SimpleNamespace(logger=logging.getLogger("x")),
    )
    monkeypatch.setitem(
        sys.modules, "deepspeed", SimpleNamespace(initialize=refuse, **vars(silent))
    )
    spec, student = (
        TrainSpec(student="x", zero_stage=2, deepspeed={"aio": {"x": 1}}),
        torch.nn.Linear(1, 1),
    )
    with pytest.raises(
        StageError,
        match=r"does not start with train\.deepspeed=\{'aio': \{'x': 1\}\} \(not with"
        r" ZeRO\); correct",
    ):
        build(spec, student, device="gpu")
    with pytest.raises(AssertionError):
        build(spec.model_copy(update={"deepspeed": {}}), student, device="gpu")


def test_the_jobs_own_settings_win_over_further_ones() -> None:
    more = {
        "zero_optimization": {"stage": 1, "reduce_bucket_size": 1000},
        "wall_clock_breakdown": True,
    }
    config = zero_config(TrainSpec(student="x", zero_stage=3, deepspeed=more), "gpu")
    assert config["zero_optimization"] == {"stage": 3, "reduce_bucket_size": 1000}
    assert config["wall_clock_breakdown"] is True


def test_nvme_names_its_folder_for_parameters_and_optimizer() -> None:
    zero = zero_config(
        TrainSpec(student="x", zero_stage=3, offload="nvme", nvme_path="/nvme"), "gpu"
    )["zero_optimization"]
    assert (
        zero["offload_param"]
        == zero["offload_optimizer"]
        == {"device": "nvme", "nvme_path": "/nvme", "pin_memory": True}
    )


def test_offload_and_precision_reach_deepspeed() -> None:
    config = zero_config(
        TrainSpec(student="x", zero_stage=3, offload="cpu", precision="bf16"), "gpu"
    )
    assert config["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert config["bf16"] == {"enabled": True}
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
