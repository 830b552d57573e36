"""Task files of lm-eval with a few rows each: a generation task, a multiple choice, a group."""

import json
from pathlib import Path

import pytest

from engine.backends.lm_eval_problems import is_installed

needs_lm_eval = pytest.mark.skipif(
    not is_installed(), reason="lm-eval is not installed: pip install 'distill-engine[lm-eval]'"
)
SUMS = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: data/sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 48}
filter_list:
  - name: last_number
    filter:
      - {function: regex, regex_pattern: "(-?\\\\d+)(?![\\\\s\\\\S]*\\\\d)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
CHOICE = """\
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: data/choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 2}
"""
GROUP = """\
group: both
task: [choice, other]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: true}
metadata: {version: 1}
"""
ROWS = 6


def write_task_files(folder: Path) -> list[str]:
    """sums.yaml and group.yaml, whose members are choice.yaml and other.yaml; six rows of each."""
    sums = []
    choices = []
    for number in range(ROWS):
        sums.append({"question": f"What is {number} plus 1?", "answer": str(number + 1)})
        options = [f"{number + 1}", f"{number + 2}"]
        label = number % 2
        options = options[::-1] if label else options
        question = f"What is {number} plus 1?"
        choices.append({"question": question, "choices": options, "label": label})
    return write_with_rows(folder, sums, choices)


def write_with_rows(folder: Path, sums: list, choices: list, num_fewshot: int = 0) -> list[str]:
    """The same with rows of the caller's, and so many examples before those of other.yaml."""
    (folder / "data").mkdir(parents=True)
    for name, rows in (("sums", sums), ("choice", choices)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"data/{name}.jsonl").write_text(text)
    (folder / "sums.yaml").write_text(SUMS)
    (folder / "choice.yaml").write_text(CHOICE)
    other = f"include: choice.yaml\ntask: other\nnum_fewshot: {num_fewshot}\n"
    (folder / "other.yaml").write_text(other)
    (folder / "group.yaml").write_text(GROUP)
    return [str(folder / "sums.yaml"), str(folder / "group.yaml")]
