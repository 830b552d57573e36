from pathlib import Path

import pytest

from engine.errors import SpecError
from engine.rows.judging.rubric import EXAMPLE, load_rubric

ROOT = Path(__file__).parents[3]


def test_the_example_is_one():
    assert "A good answer" in load_rubric("f", str(ROOT / EXAMPLE))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no file"), (b" \n", "is empty"), (b"\xff\xfe\xfa", "is no UTF-8 text")],
)
def test_a_rubric_that_cannot_be_read_is_named_with_the_remedy(tmp_path, content, said):
    path = tmp_path / "rubric.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=f"^evaluate.judge.rubric: .*{said}") as raised:
        load_rubric("evaluate.judge.rubric", str(path))
    assert str(path) in str(raised.value)


def test_a_folder_is_no_rubric(tmp_path):
    with pytest.raises(SpecError, match=f"is a folder; .*{EXAMPLE}"):
        load_rubric("f", str(tmp_path))
