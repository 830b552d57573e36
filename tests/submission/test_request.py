import re

import pytest

from engine.errors import SpecError
from engine.job.jobfile import load_job
from engine.submission.request import option_words, slug, submission_id

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.1-405b", "llama-3-1-405b"),
        ("Phi_4.Mini", "phi-4-mini"),
        ("405b", "j-405b"),
        ("a" * 60, "a" * 47),
        ("a" * 46 + "-b", "a" * 46),
        ("9.", "j-9"),
    ],
)
def test_a_name_becomes_a_label_that_kubernetes_takes(name, expected):
    assert slug(name) == expected
    assert LABEL.fullmatch(slug(name))


def test_an_id_is_the_same_for_the_same_job_and_no_other():
    first = submission_id("job", "text", ("--until", "train"))
    assert first == submission_id("job", "text", ("--until", "train"))
    assert (
        len({first, submission_id("job", "text", ()), submission_id("job", "texts", ())}) == 2 + 1
    )
    longest = submission_id("x" * 64, "text", ())
    assert len(longest) == 47
    assert LABEL.fullmatch(longest)


def test_options_are_words_of_the_command_line():
    options = {"strict": True, "force": False, "retry": None, "until": "train", "from_": "curate"}
    assert option_words(options) == ("--strict", "--until", "train", "--from", "curate")


def test_overrides_travel_in_the_jobs_text(request_for, tmp_path):
    request = request_for("deepseek-v3-to-phi-4-mini", "generate.sampling={max_tokens: 77}")
    path = tmp_path / "deepseek-v3-to-phi-4-mini.yaml"
    path.write_text(request.text)
    assert load_job(path).generate.sampling.max_tokens == 77
    assert "data/support/train.jsonl" in request.text, "its paths are relative still"
    assert request.id != request_for("deepseek-v3-to-phi-4-mini").id


def test_without_overrides_the_text_is_the_file_itself(request_for):
    request = request_for("quickstart")
    assert request.text == request.job.read_text()


@pytest.mark.parametrize("word", ["a b", "$(id)", "x;y", "'"])
def test_an_option_that_a_shell_would_read_is_refused(request_for, word):
    request = request_for("quickstart", until=word)
    with pytest.raises(SpecError, match="does not survive the shells"):
        _ = request.plain_options
