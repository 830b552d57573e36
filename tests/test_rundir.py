import json

import pytest

from engine import rundir
from engine.errors import StageError
from engine.rundir import Counts


def published(folder, text="a", rows=2):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data/x.txt").write_text(text)
    return rundir.publish(folder, "curate", {"seed": 0}, Counts(rows, rows, {"data/x.txt": rows}), 1.5)


def test_a_manifest_lists_files_with_rows_and_hashes(tmp_path):
    published(tmp_path)
    manifest = rundir.load_manifest(tmp_path)
    assert manifest.files["data/x.txt"].sha256 == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert (manifest.rows_in, manifest.rows_out, manifest.seconds) == (2, 2, 1.5)
    assert rundir.stage_files(tmp_path, "data/") == [tmp_path / "data/x.txt"]


def test_rows_that_got_lost_stop_the_stage(tmp_path):
    with pytest.raises(AssertionError, match=r"rows in 5 != out 3 \+ dropped \{'too_short': 1\}"):
        rundir.publish(tmp_path, "curate", {}, Counts(5, 3, {}, {"too_short": 1}), 0)
    assert not (tmp_path / rundir.MANIFEST).exists()


def test_a_missing_file_of_a_finished_stage_is_named_with_the_remedy(tmp_path):
    published(tmp_path)
    (tmp_path / "data/x.txt").unlink()
    with pytest.raises(StageError, match=r"x\.txt is missing; restore it, or make the stage again with --only curate --force"):
        rundir.load_manifest(tmp_path)


def test_readers_refuse_an_unfinished_stage(tmp_path):
    with pytest.raises(StageError, match="is not finished"):
        rundir.stage_files(tmp_path)


def test_an_atomic_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        rundir.write_atomic(tmp_path / "f.json", "\ud800")
    assert list(tmp_path.iterdir()) == []


def test_content_identity_follows_content_and_not_place(tmp_path):
    cache = tmp_path / ".cache/content.json"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "notes.md").write_text(name)
    first = rundir.content_identity(str(tmp_path / "a"), cache)
    assert first == rundir.content_identity(str(tmp_path / "b"), cache)
    (tmp_path / "b/config.json").write_text('{"x": 1}')
    assert first != rundir.content_identity(str(tmp_path / "b"), cache)
    assert rundir.content_identity("org/model", cache) == "org/model"
    assert len(json.loads(cache.read_text())) == 3


def test_the_newest_manifest_counts_and_the_first_stays(tmp_path):
    published(tmp_path)
    first = rundir.manifest_sha256(tmp_path)
    (tmp_path / "data/y.txt").write_text("b")
    counts = Counts(3, 3, {"data/x.txt": 2, "data/y.txt": 1})
    for number in range(2, 12):
        rundir.publish(tmp_path, "curate", {"seed": 0}, counts, 1.5, supersede=True)
        assert rundir.manifest_paths(tmp_path)[-1].name == f"manifest-{number:04d}.json"
    assert rundir.load_manifest(tmp_path).rows_out == 3
    assert rundir.stage_files(tmp_path) == [tmp_path / "data/x.txt", tmp_path / "data/y.txt"]
    assert rundir.file_sha256(tmp_path / "manifest.json") == first != rundir.manifest_sha256(tmp_path)


def test_a_published_file_never_changes(tmp_path):
    published(tmp_path)
    (tmp_path / "data/x.txt").write_text("c")
    with pytest.raises(AssertionError, match=r"data/x\.txt"):
        rundir.publish(tmp_path, "curate", {"seed": 0}, Counts(2, 2, {"data/x.txt": 2}), 1.5, supersede=True)


def test_a_manifest_in_the_folder_of_another_identity_is_named(tmp_path):
    folder = tmp_path / "3-curate-00000000"
    published(folder)
    with pytest.raises(StageError, match=r"manifest\.json is of another identity .* move the folder away"):
        rundir.load_manifest(folder)
    folder.rename(own := rundir.stage_folder(tmp_path, 3, "curate", {"seed": 0}))
    assert rundir.load_manifest(own).rows_out == 2


def test_a_damaged_manifest_is_named_with_the_remedy(tmp_path):
    published(tmp_path)
    (tmp_path / "manifest.json").write_text('{"stage": ')
    with pytest.raises(StageError, match=r"manifest\.json is damaged .* delete it"):
        rundir.load_manifest(tmp_path)


def test_equal_identities_share_a_folder(tmp_path):
    one = rundir.stage_folder(tmp_path, 3, "curate", {"a": 1, "b": 2})
    assert one == rundir.stage_folder(tmp_path, 3, "curate", {"b": 2, "a": 1})
    assert one != rundir.stage_folder(tmp_path, 3, "curate", {"a": 1, "b": 3})
    assert one.name.startswith("3-curate-")
