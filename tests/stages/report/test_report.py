"""The report says what the manifests say, in three forms, and nothing else."""

import html.parser
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from pydantic import ValidationError
from rich.console import Console

from engine.job.spec import ReportSpec
from engine.run.context import Context
from engine.run.manifests import MANIFEST, Counts, finished, publish
from engine.stages import report as report_stage
from engine.stages.report.contract import Report

CTX = Context(job="quick <b>&", task="math", seed=0)
PLAIN = ReportSpec(html=False)


@pytest.fixture
def report(written):
    return json.loads((written / "report.json").read_text())


def test_report_json_is_the_contract(report, written):
    Report.model_validate(report)
    assert list(report)[:5] == ["schema_version", "job", "git_commit", "versions", "stages"]
    stage = report["stages"]["curate"]
    assert (stage["seconds"], stage["rows_in"], stage["rows_out"]) == (37.5, 3000, 2874)
    assert stage["dropped"] == {"truncated": 20, "wrong_answer": 106}
    assert report["curate"]["rows_kept"] == 2874
    assert report["generate"]["status"] == {"ok": 3480, "truncated": 20}
    assert (report["train"]["zero_stage"], report["train"]["workers"]) == (2, 2)
    assert report["quality"]["ci95"]["student"] == [0.84, 0.898]
    (train,) = written.parent.glob("4-train-*")
    assert report["lineage"]["train"] == {
        "folder": train.name,
        "manifest_sha256": finished(train).sha256,
    }


def test_a_full_disk_is_said_and_the_report_is_made_when_there_is_room(inputs, small_disk):
    disk, fill = small_disk
    fill()
    with pytest.raises(OSError, match="No space left on device"):
        report_stage.run(PLAIN, inputs, disk, CTX)
    (disk / "filler").unlink()
    report_stage.run(PLAIN, inputs, disk, CTX)
    Report.model_validate_json((disk / "report.json").read_text())


def test_a_level_has_its_own_load_and_null_for_infinite(report):
    levels = report["serving"]["student"]["levels"]
    assert [("concurrency" in level, "rate" in level) for level in levels] == [
        (True, False)
    ] * 3 + [(False, True)] * 3
    assert levels[2]["ttft_ms"]["p99"] is None
    assert levels[4]["valid"] is False


def test_a_run_without_a_load_test_reports_quality_alone(finish, inputs, out):
    inputs["loadtest"] = finish("loadtest", 6, info={"serving": {}}, rows=(0, 0, {}))
    report_stage.run(PLAIN, inputs, out, CTX)
    report = json.loads((out / "report.json").read_text())
    assert report["serving"] == {}
    assert len(report_stage.tables.headline(report)) == 1
    rows = [line.split() for line in text_of(report_stage.summary_table(report)).splitlines()]
    assert ["student", "0.872", "[0.840,", "0.898]", *["–"] * 5] in rows


def test_what_the_stages_doubted_stands_in_the_report(finish, inputs, out):
    doubt = {"warnings": ["only 14 of 1,666 answers are kept"]}
    info = inputs["curate"].manifest.info.model_copy(update=doubt)
    inputs["curate"] = finish("curate", 3, info=info)
    report_stage.run(ReportSpec(), inputs, out, CTX)
    assert json.loads((out / "report.json").read_text())["warnings"] == [
        "curate: only 14 of 1,666 answers are kept"
    ]
    for page in ("report.md", "report.html"):
        assert "Warning, curate: only 14 of" in (out / page).read_text()


def test_a_teacher_that_is_the_reference_has_no_score_of_its_own(finish, inputs, out):
    quality = {
        "metric": "rouge_l",
        "n": 50,
        "teacher": None,
        "baseline": 0.1,
        "student": 0.6,
        "retention": 0.6,
        "ci95": {"teacher": None, "baseline": None, "student": [0.5, 0.7], "retention": [0.5, 0.7]},
    }
    inputs["evaluate"] = finish("evaluate", 5, info={"quality": quality, "metrics": {}})
    report_stage.run(PLAIN, inputs, out, CTX)
    page = (out / "report.md").read_text()
    assert "| student | 0.600 | [0.500, 0.700] |" in page
    assert "| baseline | 0.100 | – |" in page
    assert "| teacher |" not in page


def test_a_stage_that_says_less_than_the_contract_wants_is_not_published(tmp_path):
    with pytest.raises(ValidationError, match="final_loss"):
        publish(tmp_path, "train", {}, Counts(0, 0, {}), 1.0)
    assert list(tmp_path.iterdir()) == []


