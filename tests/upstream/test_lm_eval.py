"""Inside lm-eval: what engine/backends/lm_eval_*.py lean on. Skipped where it is not installed."""

from __future__ import annotations

import inspect

import pytest

from engine.backends.library_names import argument_strings, fields_of, keyword_strings
from engine.backends.lm_eval_problems import is_installed

if not is_installed():
    pytest.skip("lm-eval is not installed", allow_module_level=True)

from engine.backends.library_names import package_folder


def parameters(function) -> set[str]:
    return set(inspect.signature(function).parameters)


def test_the_source_names_fields_metrics_and_filters():
    folder = package_folder("lm_eval")
    assert folder is not None
    fields = fields_of(folder / "config/task.py", "TaskConfig")
    assert {"task", "doc_to_text", "dataset_kwargs", "metric_list", "unsafe_code"} <= set(fields)
    metrics = keyword_strings(folder / "api/metrics.py", "metric")
    assert {"acc", "acc_norm", "exact_match", "perplexity", "bleu"} <= set(metrics)
    filters = argument_strings(folder / "filters/extraction.py", "register_filter")
    assert "regex" in filters


def test_the_harness_is_called_as_it_wants_to_be():
    from lm_eval.api.model import CachingLM
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    wanted = {"lm", "task_dict", "bootstrap_iters", "apply_chat_template", "fewshot_as_multiturn"}
    assert wanted <= parameters(evaluate)
    assert {"include_path", "include_defaults"} <= parameters(TaskManager.__init__)
    assert list(inspect.signature(CachingLM.__init__).parameters) == ["self", "lm", "cache_db"]


def test_a_model_of_token_ids_has_the_methods_that_are_filled_in():
    from lm_eval.api.model import CacheHook, TemplateLM

    wanted = {
        "_loglikelihood_tokens",
        "eot_token_id",
        "generate_until",
        "loglikelihood_rolling",
        "tok_encode",
    }
    assert TemplateLM.__abstractmethods__ == wanted
    assert parameters(TemplateLM._encode_pair) == {"self", "context", "continuation"}
    assert parameters(CacheHook.add_partial) == {"self", "attr", "req", "res"}


def test_settings_of_an_answer_are_read_by_the_harness():
    from lm_eval.models.utils import (
        has_bos_prefix,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    read = normalize_gen_kwargs({"until": "a", "max_new_tokens": 3, "do_sample": False}, 9)
    assert (read["until"], read["max_gen_toks"], read["temperature"]) == (["a"], 3, 0.0)
    assert normalize_gen_kwargs({}, 9)["max_gen_toks"] == 9
    assert postprocess_generated_text("bcabc", ["a"], None) == "bc"
    assert has_bos_prefix("<s>a", "<s>")
    assert not has_bos_prefix("a", None)
    windows = map(make_disjoint_window, get_rolling_token_windows([1, 2, 3], 0, 2, 1))
    assert list(windows) == [([0], [1, 2]), ([1, 2], [3])]
