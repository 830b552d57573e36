import json

import pytest

from engine.errors import StageError
from engine.run.identity import content_identity
from engine.run.manifests import (
    MANIFEST,
    Counts,
    finished,
    load_manifest,
    manifest_paths,
    manifest_sha256,
    publish,
    stage_folder,
)
from engine.store.files import file_sha256, write_atomic


def published(folder, text="a", rows=2):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data/x.txt").write_text(text)
    return publish(folder, "report", {"seed": 0}, Counts(rows, rows, {"data/x.txt": rows}), 1.5)


def test_a_manifest_lists_files_with_rows_and_hashes(tmp_path):
    published(tmp_path)
    manifest = load_manifest(tmp_path)
    assert (
        manifest.files["data/x.txt"].sha256
        == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    )
    assert (manifest.rows_in, manifest.rows_out, manifest.seconds) == (2, 2, 1.5)
    assert finished(tmp_path).files() == [tmp_path / "data/x.txt"]


def test_rows_that_got_lost_stop_the_stage(tmp_path):
    with pytest.raises(AssertionError, match=r"rows in 5 != out 3 \+ dropped \{'too_short': 1\}"):
        publish(tmp_path, "report", {}, Counts(5, 3, {}, {"too_short": 1}), 0)
    assert not (tmp_path / MANIFEST).exists()


def test_a_missing_file_of_a_finished_stage_is_named_with_the_remedy(tmp_path):
    published(tmp_path)
    (tmp_path / "data/x.txt").unlink()
    with pytest.raises(
        StageError,
        match=r"x\.txt is missing; restore it, or make the stage again with --only report --force",
    ):
        load_manifest(tmp_path)


def test_readers_refuse_an_unfinished_stage(tmp_path):
    with pytest.raises(StageError, match="is not finished"):
        finished(tmp_path)


def test_an_atomic_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "f.json", "\ud800")
    assert list(tmp_path.iterdir()) == []


def test_content_identity_follows_content_and_not_place(tmp_path):
    cache = tmp_path / ".cache/content.json"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "notes.md").write_text(name)
    first = content_identity(str(tmp_path / "a"), cache)
    assert first == content_identity(str(tmp_path / "b"), cache)
    (tmp_path / "b/config.json").write_text('{"x": 1}')
    assert first != content_identity(str(tmp_path / "b"), cache)
    assert content_identity("org/model", cache) == "org/model"
    assert len(json.loads(cache.read_text())) == 3


def test_the_newest_manifest_counts_and_the_first_stays(tmp_path):
    published(tmp_path)
    first = manifest_sha256(tmp_path)
    (tmp_path / "data/y.txt").write_text("b")
    counts = Counts(3, 3, {"data/x.txt": 2, "data/y.txt": 1})
    for number in range(2, 12):
        publish(tmp_path, "report", {"seed": 0}, counts, 1.5, supersede=True)
        assert manifest_paths(tmp_path)[-1].name == f"manifest-{number:04d}.json"
    assert load_manifest(tmp_path).rows_out == 3
    assert finished(tmp_path).files() == [tmp_path / "data/x.txt", tmp_path / "data/y.txt"]
    assert file_sha256(tmp_path / "manifest.json") == first != manifest_sha256(tmp_path)


def test_a_published_file_never_changes(tmp_path):
    published(tmp_path)
    (tmp_path / "data/x.txt").write_text("c")
    with pytest.raises(AssertionError, match=r"data/x\.txt"):
        publish(
            tmp_path, "report", {"seed": 0}, Counts(2, 2, {"data/x.txt": 2}), 1.5, supersede=True
        )


def test_a_manifest_in_the_folder_of_another_identity_is_named(tmp_path):
    folder = tmp_path / "3-report-00000000"
    published(folder)
    with pytest.raises(
        StageError, match=r"manifest\.json is of another identity .* move the folder away"
    ):
        load_manifest(folder)
    folder.rename(own := stage_folder(tmp_path, 3, "report", {"seed": 0}))
    assert load_manifest(own).rows_out == 2


def test_a_damaged_manifest_is_named_with_the_remedy(tmp_path):
    published(tmp_path)
    (tmp_path / "manifest.json").write_text('{"stage": ')
    with pytest.raises(StageError, match=r"manifest\.json is damaged .* delete it"):
        load_manifest(tmp_path)


def test_equal_identities_share_a_folder(tmp_path):
    one = stage_folder(tmp_path, 3, "report", {"a": 1, "b": 2})
    assert one == stage_folder(tmp_path, 3, "report", {"b": 2, "a": 1})
    assert one != stage_folder(tmp_path, 3, "report", {"a": 1, "b": 3})
    assert one.name.startswith("3-report-")