def test_markdown_has_every_table(written):
    page = (written / "report.md").read_text()
    titles = re.findall(r"^## (.*)$", page, re.MULTILINE)
    parts = re.findall(r"^### (.*)$", page, re.MULTILINE)
    assert titles == [
        "Quality",
        "What was gained",
        "Serving: teacher",
        "Serving: student",
        "Curation",
        "Stages",
        "Generation and training",
        "Lineage",
    ]
    assert parts[:6] == [
        "Latency",
        "95 % intervals (ms)",
        "Where the time goes",
        "The server, by its own metrics",
        "The client",
        "Notes",
    ]
    assert parts[6:] == parts[:6]
    assert "| student | 0.872 | [0.840, 0.898] | 0.910 |" in page
    assert "| retention | 91.4% | [88.5%, 94.1%] |  |" in page
    assert "| concurrency 16 | ok | 120 | 2 | – | 66.00 | [59.4, 72.6] | 2,640 | 59.40 |" in page
    assert "| concurrency 16 | 88.0 | 184.8 | ∞ | 8.000 |" in page
    assert "| 64 req/s † | client limited | 120 | 0 | 64.00 | 67.50 |" in page
    assert "64 req/s †: client limited: its p99 lag was 61.0 ms" in page
    assert "90 req/s: overloaded: a queue grew." in page
    assert "concurrency 16: http_500: 2, such as 'out of | memory'." in page
    assert "| check reference | 2,874 | 95.8% |" in page


def test_the_finished_model_card_has_the_facts_of_training_and_the_scores(inputs, out):
    train = inputs["train"].folder
    folder = train / "student"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nlibrary_name: transformers\n---\n\n# j\n\nFacts.\n\n## Scores\n\nNot yet.\n"
    )
    files = {"student/README.md": 0, "metrics.jsonl": 1}
    (train / MANIFEST).unlink()
    publish(train, "train", {}, Counts(1, 1, files, info=inputs["train"].manifest.info), 1.0)
    inputs["train"] = finished(train)
    counts = report_stage.run(PLAIN, inputs, out, CTX)
    card = (out / "model_card.md").read_text()
    assert "model_card.md" in counts.files
    assert card.startswith(
        "---\nlibrary_name: transformers\n---\n\n# j\n\nFacts.\n\n## Scores\n\nThe student keeps"
        " 91.4% of the"
    )
    assert "| student | 0.872 | [0.840, 0.898] | 0.910 |" in card
    assert "Not yet" not in card
    assert "serves" not in card


def test_headline_compares_models_at_the_same_load(report):
    sentences = report_stage.tables.headline(report)
    assert sentences[0].startswith(
        "The student keeps 91.4% of the teacher's exact match (0.872 against 0.954)"
    )
    assert (
        sentences[1]
        == "At concurrency 16 it serves 2.4 times the teacher's output tokens per second."
    )


def test_headline_says_what_each_model_carries(report):
    knee = {"sentence": "Within TTFT <= 100 ms it carries 40 requests/s."}
    serving = {"student": report["serving"]["student"] | {"knee": knee}}
    sentences = report_stage.tables.headline(report | {"serving": serving})
    assert sentences[-1] == f"student: {knee['sentence']}"


def text_of(*tables):
    console = Console(width=160, file=io.StringIO())
    console.print(*tables)
    return console.file.getvalue()


def test_serving_table_shows_every_level_of_every_model(report):
    shown = text_of(report_stage.serving_table(report["serving"]))
    models = [line.split()[0] for line in shown.splitlines() if " c=" in line or " req/s " in line]
    assert models[:9] == [*["teacher"] * 3, *["student"] * 6]
    assert "student, 64 req/s †: client limited" in shown
    assert "student, 90 req/s: overloaded: a queue grew." in shown
    assert report_stage.serving_table({}).row_count == 0


def test_summary_table_shows_each_model_at_its_best_ok_level(report):
    shown = text_of(report_stage.summary_table(report))
    student = next(line for line in shown.splitlines() if line.split()[:2] == ["student", "0.872"])
    assert student.split() == [
        "student",
        "0.872",
        "[0.840,",
        "0.898]",
        "c=16",
        "2,640",
        "88.0",
        "∞",
        "2",
    ]
    assert "baseline" in shown


