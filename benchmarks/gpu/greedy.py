"""Greedy answers of an exported student in transformers.

    python -m benchmarks.gpu.greedy --pack PACK --runs RUNS --device cpu|gpu --result FILE

Scores them as evaluate does, and asks on the CPU again: a student that answers otherwise elsewhere
was exported wrong, or computes wrong.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.gpu.cases import arguments, load_case
from engine.rows.final_answer import same_final_answer
from engine.rows.records import Prompt
from engine.rows.tables import read_tables, to_rows
from engine.run.manifests import finished

MOST, AGAIN, NEW_TOKENS = 256, 32, 64


def answers(folder: Path, conversations: list[Any], device: str) -> list[str]:
    """In one batch, padded on the left, in fp32."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    asked = tokenizer.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    ).to(device)
    with torch.inference_mode():
        out = model.generate(**asked, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokenizer.batch_decode(out[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
    """Write how many answers are right, and how many are the same on the CPU."""
    options = arguments(__doc__)
    case = load_case(options.pack, "quickstart", options.device, runs=options.runs)
    tables = read_tables(finished(case.folder("prompts")).files("validation"))
    prompts = [row for table in tables for row in to_rows(table, Prompt)][:MOST]
    student = case.folder("train") / "student"
    said = answers(
        student, [row.messages for row in prompts], "cuda" if options.device == "gpu" else "cpu"
    )
    again = answers(student, [row.messages for row in prompts[:AGAIN]], "cpu")
    right = [
        same_final_answer(case.job.task, text, row.reference)
        for text, row in zip(said, prompts, strict=True)
    ]
    same = [ours == theirs for ours, theirs in zip(said, again, strict=False)]
    options.result.write_text(
        json.dumps(
            {
                "prompts": len(prompts),
                "exact_match": sum(right) / len(right),
                "same_on_cpu": sum(same) / len(same),
                "examples": [
                    {"question": row.messages[-1]["content"], "answer": text}
                    for row, text in list(zip(prompts, said, strict=True))[:3]
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
