"""The quickstart's teacher, from nothing: tokenizer, lessons, and the engine's own training code.

    python jobs/quickstart/make_teacher.py        # rewrites jobs/quickstart/teacher; about five
    minutes on two cores

Lessons are worked answers to problems whose operand pairs are never in the validation split.
"""

import shutil
import tempfile
from pathlib import Path

from make_data import lesson_problems, worked_answer
from make_tokenizer import CONTEXT, build_tokenizer
from rich.console import Console
from transformers import LlamaConfig

from engine.backends import ray_cluster
from engine.job.spec import TrainSpec
from engine.rows.ids import tokenizer_fingerprint
from engine.rows.records import EXAMPLE, Example
from engine.rows.tables import to_table, write_parquet
from engine.run.context import Context
from engine.run.manifests import Counts, publish
from engine.run.progress import Progress
from engine.stages import train

FOLDER = Path(__file__).parent / "teacher"
LESSONS, SEED = 16_000, 20


def config(**shape: int | float) -> LlamaConfig:
    """A Llama of the quickstart's family; head size 32 is the smallest that vLLM's CPU attention
    takes."""
    return LlamaConfig(
        vocab_size=len(build_tokenizer()),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        dtype="float32",
        **shape,
    )


TEACHER = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
}
# Wider initial weights: a student this small leaves its first plateau much sooner.
STUDENT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
}


def write_lessons(folder: Path, tokenizer: object) -> None:
    """Lessons in the form in which `curate` publishes examples."""
    rows = []
    for problem in lesson_problems(LESSONS):
        user, answer = (
            {"role": "user", "content": problem.prompt},
            {"role": "assistant", "content": worked_answer(problem)},
        )
        prompt = tokenizer.apply_chat_template(
            [user], add_generation_prompt=True, return_dict=False
        )
        ids = tokenizer(answer["content"], add_special_tokens=False)["input_ids"] + [
            tokenizer.eos_token_id
        ]
        rows.append(
            Example(
                len(rows),
                "lessons",
                0,
                "train",
                [user, answer],
                prompt_token_ids=prompt,
                token_ids=ids,
            )
        )
    (folder / "data").mkdir(parents=True)
    metadata = {
        "top_k": 0,
        "vocab_size": len(tokenizer),
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer.get_vocab()),
    }
    write_parquet(to_table(rows, EXAMPLE, metadata), folder / "data/train-00000.parquet")
    publish(
        folder,
        "curate",
        {},
        Counts(len(rows), len(rows), {"data/train-00000.parquet": len(rows)}),
        0.0,
    )


def main() -> None:
    """Train on one worker and put the result into FOLDER."""
    tokenizer = build_tokenizer()
    config(**STUDENT).save_pretrained(FOLDER.parent / "student")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        config(**TEACHER).save_pretrained(work / "start")
        tokenizer.save_pretrained(work / "start")
        write_lessons(work / "curate", tokenizer)
        spec = TrainSpec(
            student=str(work / "start"),
            init="random",
            loss="sft",
            learning_rate=1.5e-3,
            adam_beta2=0.95,
            warmup_ratio=0.05,
            min_learning_rate_ratio=0.0,
            epochs=2,
            block_tokens=256,
            batch_size=8,
            precision="fp32",
            checkpoint_steps=10_000,
        )
        context = Context("make_teacher", "math", SEED, progress=Progress(Console()))
        out = work / "train"
        out.mkdir()
        with context.progress.stage("teacher", out), ray_cluster.connected(None, shared=work):
            train.run(spec, {"curate": work / "curate"}, out, context)
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(out / "student", FOLDER)


if __name__ == "__main__":
    main()