def test_html_needs_no_network_and_no_script(written):
    page = (written / "report.html").read_text()
    assert "<script" not in page
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page) + re.findall(
        r"url\(([^)]*)\)", page
    )
    assert all(reference.startswith("#") for reference in references)
    assert "@import" not in page
    assert "<!DOCTYPE svg" not in page
    assert len(page) < 400_000


def test_html_escapes_what_the_user_wrote(written):
    page = (written / "report.html").read_text()
    assert "quick &lt;b&gt;&amp;" in page
    assert "<b>" not in page


def test_html_plots_what_there_is(written):
    page = (written / "report.html").read_text()
    labels = re.findall(r'<figure role="img" aria-label="([^"]*)"', page)
    assert labels == [
        "Scores on the validation prompts with 95 % intervals",
        "Training and validation loss by step",
        "Output tokens per second against concurrency",
        "Time to first token against concurrency",
        "Time per output token against concurrency",
        "Requests within the SLO per second against concurrency",
        "Output tokens per second against rate",
        "Time to first token against rate",
        "Time per output token against rate",
        "Requests within the SLO per second against rate",
        "Served against offered requests per second",
        "Where the time of a request to teacher goes",
        "Where the time of a request to student goes",
        "Rows left after each filter",
        "teacher at concurrency 1 over time",
        "teacher at concurrency 4 over time",
        "teacher at concurrency 16 over time",
        "student at concurrency 1 over time",
        "student at concurrency 4 over time",
        "student at concurrency 16 over time",
        "student at 8 req/s over time",
        "student at 64 req/s over time",
        "student at 90 req/s over time",
    ]
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    html.parser.HTMLParser().feed(page)


def test_the_same_run_gives_the_same_page(inputs, out):
    report_stage.run(ReportSpec(), inputs, out, CTX)
    before = {file.name: file.read_bytes() for file in out.glob("report.*")}
    report_stage.run(ReportSpec(), inputs, out, CTX)
    assert {file.name: file.read_bytes() for file in out.glob("report.*")} == before


def test_html_can_be_left_out(inputs, out):
    counts = report_stage.run(ReportSpec(html=False), inputs, out, CTX)
    assert set(counts.files) == {"report.json", "report.md"}
    assert not (out / "report.html").exists()


@pytest.fixture
def whole(evaluated, out):
    """The reports of a run whose evaluation said everything."""
    report_stage.run(ReportSpec(), evaluated, out, CTX)
    return out


def test_report_json_has_comparisons_ratios_and_footprints(whole):
    report = json.loads((whole / "report.json").read_text())
    Report.model_validate(report)
    assert report["comparisons"]["baseline"][0]["p_holm"] == 1e-12
    assert report["ratios"]["memory"]["value"] == 8
    assert report["ratios"]["kept_accuracy"]["value"] == 0.914
    assert report["ratios"]["latency"]["value"] == pytest.approx(331 / 322)
    assert report["ratios"]["cost_per_answer"]["value"] is None
    assert report["footprint"]["student"]["weights_bytes"] == 950_000
    assert report["signatures"]["bleu"].startswith("nrefs:1")
    assert report["verdicts"]["student"]["unverified"] == 1


def test_markdown_and_html_show_the_verdict_the_gains_and_the_answers(whole):
    page = (whole / "report.md").read_text()
    html_page = (whole / "report.html").read_text()
    for title in (
        "Answers",
        "Student against baseline",
        "Student against teacher",
        "What was gained",
        "Best answers of the student",
        "Worst answers of the student",
        "Where student and baseline differ most",
    ):
        assert f"## {title}" in page
        assert f"<h2>{title}</h2>" in html_page
    assert "- Against the untrained baseline: +0.868 exact match" in page
    assert "| latency | 1.03 times faster |" in page
    assert "bleu: nrefs:1|case:mixed" in page
    assert "| student | 456 | 40 | 3 | 1 |" in page
    assert "[1.000] 2 + 2<br>#### 0" in page
    assert "&lt;b>trains&lt;/b>" in page
    assert "<b>" not in html_page
    assert len(html_page) < 400_000


def test_the_terminal_shows_comparison_and_gains_in_80_columns(whole):
    report = json.loads((whole / "report.json").read_text())
    console = Console(width=80, file=io.StringIO())
    console.print(*report_stage.comparison_tables(report))
    shown = console.file.getvalue()
    assert "435/1/64" in shown
    assert "[+0.840, +0.896]" in shown
    assert "8 times smaller" in shown
    assert "no answer" in shown
    assert "unverified" in shown
    words = " ".join(shown.split())
    assert "no price: it ran on machines whose price is not known" in words.replace("- ", "")
