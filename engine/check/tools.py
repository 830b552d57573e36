"""What is wrong with a job whose prompts offer tools: models that would not be told of them, and
answers whose calls nobody reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.backends.library_names import mapping_keys, nearest_names, package_folder
from engine.check.models import tokenizer_of
from engine.job.spec import JobSpec, VllmTeacherSpec
from engine.rows.tools import Conversation

_PARSERS = ("tool_parsers/__init__.py", "_TOOL_PARSERS_TO_REGISTER")


def tool_problems(job: JobSpec) -> Iterator[str]:
    """Parsers that vLLM does not have; and where prompts offer tools, templates that leave them
    out, and parsers that are missing."""
    # Here: a job without problems elsewhere need not wait for it.
    from engine.stages.prompts.heads import first_with_tools

    asked = first_with_tools(job.prompts)
    for number, teacher in enumerate(job.generate.teachers):
        if isinstance(teacher, VllmTeacherSpec):
            field = f"generate.teachers.{number}"
            yield from _parser_problems(f"{field}.tool_parser", teacher.tool_parser, asked)
            remedy = "take a teacher whose template knows them"
            yield from _template_problems(f"{field}.model", teacher.model, asked, remedy)
    yield from _parser_problems("evaluate.tool_parser", job.evaluate.tool_parser, asked)
    field, source = tokenizer_of(job)
    remedy = (
        "set train.tokenizer to a folder with the same tokenizer and a template that knows them"
    )
    yield from _template_problems(field, source, asked, remedy)


def _parser_problems(field: str, parser: str | None, asked: Conversation | None) -> Iterator[str]:
    vllm = package_folder("vllm")
    if parser is not None and vllm is not None:
        file, mapping = _PARSERS
        known = mapping_keys(vllm / file, mapping)
        if parser not in known:
            yield f"{field}: vLLM has no {parser}; {nearest_names(parser, known)}"
    if parser is None and asked is not None and asked.tools:
        yield (
            f"{field}: the prompts offer tools, but nothing reads calls out of this model's text;"
            " set it to vLLM's parser for the model's family, e.g. hermes (Qwen 2.5, Qwen 3) or"
            " llama3_json"
        )


def _template_problems(
    field: str, model: str, asked: Conversation | None, remedy: str
) -> Iterator[str]:
    if asked is None:
        return
    # Here: a job without tools need not wait for jinja.
    from engine.check.templates import ignores_tools

    problem = ignores_tools(Path(model), asked)
    if problem is not None:
        yield (
            f"{field}: the prompts have to do with tools, but {model} {problem}; {remedy}, or take"
            " the tools out of the prompts (prompts.fields.tools: null)"
        )
