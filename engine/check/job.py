"""What can be known to fail before anything runs: the files, folders, layouts and keys that a job
names.

`distill check` must answer within a second, so nothing here imports torch, ray, vllm or
transformers, opens weights or asks the network. A hub name is believed unless it cannot be one.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from engine.backends.deepspeed_settings import deepspeed_problems
from engine.backends.lm_eval_problems import file_problems, installation_problem
from engine.backends.vllm_settings import engine_problems
from engine.check.memory import memory_problems
from engine.check.models import (
    NotHere,
    has_chat_template,
    has_tokenizer,
    layout_problems,
    model_problems,
    name_problems,
    quantized_problems,
    rope_problems,
    split_problems,
    tokenizer_of,
    tokenizer_problems,
)
from engine.check.tools import tool_problems
from engine.check.training import (
    lora_problems,
    signal_problems,
    training_problems,
    white_box_problems,
)
from engine.errors import InputError, SpecError
from engine.job.spec import API_KINDS, AskedJudgeSpec, JobSpec, PromptsSpec, VllmTeacherSpec
from engine.machines.architectures import facts
from engine.rows.judging.rubric import load_rubric
from engine.run.identity import is_same_model
from engine.store.hub import local_source, missing_data


def check_job(
    job: JobSpec,
    running: Collection[str] = ("generate", "evaluate", "loadtest"),
    *,
    is_here: bool = True,
) -> None:
    """SpecError with all problems of the job, one per line. A missing API key, or lm-eval, is one
    where a stage that wants it is `running` here; what is not on this machine's disk only where
    the job `is_here` to be run."""
    problems = [*problems_of(job), *_missing_keys(job, running)]
    missing = installation_problem(job.evaluate.lm_eval)
    if missing and "evaluate" in running:
        problems.append(missing)
    if not is_here:
        problems = [problem for problem in problems if not isinstance(problem, NotHere)]
    if problems:
        raise SpecError("\n".join(problems))


def problems_of(job: JobSpec) -> list[str]:
    """Everything that is wrong with the files and machines' settings that the job names, one
    sentence each."""
    parts = (
        _judge_problems,
        _student_problems,
        _template_problems,
        tool_problems,
        white_box_problems,
        signal_problems,
        training_problems,
        lora_problems,
        deepspeed_problems,
        _metric_problems,
        _load_problems,
    )
    problems = [*_source_problems(job.prompts), *_test_data_problems(job), *_teacher_problems(job)]
    for part in parts:
        problems += part(job)
    problems += file_problems(job.evaluate.lm_eval)
    return problems


def _source_problems(spec: PromptsSpec) -> list[str]:
    # Here: a job without problems elsewhere need not wait for it.
    from engine.stages.prompts.heads import head_problems

    sources = [source for source in spec.sources() if not source.endswith(":")]
    if missing_data(sources):  # believed, as the hub's models are
        return []
    return _of_files(sources, head_problems(spec))


def _of_files(sources: Collection[str], problems: list[str]) -> list[str]:
    """Problems of files, some of which may be on another machine alone."""
    if all(local_source(source).exists() for source in sources):
        return problems
    return [NotHere(problem) for problem in problems]


def _test_data_problems(job: JobSpec) -> list[str]:
    """Of the files that answers are held against: curate reads them when all is paid for."""
    spec = job.curate.decontaminate
    if spec is None or missing_data(spec.against):
        return []
    from engine.rows.sources.held_out import held_out_texts
    from engine.stages.prompts.heads import HEAD_ROWS

    try:
        held_out_texts("curate.decontaminate.against", spec.against, most_rows=HEAD_ROWS)
    except InputError as error:
        return _of_files(spec.against, [str(error)])
    return []


def source_lines(job: JobSpec) -> list[str]:
    """What the job's prompt files hold, a sentence each."""
    from engine.rows.final_answer import rules_for
    from engine.stages.prompts.head_lines import head_lines

    if missing := missing_data(job.prompts.sources()):
        return [f"{source}: not on this machine yet; distill fetch brings it" for source in missing]
    columns = []
    if job.generate.route_by:
        columns.append(job.generate.route_by)
    rules = rules_for(job.curate.verify.qa, job.prompts.fields.labels)
    return head_lines(job.prompts, job.task, columns, rules)


def _teacher_problems(job: JobSpec) -> Iterator[str]:
    top_k = job.generate.capture.top_k
    for number, teacher in enumerate(job.generate.teachers):
        if not isinstance(teacher, VllmTeacherSpec):
            continue
        yield from _weights_problems(f"generate.teachers.{number}", teacher, job.device)
        shape = facts(teacher.model)
        if shape and top_k > shape.vocab:
            yield (
                f"generate.capture.top_k={top_k}, but the model has {shape.vocab} tokens; choose"
                " fewer"
            )


