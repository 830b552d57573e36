from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import StageError
from engine.job.spec import TrainSpec
from engine.rows import codec
from engine.rows.ids import tokenizer_fingerprint
from engine.rows.records import EXAMPLE, Example
from engine.rows.tables import file_metadata, read_tables, to_rows, to_table, write_parquet
from engine.rows.tools import Conversation
from engine.run.manifests import finished
from engine.training.chat import learnt_tokens
from engine.training.data import TokenSequence, load_sequences

SFT = TrainSpec(student="x")


def load(
    curated: Path, tokenizer: Any, spec: TrainSpec = SFT, vocab_size: int = 48
) -> list[TokenSequence]:
    return list(load_sequences(finished(curated).files("train"), spec, tokenizer, vocab_size))


def packed_file(curated: Path, cut: bool = False) -> Path:
    """The training examples with their plain signal replaced by a packed one; `cut` takes a byte
    from the last example."""
    (file,) = finished(curated).files("train")
    (table,), metadata = read_tables([file]), file_metadata(file)
    rows, k, bits = to_rows(table, Example), metadata["top_k"], 8
    found = codec.pack_rows(
        [(row.topk_ids, row.topk_logprobs, row.tail) for row in rows],
        k,
        metadata["vocab_size"],
        bits,
    )
    if cut:
        found[-1] = found[-1][:-1]
    empty = {"topk_ids": [], "topk_logprobs": [], "tail": []}
    rows = [
        replace(row, topk_packed=signal, **empty) for row, signal in zip(rows, found, strict=True)
    ]
    target = curated / "packed.parquet"
    write_parquet(
        to_table(rows, EXAMPLE, metadata | {"codec": "packed", "packed_bits": bits}), target
    )
    return target


TURNS = [
    {"role": "user", "content": "1 plus 2"},
    {"role": "assistant", "content": "1 plus 2 is 3"},
    {"role": "user", "content": "3 plus 4"},
    {"role": "assistant", "content": "is 7"},
]
# As Phi-3: each turn has its own end, and a conversation that is not asked for more ends with the
# end-of-sequence token.
PHI_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '>\n' + m.content + ' <end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def conversation_file(folder: Path, messages: list[dict[str, str]]) -> Path:
    """One example of several turns, from a teacher of another tokenizer."""
    row = Example(1, "t", 0, "train", messages)
    write_parquet(
        to_table([row], EXAMPLE, {"top_k": 0, "tokenizer_fingerprint": "another"}),
        folder / "turns.parquet",
    )
    return folder / "turns.parquet"


def learn(messages: list[dict[str, str]], tokenizer: Any, turns: str) -> TokenSequence:
    return TokenSequence(*learnt_tokens(Conversation(messages), tokenizer, turns))


def target_words(sequence: TokenSequence, tokenizer: Any) -> str:
    return tokenizer.decode(sequence.ids[sequence.is_target])


