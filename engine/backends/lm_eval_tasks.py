"""What task files of lm-eval say, read without the harness: the tasks that a file stands for, and
every file that decides their results.

It knows the harness' words (`include`, `!function`, groups, tags) and judges nothing; what is wrong
with a task is said in lm_eval_problems.py. Where the data lie is in lm_eval_data.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Words of a group about itself; all others are handed to its members.
GROUP_FIELDS = ("group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag")
Settings = dict[str, Any]


class TaskFileError(Exception):
    """What is wrong with a task file, without its path."""


@dataclass(frozen=True)
class Function:
    """`!function name.of.function`: Python beside the file, which the harness imports."""

    name: str
    folder: Path

    @property
    def module(self) -> Path | None:
        """The file that holds it, where it lies beside the task file."""
        path = self.folder / (self.name.rpartition(".")[0].replace(".", "/") + ".py")
        return path if path.is_file() else None


@dataclass(frozen=True)
class Task:
    """One task as the harness would run it: with what its file includes and its group hands on."""

    name: str
    settings: Settings


@dataclass(frozen=True)
class Suite:
    """What one file of the job stands for; `files`: it, and the task files that it needs."""

    tasks: tuple[Task, ...]
    files: tuple[Path, ...]
    group: str | None = None  # its name, where it is one


class _Loader(yaml.SafeLoader):
    """Of a function it keeps the name: nothing is imported."""


def _function(loader: _Loader, node: yaml.ScalarNode) -> Function:
    return Function(str(loader.construct_scalar(node)), Path(str(loader.name)).parent)


_Loader.add_constructor("!function", _function)


def read_suite(path: Path) -> Suite:
    """The tasks of a file. TaskFileError for a file, or a member of a group, that cannot be read.
    Names of members are looked for in the file's folder and below."""
    settings, files = _read(path)
    if "group" not in settings:
        name = settings.get("task")
        if not isinstance(name, str):
            raise TaskFileError(
                "it names neither a task nor a group; give `task: NAME`, or `group: NAME` and"
                " `task: [NAMES]`"
            )
        return Suite((Task(name, settings),), tuple(files))
    group = str(settings["group"])
    index = _Index(path.parent)
    if index.path_of(group) != path:
        raise TaskFileError(
            f"group {group} is also that of {index.path_of(group)}; give one of them another name"
        )
    tasks = tuple(_members(settings, {}, index, (group,)))
    return Suite(tasks, (*files, *index.used), group)


def _read(path: Path, including: tuple[Path, ...] = ()) -> tuple[Settings, list[Path]]:
    """A file's settings over those of what it includes, and the files."""
    if path in including:
        raise TaskFileError(f"it includes itself, by way of {including[-1].name}")
    if not path.is_file():
        raise TaskFileError("there is no such file")
    try:
        with path.open(encoding="utf-8") as stream:
            own = yaml.load(stream, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise TaskFileError(f"it cannot be read: {said}") from None
    if not isinstance(own, dict):
        raise TaskFileError("it holds no fields; a task file is YAML such as `task: NAME`")
    included = own.pop("include", [])
    if not isinstance(included, list):
        included = [included]
    settings: Settings = {}
    files = [path]
    for name in included:
        try:
            more, others = _read(path.parent / str(name), (*including, path))
        except TaskFileError as error:
            raise TaskFileError(f"include: {name}: {error}") from None
        settings |= more
        files += others
    return settings | own, files


class _Index:
    """The task files of a folder by the names that groups call them by; `used` are those that one
    did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: list[Path] = []
        self._read: dict[str, tuple[Settings, list[Path]]] = {}
        self._tags: dict[str, list[str]] = {}
        for path in sorted(folder.rglob("*.yaml")):
            try:
                settings, files = _read(path)
            except TaskFileError:
                continue  # the harness passes over it too; who needs it, will miss it
            name = settings.get("group", settings.get("task"))
            if isinstance(name, str) and name not in self._read:
                self._read[name] = settings, files
                for tag in _listed(settings.get("tag")):
                    self._tags.setdefault(str(tag), []).append(name)

    def path_of(self, name: str) -> Path:
        """The file that defines it: the first in the order of their paths."""
        return self._read[name][1][0]

    def names_of(self, name: str) -> list[str]:
        """The name itself, or those that carry it as a tag; none where nobody knows it."""
        if name in self._read:
            return [name]
        return self._tags.get(name, [])

    def settings_of(self, name: str) -> Settings:
        settings, files = self._read[name]
        self.used += [path for path in files if path not in self.used]
        return settings


def _members(
    group: Settings, handed_on: Settings, index: _Index, groups: tuple[str, ...]
) -> Iterator[Task]:
    """Tasks of a group and of the groups in it."""
    own = {name: value for name, value in group.items() if name not in GROUP_FIELDS}
    handed_on = own | handed_on
    for item in _listed(group.get("task")):
        if isinstance(item, str):
            name = item
            changes = handed_on
        elif isinstance(item, dict) and ("group" in item or "task" in item):
            name = str(item.get("group", item.get("task")))
            changes = handed_on | item
        else:
            raise TaskFileError(f"group {groups[-1]} has a member {item!r}; give names of tasks")
        if name in groups:
            raise TaskFileError(f"group {name} is a member of itself")
        known = index.names_of(name)
        if not known and isinstance(item, str):
            raise TaskFileError(
                f"group {groups[-1]} names {name}, which no task file in {index.folder} or below"
                " defines; add its file there, or take the name out"
            )
        if not known:
            yield from _inline(name, changes, index, groups)
        for one in known:
            yield from _member(one, index.settings_of(one), changes, index, groups)


def _member(
    name: str, settings: Settings, changes: Settings, index: _Index, groups: tuple[str, ...]
) -> Iterator[Task]:
    if "group" in settings:
        changes = {key: value for key, value in changes.items() if key not in GROUP_FIELDS}
        yield from _members(settings, changes, index, (*groups, name))
    else:
        yield Task(name, settings | changes | {"task": name})


def _inline(
    name: str, settings: Settings, index: _Index, groups: tuple[str, ...]
) -> Iterator[Task]:
    """A member whose settings stand in the group's own file; the harness calls it group::name."""
    if "group" in settings:
        yield from _members(settings, {}, index, (*groups, name))
    else:
        yield Task(f"{groups[-1]}::{name}", settings)


def functions_in(value: Any) -> Iterator[Function]:
    """Every `!function` of a task's settings."""
    if isinstance(value, Function):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from functions_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from functions_in(one)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
