from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pytest

from engine.stages.curate.piles import Piles, spill_folder, stretches
from engine.store.paths import StorePath


def rows(*values):
    return pa.table(
        {"value": pa.array(values, pa.int64()), "list": [[each] * 3 for each in values]}
    )


@pytest.mark.parametrize("most_bytes", [0, 150, 10**6])
def test_a_pile_holds_its_rows_whether_they_are_spilled_or_not(tmp_path, most_bytes):
    piles = Piles(tmp_path / "spill", most_bytes)
    piles.add(rows(1, 2, 3), np.array([7, 0, 7]))
    piles.add(rows(), np.array([], np.int64))
    piles.add(rows(4, 5), np.array([0, 10**12]))
    piles.add(rows(6), np.array([7]))
    assert (tmp_path / "spill").exists() == (most_bytes < 10**6)
    assert piles.numbers() == [0, 7, 10**12]
    assert piles.take(7).to_pylist() == rows(1, 3, 6).to_pylist()
    assert piles.take(0).to_pylist() == rows(2, 4).to_pylist()
    assert piles.numbers() == [10**12]
    assert piles.take(10**12)["list"].num_chunks == 1
    assert not (tmp_path / "spill").exists() or list((tmp_path / "spill").iterdir()) == []


def test_only_the_rows_of_a_pile_are_written_to_its_file(tmp_path):
    table = rows(*range(10_000))
    piles = Piles(tmp_path, 0)
    piles.add(table, np.arange(10_000) // 100)
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 100
    assert sum(sizes) < 1.5 * table.nbytes


def test_stretches_are_runs_of_equal_values():
    assert list(stretches(np.array([4, 4, 2, 4]))) == [(4, 0, 2), (2, 2, 3), (4, 3, 4)]
    assert list(stretches(np.array([], np.int64))) == []


def fail_after_spilling(out):
    with spill_folder(out) as folder:
        assert not folder.exists()
        Piles(folder, 0).add(rows(1), np.array([3]))
        assert list(folder.iterdir())
        raise RuntimeError


def test_a_failure_leaves_nothing_spilled_and_a_restart_removes_what_a_killed_driver_left(tmp_path):
    (tmp_path / "spill").mkdir()
    (tmp_path / "spill/0.arrows").write_bytes(b"half a row")
    with pytest.raises(RuntimeError):
        fail_after_spilling(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rows_on_their_way_to_a_store_are_spilled_to_the_local_disk(tmp_path):
    with spill_folder(StorePath("s3://bucket", PurePosixPath("run"))) as folder:
        assert folder.is_dir()
    assert not folder.exists()
