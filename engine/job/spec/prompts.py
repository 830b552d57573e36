"""The block `prompts`: where the questions come from."""

from __future__ import annotations

import string
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from engine.job.spec.base import Block, identity, placement
from engine.job.spec.curation import DecontaminateSpec

NEAR_DUPLICATES = "near_duplicates"  # in place of a column's name
Label = Literal["entailment", "neutral", "contradiction", "not_entailment"]


def _named(labels: Any) -> Any:
    """YAML reads 0 as a number and no as false; both are names here."""
    if not isinstance(labels, dict):
        return labels
    return {str(name): label for name, label in labels.items()}


Labels = Annotated[dict[str, Label], BeforeValidator(_named)]


class FieldMap(Block):
    """Names of the columns in the source files."""

    id: str | None = identity(None)
    """Column of the row's own id, kept as `source_id`; none: file name and line number."""
    prompt: str = identity("prompt")
    """Column of a single user turn."""
    messages: str = identity("messages")
    """Column of a whole conversation in OpenAI chat form; it wins over `prompt` where both are
    present."""
    reference: str = identity("reference")
    """Column of the gold answer, if there is one: a text or number, a list of all right answers, or
    SQuAD's or TriviaQA's map of them."""
    tools: str | None = identity("tools")
    """Column of the tools that may be called, in OpenAI's form: a list or its JSON. Messages call
    them by `tool_calls`, and role `tool` answers. None: none is offered."""
    labels: Labels = identity({})
    """What the gold labels of task nli mean, where they are no usual names or numbers: {SUPPORTS:
    entailment, REFUTES: contradiction}. Teachers and student may answer in these names too."""
    system: str | None = identity(None)
    """Column of a system message that is put before `prompt`."""


class PromptLeaksSpec(DecontaminateSpec):
    """Training prompts that hold what models are tested on: told before anybody is asked."""

    against: list[str] = placement([])
    """Files or folders of test data, in any format of `train`; `*` stands for any name. What is
    looked for is the question of a row: the columns that prompts are read from, or usual ones
    (question, problem, instruction, text, …). The validation prompts are always looked for.
    Identity is their content."""
    action: Literal["drop", "flag"] = identity("drop")
    """`drop`: they leave training (contaminated). `flag`: they stay, and twins.parquet names
    them."""


class PromptsSpec(Block):
    """Source files -> prompts: normalised, with stable ids, split and sharded."""

    train: str | list[str] = placement()
    """Training prompts: JSONL, JSON arrays, CSV, TSV (each also .gz or .zst), Parquet or a
    `datasets` folder saved to disk; or a folder of them, or a data set of the hub
    (hf://owner/data). Identity is their content, not their path."""
    validation: str | list[str] | None = placement(None)
    """Validation prompts; none: `validation_fraction` is taken from the training prompts."""
    validation_fraction: float = identity(0.05, ge=0, lt=1)
    """Seeded fraction of the training prompts held out when no validation file is given."""
    split_by: str | None = identity(None)
    """What lies whole in one split where `validation_fraction` is taken: a column of the sources,
    such as document or dialogue_id, or `near_duplicates`: prompts that are nearly the same. With
    `near_duplicates` set those lie in one split besides. Validation prompts that still have a twin
    in training leave validation. None: each prompt by itself."""
    decontaminate: PromptLeaksSpec | None = identity(None)
    """Training prompts that hold test data leave before anybody is asked; none: nothing is looked
    for."""
    near_duplicates: float | None = identity(None, ge=0.7, le=1)
    """Share of word 5-grams in common from which a training prompt leaves, because an earlier
    prompt is nearly the same (turns of one dialogue are not compared); none: only equal ones
    leave."""
    fields: FieldMap = identity(FieldMap())
    """Column names in the source files."""
    template: str | None = identity(None)
    """Builds the prompt from columns by name: "Premise: {premise}\\nHypothesis: {hypothesis}";
    none: the prompt or messages column."""
    system: str | None = identity(None)
    """System message put before every conversation that has none."""
    turns: Literal["last", "each"] = identity("last")
    """`last`: a dialogue is one prompt, for its last answer. `each`: one prompt per answer, with
    the gold history before it; all of a dialogue lie in one split, and evaluate counts them as one
    (column dialogue_id, else fields.id, else the content)."""
    on_conflict: Literal["error", "first"] = identity("error")
    """Equal messages with different references: stop, or keep the first. Under `turns: each` the
    first is kept, because dialogues may open alike."""
    limit: int | None = identity(None, ge=1)
    """Read at most this many rows of each source file."""
    shard_rows: int = placement(4096, ge=1)
    """Rows per Parquet file."""
    workers: int | None = placement(None, ge=1)
    """Processes that read sources of 64 MiB and more, on the machine where the command runs; none:
    one per processor."""

    @model_validator(mode="after")
    def _template_names_columns(self) -> PromptsSpec:
        try:
            parts = list(string.Formatter().parse(self.template or "{prompt}"))
        except ValueError:
            parts = []
        names = [(name, how) for _, name, *how in parts if name is not None]
        plain = (["", None], [None, None])  # neither a format nor a conversion
        if not names or not all(
            name.strip() and not name.isdigit() and not set(name) & set(".[]") and how in plain
            for name, how in names
        ):
            raise ValueError(
                f"prompts.template={self.template!r}; write column names in braces, such as"
                f" {{premise}}"
            )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_split(self) -> PromptsSpec:
        if self.split_by is not None and self.validation is not None:
            raise ValueError(
                f"prompts.split_by={self.split_by} says how validation is taken from the training"
                " prompts, but prompts.validation names its files; leave one of them out"
            )
        return self

    @property
    def is_choosy(self) -> bool:
        """Whether prompts are compared with each other or with test data, beyond equal ones."""
        wanted = (self.split_by, self.decontaminate, self.near_duplicates)
        return any(each is not None for each in wanted)

    @property
    def split_column(self) -> str | None:
        """The column that `split_by` names."""
        return None if self.split_by == NEAR_DUPLICATES else self.split_by

    def sources(self) -> list[str]:
        """The source files behind a mark of their split, which is no file: a file that changes
        sides changes the identity."""
        found = []
        sides = {"train": self.train, "validation": self.validation or []}
        if self.decontaminate is not None:
            sides["decontaminate"] = self.decontaminate.against
        for side, paths in sides.items():
            found += [f"{side}:", *([paths] if isinstance(paths, str) else paths)]
        return found