def test_the_teachers_own_ids_are_used_when_tokenizers_are_equal(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    rows = load(write_curated(), tokenizer)
    assert tokenizer.decode(rows[0].ids) == "<user> 0 plus 0 <eos> <assistant> 0 plus 0 is 0 <eos>"
    assert target_words(rows[0], tokenizer) == "0 plus 0 is 0 <eos>"
    assert rows[0].signal is None


def test_a_signal_comes_with_its_targets(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    row = load(write_curated(top_k=3), tokenizer, TrainSpec(student="x", loss="forward_kl"))[1]
    assert row.signal.ids.shape == row.signal.logprobs.shape == (6, 3)
    assert (row.signal.ids[:, 0] == row.ids[row.is_target]).all()


def test_a_packed_signal_is_read_like_a_plain_one(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    spec, folder = TrainSpec(student="x", loss="forward_kl"), write_curated(top_k=3)
    plain, found = (
        load(folder, tokenizer, spec),
        list(load_sequences([packed_file(folder)], spec, tokenizer, 48)),
    )
    assert len(found) == len(plain) == 60
    for row, same in zip(found, plain, strict=True):
        np.testing.assert_array_equal(row.ids, same.ids)
        np.testing.assert_array_equal(np.sort(row.signal.ids), np.sort(same.signal.ids))
        np.testing.assert_allclose(row.signal.logprobs, same.signal.logprobs, atol=1e-3)
        np.testing.assert_allclose(row.signal.tail, same.signal.tail, atol=2e-4)


def test_a_packed_signal_cut_short_is_refused(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    file = packed_file(write_curated(top_k=3), cut=True)
    with pytest.raises(
        StageError, match=r"1 of 60 examples in packed\.parquet lack the top-k signal"
    ):
        list(load_sequences([file], TrainSpec(student="x", loss="forward_kl"), tokenizer, 48))


@pytest.mark.parametrize("marked", [False, True])
def test_another_tokenizer_learns_the_answer_of_the_students_template(
    marked: bool,
    write_curated: Callable[..., Path],
    make_tokenizer: Callable[..., Any],
    marked_template: str,
) -> None:
    words = ["<eos>", "<assistant>", "<user>", "is", "plus", "<pad>", *map(str, range(42))]
    other = make_tokenizer(words, marked_template) if marked else make_tokenizer(words)
    rows = load(write_curated(), other)
    assert len(rows) == 60
    assert other.decode(rows[0].ids) == "<user> 0 plus 0 <eos> <assistant> 0 plus 0 is 0 <eos>"
    assert target_words(rows[0], other) == "0 plus 0 is 0 <eos>"


def test_an_unknown_teacher_tokenizer_means_text(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    assert (
        target_words(load(write_curated(fingerprint=None), tokenizer)[0], tokenizer)
        == "0 plus 0 is 0 <eos>"
    )


def test_an_answer_without_an_end_gets_one(
    write_curated: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    template = "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' ' }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
    )
    words = ["<eos>", "<pad>", "<user>", "<assistant>", "plus", "is", *map(str, range(42))]
    other = make_tokenizer(words, template)
    assert target_words(load(write_curated(), other)[0], other) == "0 plus 0 is 0 <eos>"


def test_a_template_that_rewrites_the_prompt_is_refused(
    write_curated: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    template = (
        "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}{% for m in messages %}{{"
        " m.content }}{% endfor %}"
    )
    other = make_tokenizer(["<eos>", "<pad>", *map(str, range(46))], template)
    with pytest.raises(StageError, match="rewrites the conversation"):
        load(write_curated(), other)


@pytest.mark.parametrize("learn_turns", ["last", "all"])
def test_a_template_that_cuts_an_answer_is_refused(
    learn_turns: str, make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    """What is trained on is what was answered: templates of reasoning models cut what stands before
    </think>."""
    words = [
        "<pad>",
        "<eos>",
        "<user>",
        "<assistant>",
        "5",
        "is",
        "because",
        "2",
        "</think>",
        "[",
        "]",
    ]
    cut = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<assistant> ' +"
        " m.content.split('</think>')[-1] + ' <eos> ' }}"
        "{% else %}{{ '<user> ' + m.content + ' ' }}{% endif %}{% endfor %}{% if"
        " add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
    )
    turns = [
        {"role": "user", "content": "5"},
        {"role": "assistant", "content": "because 2 </think> is 5"},
    ]
    with pytest.raises(StageError, match="leaves out a part of the answers"):
        learn(turns, make_tokenizer(words, cut), learn_turns)
    kept = cut.replace(".split('</think>')[-1]", ".strip()")
    spaced = [turns[0], {"role": "assistant", "content": "because  2 </think>\n is 5 "}]
    learned = learn(spaced, make_tokenizer(words, kept), learn_turns)
    assert target_words(learned, make_tokenizer(words, kept)) == "because 2 </think> is 5 <eos>"


@pytest.mark.parametrize(
    "change",
    [
        ".replace('is', '')",
        ".upper()",
        "[:8]",
        "|replace('2', '5')",
        ".split()[0]",
        ".split()|join('\n')",
    ],
)
def test_a_template_that_changes_an_answer_is_refused(
    change: str, make_tokenizer: Callable[..., Any]
) -> None:
    words = ["<pad>", "<eos>", "<user>", "<assistant>", "because", "BECAUSE", "is", "IS", "2", "5"]
    changed = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<assistant> ' + (m.content"
        + change
        + ") + ' <eos> ' }}"
        "{% else %}{{ '<user> ' + m.content + ' ' }}{% endif %}{% endfor %}{% if"
        " add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
    )
    turns = [{"role": "user", "content": "5"}, {"role": "assistant", "content": "because 2 is 5"}]
    with pytest.raises(StageError, match="leaves out a part of the answers"):
        learn(turns, make_tokenizer(words, changed), "last")


def test_an_answer_that_speaks_of_the_end_mark_is_learnt_whole(
    make_tokenizer: Callable[..., Any],
) -> None:
    words = ["<pad>", "<eos>", "<user>", "<assistant>", "write", "then", "stop", "5"]
    template = (  # without an end of its own
        "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
    )
    tokenizer = make_tokenizer(words, template)
    row = learn(
        [
            {"role": "user", "content": "5"},
            {"role": "assistant", "content": "write <eos> then stop"},
        ],
        tokenizer,
        "last",
    )
    assert target_words(row, tokenizer) == "write <eos> then stop <eos>"


def test_a_tokenizer_without_tokens_for_the_answers_is_refused(
    write_curated: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    other = make_tokenizer(["<eos>", "<assistant>", "<user>", "is", "<pad>", *map(str, range(42))])
    with pytest.raises(
        StageError, match=r"60 of 60 examples .* e\.g\. '.*<pad>.*' where '.*plus.*' was answered"
    ):
        load(write_curated(), other)


def test_ids_of_another_answer_than_the_text_are_refused_where_they_are_many(
    write_curated: Callable[..., Path], tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The text is what a filter may have changed; the ids are what would be learnt."""
    (file,) = finished(write_curated()).files("train")
    (table,), metadata = read_tables([file]), file_metadata(file)
    rows = to_rows(table, Example)

    def write(changed: int) -> None:
        ask = [row.messages[:-1] for row in rows]
        other = [
            replace(row, messages=[*asked, {"role": "assistant", "content": "is 7"}])
            for row, asked in zip(rows, ask, strict=True)
        ]
        write_parquet(to_table([*other[:changed], *rows[changed:]], EXAMPLE, metadata), file)

    write(3)
    assert len(list(load_sequences([file], SFT, tokenizer, 48))) == 60
    assert "3 of 60 examples" in caplog.text
    write(4)
    with pytest.raises(
        StageError,
        match=r"4 of 60 examples .* teach another text than their answer, .* where"
        r" 'is 7' was answered",
    ):
        list(load_sequences([file], SFT, tokenizer, 48))


def test_a_tokenizer_without_a_template_is_refused(
    write_curated: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    with pytest.raises(StageError, match=r"no chat template; set train\.tokenizer"):
        load(write_curated(), make_tokenizer(["<eos>", "<pad>", *map(str, range(46))], None))


def test_token_ids_beyond_the_students_vocabulary_are_refused(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    with pytest.raises(StageError, match="outside the student's vocabulary of 20"):
        load(write_curated(), tokenizer, vocab_size=20)


def test_rows_of_several_files_keep_their_order(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    files = finished(write_curated()).files()
    both = list(load_sequences(files, SFT, tokenizer, 48))
    assert len(both) == 64
    np.testing.assert_array_equal(both[0].ids, load(files[0].parents[1], tokenizer)[0].ids)


@pytest.mark.parametrize("template", ["plain", "marked", "phi"])
def test_all_turns_are_learned_with_their_ends_whatever_the_template(
    template: str, tmp_path: Path, make_tokenizer: Callable[..., Any], marked_template: str
) -> None:
    words = ["<pad>", "<eos>", "<user>", "<assistant>", "<end>", "plus", "is", *map(str, range(42))]
    made = {
        "plain": make_tokenizer(words),
        "marked": make_tokenizer(words, marked_template),
        "phi": make_tokenizer(words, PHI_TEMPLATE),
    }
    file, tokenizer = conversation_file(tmp_path, TURNS), made[template]
    (every,) = load_sequences(
        [file], TrainSpec(student="x", loss={"kind": "sft", "learn_turns": "all"}), tokenizer, 99
    )
    (last,) = load_sequences([file], SFT, tokenizer, 99)
    end, close = ("<end>", "<end> <eos>") if template == "phi" else ("<eos>", "<eos>")
    assert target_words(every, tokenizer) == f"1 plus 2 is 3 {end} is 7 {close}"
    assert target_words(last, tokenizer) == f"is 7 {close}"
    first, second = (
        f"<user> 1 plus 2 {end} <assistant> 1 plus 2 is 3 {end}",
        f"<user> 3 plus 4 {end} <assistant> is 7 {close}",
    )
    assert tokenizer.decode(every.ids) == tokenizer.decode(last.ids) == f"{first} {second}"


def test_all_turns_are_learned_from_a_teacher_of_the_same_tokenizer_too(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    row = Example(1, "t", 0, "train", TURNS, prompt_token_ids=[2, 7], token_ids=[8, 1])
    (every,) = load(
        write_curated(train=[row]),
        tokenizer,
        TrainSpec(student="x", loss={"kind": "sft", "learn_turns": "all"}),
    )
    assert target_words(every, tokenizer) == "1 plus 2 is 3 <eos> is 7 <eos>"


def test_a_student_whose_template_opens_answers_otherwise_than_the_teachers_did_is_refused(
    write_curated: Callable[..., Path], tokenizer: Any, make_tokenizer: Callable[..., Any]
) -> None:
    vocabulary = tokenizer.get_vocab()
    other = make_tokenizer(
        sorted(vocabulary, key=vocabulary.get),
        tokenizer.chat_template.replace("'<assistant> '", "'<assistant> is '"),
    )
    assert other.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(
        StageError, match=r"asked for its answers with '.*', .* opens them with '.*is'"
    ):
        load(write_curated(), other)


def test_a_student_without_a_template_learns_from_a_teacher_without_one_only(
    write_curated: Callable[..., Path], tokenizer: Any, make_tokenizer: Callable[..., Any]
) -> None:
    vocabulary = tokenizer.get_vocab()
    bare = make_tokenizer(sorted(vocabulary, key=vocabulary.get), None)
    with pytest.raises(
        StageError,
        match=r"has no chat template, so its questions end with '1 plus 2'.*set train\.tokenizer",
    ):
        load(write_curated(train=[example_row(bare, "<user> 1 plus 2 <eos> <assistant>")]), bare)
    (only,) = load(write_curated("bare", train=[example_row(bare, "1 plus 2")]), bare)
    assert target_words(only, bare) == "1 plus 2 is 3 <eos>"


def example_row(tokenizer: Any, asked: str) -> Example:
    asked_ids, answer_ids = (
        tokenizer(text)["input_ids"] for text in (asked, "1 plus 2 is 3 <eos>")
    )
    return Example(1, "t", 0, "train", TURNS[:2], prompt_token_ids=asked_ids, token_ids=answer_ids)


def test_a_template_that_refuses_a_conversation_says_which(
    write_curated: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    template = (
        "{% if messages[0].role == 'user' %}{{ raise_exception('System role wanted') }}{% endif %}"
    )
    other = make_tokenizer(["<eos>", "<pad>", *map(str, range(46))], template)
    with pytest.raises(
        StageError,
        match=r"refuses a conversation of user, assistant \(System role wanted\);"
        r" change the prompts",
    ):
        load(write_curated(), other)


def test_more_stored_tokens_than_the_student_has_are_refused(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    with pytest.raises(
        StageError,
        match=r"likeliest tokens, but the student has 3 tokens; set"
        r" generate\.capture\.top_k to fewer",
    ):
        load(
            write_curated(top_k=4),
            tokenizer,
            TrainSpec(student="x", loss="forward_kl"),
            vocab_size=3,
        )


def test_a_system_message_that_only_the_teacher_had_is_no_other_template(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    asked = tokenizer("<system> is <eos> <user> 1 plus 2 <eos> <assistant>")["input_ids"]
    answer = tokenizer("1 plus 2 is 3 <eos>")["input_ids"]
    row = Example(1, "t", 0, "train", TURNS[:2], prompt_token_ids=asked, token_ids=answer)
    (only,) = load(write_curated(train=[row]), tokenizer)
    assert only.ids.tolist() == [*asked, *answer]


def test_a_template_that_rewrites_earlier_turns_is_refused(
    tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    # what was said before "is" leaves an answer once the conversation goes on, as reasoning does in
    # some templates
    template = (
        "{% for m in messages %}{{ '<' + m.role + '> ' + (m.content if loop.last else"
        " m.content.split('is')[-1]) + ' <eos>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
    )
    other = make_tokenizer(
        ["<pad>", "<eos>", "<user>", "<assistant>", "plus", "is", *map(str, range(42))], template
    )
    last_user_stays = [*TURNS[:2], {"role": "user", "content": "4"}, TURNS[3]]
    with pytest.raises(
        StageError, match=r"rewrites earlier turns .* set train\.loss\.learn_turns: last"
    ):
        list(
            load_sequences(
                [conversation_file(tmp_path, last_user_stays)],
                TrainSpec(student="x", loss={"kind": "sft", "learn_turns": "all"}),
                other,
                99,
            )
        )
    (last,) = load_sequences([conversation_file(tmp_path, last_user_stays)], SFT, other, 99)
    assert target_words(last, other) == "is 7 <eos>"


def test_a_live_teacher_needs_no_stored_signal(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    spec = TrainSpec(student="x", loss="forward_kl", teacher={"model": "big"})
    assert load(write_curated(), tokenizer, spec)[0].signal is None


def test_a_padded_vocabulary_matters_only_where_an_id_lies_in_the_padding(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    spec, (file,) = (
        TrainSpec(student="x", loss="forward_kl"),
        finished(write_curated(top_k=3)).files("train"),
    )
    (table,), metadata = read_tables([file]), file_metadata(file) | {"vocab_size": 64}
    rows = to_rows(table, Example)
    write_parquet(to_table(rows, EXAMPLE, metadata), file)
    assert len(list(load_sequences([file], spec, tokenizer, 48))) == 60
    beyond = replace(rows[7], topk_ids=[*rows[7].topk_ids[:-1], 50])
    write_parquet(to_table([*rows[:7], beyond], EXAMPLE, metadata), file)
    with pytest.raises(
        StageError,
        match=r"token id 50 in train-00000\.parquet .* vocabulary of 48 \(the"
        r" teacher's has 64.*loss: sft",
    ):
        list(load_sequences([file], spec, tokenizer, 48))


def test_kl_with_another_tokenizer_names_the_loss_that_aligns(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    with pytest.raises(StageError, match=r"set train\.loss: sft, or uld"):
        load(
            write_curated(top_k=3, fingerprint="another"),
            tokenizer,
            TrainSpec(student="x", loss="reverse_kl"),
        )


ULD = TrainSpec(student="x", loss="uld")


def uld_file(
    folder: Path, teacher_tokenizer: Any, answers: list[list[int]], contents: list[str]
) -> Path:
    """Examples of teacher "big"; token t of an answer has log-probabilities -t - 1 and -t - 2 and a
    tail of t / 100."""
    rows = []
    for answer, content in zip(answers, contents, strict=True):
        at = np.arange(len(answer))
        messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": content}]
        logprobs = np.stack([-at - 1.0, -at - 2.0], 1).ravel()
        rows.append(
            Example(
                1,
                "big",
                0,
                "train",
                messages,
                [2],
                answer,
                np.full(2 * len(at), 99_999),
                logprobs,
                at / 100,
            )
        )
    fingerprint = tokenizer_fingerprint(teacher_tokenizer.get_vocab())
    metadata = {
        "teacher": "big",
        "top_k": 2,
        "vocab_size": 100_000,
        "tokenizer_fingerprint": fingerprint,
    }
    write_parquet(to_table(rows, EXAMPLE, metadata), folder / "uld.parquet")
    return folder / "uld.parquet"


def test_uld_takes_the_signal_of_the_teachers_token_at_the_same_character(
    tmp_path: Path, tokenizer: Any, make_tokenizer: Callable[..., Any]
) -> None:
    teacher = make_tokenizer(["<eos>", "<pad>", "is", "plus", "10", "1", "3", "is 3"])
    # "1 plus 3", where the teacher's second answer has one word less and no end.
    file = uld_file(tmp_path, teacher, [[5, 3, 6, 0], [5, 2]], ["1 plus 3", "1 is"])
    whole, cut = load_sequences([file], ULD, tokenizer, 48, {"big": teacher})
    assert target_words(whole, tokenizer) == "1 plus 3 <eos>"
    assert whole.signal.logprobs.tolist() == [[-1, -2], [-2, -3], [-3, -4], [-4, -5]]
    np.testing.assert_allclose(whole.signal.tail, [0, 0.01, 0.02, 0.03])
    assert not whole.signal.ids.any()
    assert cut.signal.logprobs.tolist() == [
        [-1, -2],
        [-2, -3],
        [0, 0],
    ]  # the student's end has no counterpart
    np.testing.assert_allclose(cut.signal.tail, [0, 0.01, -1])


def test_uld_uses_a_signal_over_the_same_tokens_as_it_is(
    write_curated: Callable[..., Path], tokenizer: Any
) -> None:
    folder = write_curated(top_k=3)
    exact, same = (
        load(folder, tokenizer, TrainSpec(student="x", loss="forward_kl")),
        load(folder, tokenizer, ULD),
    )
    np.testing.assert_array_equal(same[5].signal.ids, exact[5].signal.ids)


def test_uld_with_the_wrong_tokenizer_is_refused(
    tmp_path: Path, tokenizer: Any, make_tokenizer: Callable[..., Any]
) -> None:
    teacher = make_tokenizer(["<eos>", "<pad>", "is", "plus", "10", "1", "3", "2"])
    file = uld_file(tmp_path, teacher, [[5, 3, 6, 0], [5, 3, 7, 0]], ["1 plus 3", "1 plus 2"])
    wrong = make_tokenizer(["<eos>", "<pad>", "plus", "is", "11", "3", "1", "4"])
    with pytest.raises(
        StageError,
        match=r"found only 0 of 8 answer tokens in uld\.parquet .*'big'.* the right tokenizers",
    ):
        list(load_sequences([file], ULD, tokenizer, 48, {"big": wrong}))
    with pytest.raises(
        StageError, match=r"teacher 'big' in uld\.parquet .* knows those of \['other'\]"
    ):
        list(load_sequences([file], ULD, tokenizer, 48, {"other": teacher}))