def _weights_problems(field: str, teacher: VllmTeacherSpec, device: str) -> Iterator[str]:
    """Of a teacher, or of a judge, whose model runs here."""
    shape = facts(teacher.model)
    yield from model_problems(f"{field}.model", teacher.model, trust=teacher.trust_remote_code)
    yield from tokenizer_problems(f"{field}.model", teacher.model)
    yield from layout_problems(field, shape, teacher.tensor_parallel, teacher.max_model_len)
    yield from split_problems(field, shape, teacher, device)
    yield from engine_problems(field, teacher)
    yield from memory_problems(field, shape, teacher, device)


def _judge_problems(job: JobSpec) -> Iterator[str]:
    for field, judge in (
        ("curate.judge", job.curate.judge),
        ("evaluate.judge", job.evaluate.judge),
    ):
        if judge is not None:
            yield from _problems_of_judge(field, judge, job)


def _problems_of_judge(field: str, judge: AskedJudgeSpec, job: JobSpec) -> Iterator[str]:
    try:
        load_rubric(f"{field}.rubric", judge.rubric)
    except SpecError as error:
        yield str(error)
    if is_same_model(judge.teacher.model, job.train.student):
        yield (
            f"{field}.teacher.model={judge.teacher.model} is train.student: a model that judges its"
            " own answers says nothing about them; name another model"
        )
    if isinstance(judge.teacher, VllmTeacherSpec):
        yield from _weights_problems(f"{field}.teacher", judge.teacher, job.device)


def _student_problems(job: JobSpec) -> Iterator[str]:
    student = job.train.student
    shape = facts(student)
    is_pretrained = job.train.init == "pretrained"
    yield from model_problems("train.student", student, weights=is_pretrained)
    if is_pretrained:
        yield from quantized_problems(student)
    if job.train.tokenizer:
        yield from name_problems("train.tokenizer", job.train.tokenizer)
    yield from tokenizer_problems(*tokenizer_of(job))
    if shape and 0 < shape.max_context < job.train.block_tokens:
        yield (
            f"train.block_tokens={job.train.block_tokens}, but the model has {shape.max_context}"
            " positions; choose at most that many"
        )
    for name in ("evaluate", "serve"):
        block = getattr(job, name)
        yield from layout_problems(name, shape, block.tensor_parallel, block.max_model_len)
        yield from split_problems(name, shape, block, job.device)
        yield from engine_problems(name, block)
        yield from memory_problems(name, shape, block, job.device)
        if shape and shape.short_context and (name == "evaluate" or job.loadtest.models):
            yield from rope_problems(name, shape, job.train.block_tokens, block.max_model_len)


def _metric_problems(job: JobSpec) -> Iterator[str]:
    if job.evaluate.metrics == "auto":
        return
    from engine.rows.metrics import resolve_metrics  # sacrebleu takes a while

    try:
        resolve_metrics(job.task, job.evaluate.metrics)
    except SpecError as error:
        yield str(error)


def _load_problems(job: JobSpec) -> Iterator[str]:
    """A server refuses a request that asks for more tokens than it holds."""
    load = job.loadtest
    student = facts(job.train.student)
    longest = job.serve.max_model_len or (student.max_context if student else 0)
    wanted = load.max_tokens
    if load.output_tokens and load.output_tokens.high:
        wanted = int(load.output_tokens.high)
    if load.models and 0 < longest <= wanted:
        yield (
            f"serve.max_model_len={longest} holds prompt and answer, but loadtest asks for answers"
            f" of {wanted} tokens; raise it, or lower loadtest.max_tokens"
        )


def _missing_keys(job: JobSpec, running: Collection[str]) -> Iterator[str]:
    asks = {"generate": {"generate"}, "evaluate": {"evaluate"}, "serve": {"loadtest"}}
    if job.evaluate.lm_eval:
        asks = {block: stages | {"evaluate"} for block, stages in asks.items()}
    for field, variable in job.key_variables().items():
        stages = asks.get(field.partition(".")[0], set())
        if stages.intersection(running) and not os.environ.get(variable):
            yield (
                f"{field}: the environment variable {variable} is not set; export {variable}=<the"
                " key> before the command"
            )


def _template_problems(job: JobSpec) -> Iterator[str]:
    """Answers that come as text must be spelt by the student's chat template; a teacher's own token
    ids need none."""
    field, source = tokenizer_of(job)
    apis = [teacher.name for teacher in job.generate.teachers if teacher.kind in API_KINDS]
    if apis and has_tokenizer(source) and not has_chat_template(Path(source)):
        yield (
            f"{field}: {source} has no chat template (chat_template.jinja, or chat_template in"
            " tokenizer_config.json), so the text that"
            f" teacher '{apis[0]}' gives cannot become a conversation of the student; set"
            " train.tokenizer to one that has"
        )
