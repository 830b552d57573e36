"""One measurement in a process of its own.

    python -m benchmarks.generation.variants VARIANT K WORK    reads WORK/task.json and writes
    WORK/result.json

Every variant gets the same model, prompts, seeds, sampling and scheduler arguments. The clock runs
from the first request to the last answer (ours and ray_data_llm: to the last answer on disk),
without the engine's start-up; ours and llm have answered one request before. ray_data_llm offers no
place for one: what vLLM compiles for log-probabilities at its first request (about a second of its
50 at k = 16) is in its figure.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

KV_CACHE_GIB, MAX_NUM_SEQS, MAX_MODEL_LEN = 0.25, 128, 512


def job(task: dict[str, Any], k: int) -> Any:
    """The JobSpec of variant `ours`; the other variants take their engine arguments from its
    teacher."""
    from engine import JobSpec

    teacher = {
        "name": "tiny",
        "kind": "vllm",
        "model": task["model"],
        "dtype": "float32",
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": MAX_NUM_SEQS,
        "kv_cache_gib": KV_CACHE_GIB,
    }
    sampling = {
        "temperature": task["temperature"],
        "max_tokens": task["max_tokens"],
        "stop_loops": False,
        "reproducible": True,
    }
    return JobSpec.model_validate(
        {
            "name": "generation",
            "task": "conversation",
            "device": "cpu",
            "prompts": {"train": task["prompts"], "validation_fraction": 0.0},
            "generate": {"teachers": [teacher], "sampling": sampling, "capture": {"top_k": k}},
            "train": {"student": task["model"], "init": "random", "block_tokens": 256},
            "loadtest": {"models": []},
        }
    )


def ours(task: dict[str, Any], k: int, work: Path) -> tuple[float, np.ndarray]:
    """`distill run --until generate`; the figure is the manifest's own."""
    import engine
    from engine.rows.tables import read_tables

    done = engine.run(job(task, k), work / "runs", until="generate")
    manifest, folder = done.manifests["generate"], done.folders["generate"]
    found = {}
    for table in read_tables(
        [folder / name for name in manifest.files], columns=["prompt_id", "token_ids"]
    ):
        found |= dict(
            zip(table["prompt_id"].to_pylist(), table["token_ids"].to_pylist(), strict=True)
        )
    tokens = np.asarray([found[row["prompt_id"]] for row in task["rows"]], np.int32)
    return tokens.size / manifest.info.tokens_per_second, tokens


def _arguments(task: dict[str, Any], k: int) -> dict[str, Any]:
    from engine.backends.vllm_settings import engine_arguments

    return engine_arguments(job(task, k).generate.teachers[0].to_model(), "cpu", k)


def _llm(task: dict[str, Any], k: int, **more: Any) -> tuple[float, np.ndarray]:
    from vllm import LLM, SamplingParams

    llm = LLM(**_arguments(task, k))
    prompts = [{"prompt_token_ids": row["ids"]} for row in task["rows"]]
    params = [
        SamplingParams(**_sampling(task, k), seed=row["seed"], **more) for row in task["rows"]
    ]
    llm.generate(
        prompts[:1], params[:1], use_tqdm=False
    )  # compiles what the first request of a process compiles, as ours does in `open`
    started = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    return seconds, np.asarray([output.outputs[0].token_ids for output in outputs], np.int32)


def _sampling(task: dict[str, Any], k: int) -> dict[str, Any]:
    return {"temperature": task["temperature"], "max_tokens": task["max_tokens"]} | (
        {"logprobs": k} if k else {}
    )


def llm(task: dict[str, Any], k: int, work: Path) -> tuple[float, np.ndarray]:
    """The engine's own offline call at its leanest."""
    return _llm(task, k, flat_logprobs=True, detokenize=False)


def llm_default(task: dict[str, Any], k: int, work: Path) -> tuple[float, np.ndarray]:
    """The engine's own offline call as people write it: text, and a dict per log-probability."""
    return _llm(task, k)


