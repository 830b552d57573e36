"""The benchmark of metrics, small."""

from benchmarks.evaluation import metrics


def test_the_metrics_hold_their_bounds_on_few_texts():
    ratios, raw = metrics.run(pairs=150)
    assert [name for name, ratio in ratios.items() if not ratio["ok"]] == []
    assert len(raw["worst_by_script"]) >= 12
    assert 0.1 < raw["bleu_1_references"] < 0.95
    assert raw["bleu_1_references"] != raw["bleu_2_references"]
