"""Files of completions, in groups that are worked on at a time."""

from __future__ import annotations

from dataclasses import dataclass

from engine.run.manifests import Finished
from engine.store.paths import Folder

# A group is judged in about a second, or in ten where algebra decides; one larger file is a group
# of its own.
GROUP_ROWS = 16_384


@dataclass(frozen=True)
class Group:
    """Neighbours among all files in the order of their names; `first` is the number of the first
    one among them."""

    name: str
    first: int
    files: tuple[Folder, ...]


def groups_of(stage: Finished, most_rows: int) -> list[Group]:
    """All files of completions. The groups depend on the files alone, so that another run finds
    what was made of them."""
    entries = stage.manifest.files
    gathered: list[list[Folder]] = []
    rows = most_rows
    for file in stage.files():
        added = entries[f"data/{file.name}"].rows
        if rows + added > most_rows:
            gathered.append([])
            rows = 0
        gathered[-1].append(file)
        rows += added
    groups = []
    first = 0
    for number, files in enumerate(gathered):
        groups.append(Group(f"{number:05d}", first, tuple(files)))
        first += len(files)
    return groups
