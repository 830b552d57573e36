"""The benchmark of splits, on one seed of made-up dialogues."""

from benchmarks.curation import splits


def test_dialogues_that_are_split_whole_keep_no_twin_in_training():
    ratios, raw = splits.measure(None, ("by_row", "by_dialogue"), seeds=(0,), made_up=90)
    assert [name for name, ratio in ratios.items() if not ratio["ok"]] == []
    assert raw["splits_by_row"]["with_twin"] > 10
    assert raw["splits_by_dialogue"]["left"] > 0
    assert raw["splits_by_dialogue"]["validation"] > 10
