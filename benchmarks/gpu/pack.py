"""A folder in pieces small enough to carry to a machine without a network, put together and checked
there. Standard library only.

python -m benchmarks.gpu.pack cut  PACK    PACK/{wheels,runs,wide} -> PACK/{piece-01/…,list.json}
python -m benchmarks.gpu.pack join PACK    the way back; files that are there are only checked
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PIECE_BYTES = 48 * 2**20  # of 60 MiB: a checkout travels beside each piece
FOLDERS = ("runs", "wide")  # each travels as one archive
LIST = "list.json"


def cut(pack: Path) -> dict[str, Any]:
    """Write the pieces and the list of what they hold: of each file its size, its sha256 and where
    its parts lie, in order."""
    for old in pack.glob("piece-*"):
        shutil.rmtree(old)
    for name in FOLDERS:
        with tarfile.open(pack / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(pack / name, name)
    files = [
        *sorted((pack / "wheels").glob("*.whl")),
        *(pack / f"{name}.tar.gz" for name in FOLDERS),
    ]
    listed, number, room = {}, 1, PIECE_BYTES
    for file in files:
        data, parts = file.read_bytes(), []
        left = memoryview(data)
        while left:
            if not room:
                number, room = number + 1, PIECE_BYTES
            part = f"piece-{number:02d}/{file.name}.{len(parts):02d}"
            (pack / part).parent.mkdir(exist_ok=True)
            (pack / part).write_bytes(left[:room])
            parts.append(part)
            taken = min(room, len(left))
            left, room = left[taken:], room - taken
        listed[str(file.relative_to(pack))] = {
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "parts": parts,
        }
    pieces = {
        piece.name: sum(part.stat().st_size for part in piece.iterdir())
        for piece in sorted(pack.glob("piece-*"))
    }
    found = {"python": "3.12", "pieces": pieces, "files": listed}
    (pack / LIST).write_text(json.dumps(found, indent=1) + "\n")
    for name in FOLDERS:
        (pack / f"{name}.tar.gz").unlink()
    return found


def join(pack: Path) -> dict[str, Any]:
    """Put the files together again and unpack the folders. RuntimeError names each file that is
    missing or not what was packed."""
    listed = json.loads((pack / LIST).read_text())
    wrong = [
        problem
        for name, entry in listed["files"].items()
        if (problem := _join_file(pack, name, entry))
    ]
    if wrong:
        raise RuntimeError(
            f"the pack in {pack} is not whole: {'; '.join(wrong)}; carry those pieces again, or"
            " make it anew with pack.sh"
        )
    for name in FOLDERS:
        archive = pack / f"{name}.tar.gz"
        if archive.exists() and not (pack / name).exists():
            with tarfile.open(archive) as opened:
                opened.extractall(pack, filter="data")
    return listed


def _join_file(pack: Path, name: str, entry: dict[str, Any]) -> str | None:
    target = pack / name
    if target.exists() and _sha256(target) == entry["sha256"]:
        return None
    if missing := [part for part in entry["parts"] if not (pack / part).exists()]:
        return f"{name} lacks {', '.join(missing)}"
    target.parent.mkdir(exist_ok=True)
    with target.open("wb") as whole:
        for part in entry["parts"]:
            whole.write((pack / part).read_bytes())
    if (seen := _sha256(target)) != entry["sha256"]:
        target.unlink()
        return f"{name} has sha256 {seen}, not {entry['sha256']}"
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def install(pack: Path, site: Path) -> dict[str, list[str]]:
    """Install into the folder `site`, with pip and no network, the wheels whose package is not
    here.

    A package that is here in another version stays: replacing numpy or protobuf under the torch of
    the machine breaks more than it mends. Returns the names that were installed, and those kept in
    another version.
    """
    missing, kept = [], []
    for wheel in sorted((pack / "wheels").glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        here = version_here(name)
        if here is None:
            missing.append(wheel)
        elif here != version:
            kept.append(f"{name} {here} ({version} in the pack)")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
    ]
    pip += ["--disable-pip-version-check", "--upgrade", "--target", str(site)]
    if missing:
        subprocess.run([*pip, *map(str, missing)], check=True)
    return {"installed": [" ".join(wheel.name.split("-")[:2]) for wheel in missing], "kept": kept}


def version_here(name: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(re.sub("[-_.]+", "-", name))
    except importlib.metadata.PackageNotFoundError:
        return None


def _summary(listed: dict[str, Any]) -> Iterator[str]:
    for name, size in listed["pieces"].items():
        yield f"{name} {size / 2**20:6.1f} MiB"
    yield f"{len(listed['files'])} files, {sum(listed['pieces'].values()) / 2**20:.1f} MiB"


if __name__ == "__main__":
    print("\n".join(_summary({"cut": cut, "join": join}[sys.argv[1]](Path(sys.argv[2])))))