def ray_data_llm(task: dict[str, Any], k: int, work: Path, **more: Any) -> tuple[float, np.ndarray]:
    """`ray.data.llm` into Parquet: no helper stages, rows of 64 per batch as its users have
    them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(
        num_cpus=16, object_store_memory=10**9, include_dashboard=False, log_to_driver=False
    )  # with few CPUs its helpers dead-lock
    ray.data.DataContext.get_current().enable_progress_bars = False
    arguments, rows, sampling = _arguments(task, k), task["rows"], _sampling(task, k) | more
    config = vLLMEngineProcessorConfig(
        model_source=arguments.pop("model"),
        engine_kwargs=arguments,
        concurrency=(1, 1),
        batch_size=64,
        placement_group_config={"bundles": [{"CPU": 1}]},
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
    )

    def before(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "row": row["row"],
            "tokenized_prompt": row["ids"],
            "prompt": "",
            "sampling_params": sampling | {"seed": int(row["seed"])},
        }

    def after(row: dict[str, Any]) -> dict[str, Any]:
        kept = {
            "row": row["row"],
            "token_ids": np.asarray(row["generated_tokens"], np.int32),
            "text": row["generated_text"],
        }
        kept |= {"started": row["started"]}
        if not k:
            return kept
        entries = [item for position in row["logprobs"] for item in position.items()]
        return kept | {
            "topk_ids": np.asarray([token for token, _ in entries], np.int32),
            "topk_logprobs": np.asarray([entry["logprob"] for _, entry in entries], np.float16),
        }

    source, out = work / "rows.parquet", work / "out"
    pq.write_table(
        pa.Table.from_pylist([{"row": number} | row for number, row in enumerate(rows)]), source
    )
    data = ray.data.read_parquet(str(source), override_num_blocks=len(rows) // 64)
    processor = build_processor(config, preprocess=before, postprocess=after)
    stage = processor.get_stage_by_name("vLLMEngineStage")

    class Timed(stage.fn):  # its own `time_taken_llm` says how long, not when
        async def udf(self, batch: list[dict[str, Any]]) -> Any:
            started = time.time()
            async for row in super().udf(batch):
                yield row | {"started": started}

    stage.__dict__["fn"] = (
        # an assignment would validate the stage again, which forgets its bundles and asks for a GPU
        Timed
    )
    processor(data).write_parquet(str(out))
    finished = max(file.stat().st_mtime for file in out.glob("*.parquet"))
    table = pq.read_table(out, columns=["row", "token_ids", "started"]).sort_by("row")
    assert table["row"].to_pylist() == list(range(len(rows))), "rows were lost"
    return finished - min(table["started"].to_pylist()), np.asarray(
        table["token_ids"].to_pylist(), np.int32
    )


def ray_data_llm_lean(task: dict[str, Any], k: int, work: Path) -> tuple[float, np.ndarray]:
    """`ray.data.llm` without the engine's detokenisation, which its documentation does not mention;
    shown without a bound."""
    return ray_data_llm(task, k, work, detokenize=False)


VARIANTS = {
    found.__name__: found for found in (ours, llm, llm_default, ray_data_llm, ray_data_llm_lean)
}


def main() -> None:
    """Measure one variant once."""
    name, k, work = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    task = json.loads((work / "task.json").read_text())
    os.environ.update(task["environment"].get(name, {}))
    folder = work / "measurement"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    seconds, tokens = VARIANTS[name](task, k, folder)
    assert tokens.shape == (len(task["rows"]), task["max_tokens"]), (
        f"{name} gave {tokens.shape} tokens: an answer ended early"
    )
    np.save(work / f"tokens-{name}-{k}.npy", tokens)
    (work / "result.json").write_text(
        json.dumps(
            {
                "variant": name,
                "k": k,
                "seconds": seconds,
                "tokens_per_second": tokens.size / seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
