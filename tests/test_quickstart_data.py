"""The quickstart's data and tokenizer keep the promises that its quality numbers stand on."""

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

QUICKSTART = Path(__file__).parents[1] / "jobs" / "quickstart"


def load_script(name: str) -> ModuleType:
    """A script of the quickstart, under the name by which those beside it import it."""
    spec = importlib.util.spec_from_file_location(name, QUICKSTART / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_data = load_script("make_data")
make_tokenizer = load_script("make_tokenizer")  # imports make_data

Row = dict[str, str]
PATTERNS = {
    template: re.compile(
        re.escape(text)
        .replace(r"\{", "{")
        .replace(r"\}", "}")
        .format_map(
            {
                "name": "[A-Z][a-z]+",
                "other": "[A-Z][a-z]+",
                "things": "[a-z]+",
                "a": r"\d+",
                "b": r"\d+",
            }
        )
    )
    for template, (_, text) in make_data.TEMPLATES.items()
}


def load_rows(split: str) -> list[Row]:
    return [
        json.loads(line)
        for line in (QUICKSTART / "data" / f"{split}.jsonl").read_text("utf-8").splitlines()
    ]


@pytest.fixture(scope="module")
def train() -> list[Row]:
    return load_rows("train")


@pytest.fixture(scope="module")
def validation() -> list[Row]:
    return load_rows("validation")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer.build_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def find_template(prompt: str) -> str:
    (template,) = [name for name, pattern in PATTERNS.items() if pattern.fullmatch(prompt)]
    return template


def find_operands(prompt: str) -> tuple[int, int]:
    smaller, larger = sorted(int(number) for number in re.findall(r"\d+", prompt))
    return smaller, larger


def test_script_reproduces_the_committed_files(tmp_path: Path) -> None:
    make_data.write_data(tmp_path)
    for name in ("train.jsonl", "validation.jsonl"):
        assert (tmp_path / name).read_bytes() == (QUICKSTART / "data" / name).read_bytes()


def test_splits_are_large_enough_and_files_small(train: list[Row], validation: list[Row]) -> None:
    assert len(train) >= 3000
    assert len(validation) == 500
    assert sum(file.stat().st_size for file in (QUICKSTART / "data").iterdir()) < 1_500_000


def test_rows_have_exactly_the_fields_and_are_distinct(
    train: list[Row], validation: list[Row]
) -> None:
    rows = train + validation
    assert all(row.keys() == {"id", "prompt", "reference"} for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({row["prompt"] for row in rows}) == len(rows)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_template_and_both_operations_are_used(split: str) -> None:
    rows = load_rows(split)
    counts = Counter(find_template(row["prompt"]) for row in rows)
    assert len(counts) == len(make_data.TEMPLATES) >= 6
    assert {make_data.TEMPLATES[template][0] for template in counts} == {"+", "-"}
    assert min(counts.values()) > 0.8 * len(rows) / len(counts)


def test_no_pair_of_operands_is_in_both_splits(train: list[Row], validation: list[Row]) -> None:
    assert not {find_operands(row["prompt"]) for row in train} & {
        find_operands(row["prompt"]) for row in validation
    }


def test_gold_answers_are_right_and_never_negative(train: list[Row], validation: list[Row]) -> None:
    for row in train + validation:
        smaller, larger = find_operands(row["prompt"])
        adds = make_data.TEMPLATES[find_template(row["prompt"])][0] == "+"
        assert row["reference"] == str(larger + smaller if adds else larger - smaller), row


def test_lessons_avoid_every_validation_pair(validation: list[Row]) -> None:
    lessons = make_data.lesson_problems(9000)
    assert len({lesson.prompt for lesson in lessons}) == 9000
    assert not {find_operands(lesson.prompt) for lesson in lessons} & {
        find_operands(row["prompt"]) for row in validation
    }


@pytest.mark.parametrize(
    ("template", "a", "b", "expected"),
    [
        ("buy", 47, 35, "47+35: 7+5=12, 4+3+1=8\n#### 82"),
        ("buy", 12, 34, "12+34: 2+4=6, 1+3+0=4\n#### 46"),
        ("join", 95, 95, "95+95: 5+5=10, 9+9+1=19\n#### 190"),
        ("give", 52, 38, "52-38: 12-8=4, 5-3-1=1\n#### 14"),
        ("lose", 45, 42, "45-42: 5-2=3, 4-4-0=0\n#### 3"),
    ],
)
def test_worked_answer_shows_carry_and_borrow(template: str, a: int, b: int, expected: str) -> None:
    assert make_data.worked_answer(make_data.Problem("x", template, a, b, "")) == expected


def test_worked_answers_compute_right_and_end_in_the_gold_answer() -> None:
    for problem in make_data.train_problems() + make_data.validation_problems():
        steps, final = make_data.worked_answer(problem).split("\n")
        assert final == f"#### {problem.answer}"
        units, tens = re.findall(r"(\S+)=(\d+)", steps)
        assert sum(map(int, re.findall(r"^\d+|[+-]\d+", units[0]))) == int(units[1])
        assert sum(map(int, re.findall(r"^\d+|[+-]\d+", tens[0]))) == int(tens[1])
        assert 10 * int(tens[1]) + int(units[1]) % 10 == problem.answer


@pytest.mark.parametrize(
    "text",
    ["Mia has 47 apples.", "  two\n\n\n spaces\t", "héllo 🎉 数", "#### 1234\r\n", "\x00\x7f"],
)
def test_tokenizer_round_trips_any_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_gives_each_digit_its_own_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.decode([token]) for token in tokenizer.encode("82: 190")] == [
        "8",
        "2",
        ":",
        " ",
        "1",
        "9",
        "0",
    ]


def test_tokenizer_knows_its_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == make_tokenizer.VOCAB_SIZE
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert tokenizer.encode("<|im_start|>") == [tokenizer.convert_tokens_to_ids("<|im_start|>")]


@pytest.mark.parametrize("answer", ["47+35: 7+5=12", "\n\n  leading space", "", "plain"])
def test_generation_prompt_is_an_exact_token_prefix(
    tokenizer: PreTrainedTokenizerFast, answer: str
) -> None:
    messages = [
        {"role": "user", "content": "Mia has 47?"},
        {"role": "assistant", "content": answer},
    ]
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(messages)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert tokenizer.decode(whole[len(prompt) :]) == f"{answer}<|im_end|>\n"


def test_assistant_mask_covers_the_answer_and_its_closing_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    messages = [
        {"role": "user", "content": "Mia has 47?"},
        {"role": "assistant", "content": "#### 82"},
    ]
    whole = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    masked = [
        token for token, on in zip(whole["input_ids"], whole["assistant_masks"], strict=True) if on
    ]
    assert tokenizer.decode(masked) == "#### 82<|im_end|>"
