import numpy as np
import pytest

from engine import records
from engine.errors import StageError
from engine.records import Completion, completion_schema, signal_of, to_rows, to_table


def test_a_prompt_id_is_the_first_63_bits_of_the_hash():
    digest = records.prompt_hash([{"role": "user", "content": "hi"}])
    assert records.prompt_id_of(digest) == int(digest, 16) >> (256 - 63)
    assert 0 <= records.prompt_id_of("f" * 64) < 2**63


def test_the_hash_depends_on_content_and_not_on_key_order():
    assert records.prompt_hash([{"role": "user", "content": "é"}]) == records.prompt_hash([{"content": "é", "role": "user"}])
    assert records.prompt_hash([{"role": "user", "content": "a"}]) != records.prompt_hash([{"role": "system", "content": "a"}])


def test_seeds_are_31_bits_and_differ_by_every_part():
    seeds = {records.derive_seed(0, prompt, teacher, sample) for prompt in range(50) for teacher in "ab" for sample in range(3)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_completion_survives_parquet_with_its_signal_and_metadata(tmp_path, dtype):
    row = Completion(
        2**62, "t", 1, "train", 5, "ok", "stop", "hi", [1, 2], [3, 4], 2, 2, token_logprobs=[-0.5, -1.0],
        topk_ids=[3, 9, 4, 8], topk_logprobs=np.array([-0.5, -2.0, -1.0, -1.5]), tail=[0.25, 0.125],
    )
    path = tmp_path / "x.parquet"
    records.write_parquet(to_table([row], completion_schema(dtype), {"top_k": 2, "teacher": "t"}), path)
    assert records.file_metadata(path) == {"top_k": 2, "teacher": "t"}
    (table,) = records.read_tables([path])
    (back,) = to_rows(table, Completion)
    assert (back.prompt_id, back.text, back.token_ids) == (2**62, "hi", [3, 4])
    signal = signal_of(back.topk_ids, back.topk_logprobs, back.tail)
    assert signal.ids.tolist() == [[3, 9], [4, 8]]
    assert signal.logprobs.tolist() == [[-0.5, -2.0], [-1.0, -1.5]]


def test_a_damaged_page_is_noticed(tmp_path):
    path = tmp_path / "x.parquet"
    rows = [Completion(n, "t", 0, "train", 0, "ok", text=f"answer {n}") for n in range(500)]
    records.write_parquet(to_table(rows, completion_schema()), path)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"x\.parquet is missing or damaged .*CRC.*distill verify"):
        list(records.read_tables([path]))


def test_a_signal_cut_short_is_refused():
    with pytest.raises(ValueError, match="signal cut short"):
        signal_of([1, 2, 3], [0.0, 0.0, 0.0], [0.1, 0.1])


def test_a_fingerprint_means_the_same_token_ids():
    assert records.tokenizer_fingerprint({"a": 0, "b": 1}) == records.tokenizer_fingerprint({"b": 1, "a": 0})
    assert records.tokenizer_fingerprint({"a": 0, "b": 1}) != records.tokenizer_fingerprint({"a": 1, "b": 0})
