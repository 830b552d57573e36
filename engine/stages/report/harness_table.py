"""What lm-eval found, as one table: a row per figure of a task, a column per model."""

from __future__ import annotations

from engine.stages.report.table import MODELS, UNKNOWN, Block, Table, figure, words


def harness_tables(report: Block) -> list[Table]:
    """None where the job names no task files."""
    found = report.get("lm_eval")
    if not found:
        return []
    scores: dict[tuple[str, str, str], dict[str, Block]] = {}
    for model, figures in found["scores"].items():
        for each in figures:
            key = (each["task"], each["metric"], each["filter"])
            scores.setdefault(key, {})[model] = each
    told = found["scores"].keys() | found.get("unknown", {}).keys()
    asked = [model for model in MODELS if model in told]
    rows = []
    for (task, metric, name), by_model in scores.items():
        count = found["tasks"].get(task, {}).get("n")
        label = words(metric)
        if name != "none":
            label += f", {words(name)}"
        cells = [_cell(by_model.get(model)) for model in asked]
        rows.append([task, label, figure(count), *cells])
    return [Table("lm-eval", ["task", "metric", "rows", *asked], rows, _note(found, asked))]


def _cell(score: Block | None) -> str:
    if score is None or score["value"] is None:
        return UNKNOWN
    if score["stderr"] is None:
        return figure(score["value"])
    return f"{figure(score['value'])} ± {figure(score['stderr'])}"


def _note(found: Block, asked: list[str]) -> str:
    lines = [f"lm-eval {found['version']}, offline, by the job's task files; ± one standard error."]
    templates = found.get("chat_template", {})
    bare = [model for model in asked if templates.get(model) is False]
    if bare:
        lines.append(f"Asked without a chat template, since it has none: {', '.join(bare)}.")
    for model, tasks in found.get("unknown", {}).items():
        reasons: dict[str, list[str]] = {}
        for task, reason in tasks.items():
            reasons.setdefault(reason, []).append(task)
        for reason, names in reasons.items():
            lines.append(f"{model}, {', '.join(names)}: not known ({reason}).")
    if found.get("cost_usd"):
        lines.append(f"Asking the teacher's API took {found['cost_usd']:.4g} USD.")
    return "\n".join(lines)
