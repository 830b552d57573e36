"""What a server said comes back from its file as it was."""

import pyarrow.parquet as pq

from engine.loadgen.observer import Observation, Observed
from engine.rows.tables import write_parquet
from engine.stages.loadtest.server_rows import from_server_table, to_server_table

OBSERVED = {
    ("student", "rate=4"): Observed(
        [
            Observation(-800.5, {"replicas": 1.0, "running": 4.0}),
            Observation(100.0, {"engine_queue_s": 0.25}),
        ],
        ["1 of 3 looks failed"],
        "http://h/metrics",
        looks=3,
        missed=1,
        cpu_s=0.01,
        slowest_ms=12.5,
    ),
    ("student", "rate=4 #2"): Observed([], ["http://h/metrics is not there (HTTP 404)"], looks=1),
    ("teacher", "rate=4"): Observed([Observation(0.0, {"running": 1.0})], looks=1),
}


def test_observations_come_back_from_their_file(tmp_path):
    write_parquet(to_server_table(OBSERVED), tmp_path / "server.parquet")
    table = pq.read_table(tmp_path / "server.parquet")
    assert table.num_rows == 4
    assert from_server_table(table) == OBSERVED


def test_a_test_that_saw_nothing_has_an_empty_table():
    assert from_server_table(to_server_table({})) == {}
