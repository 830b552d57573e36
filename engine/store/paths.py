"""Where a run lives: a local or shared folder, or an object store behind pyarrow's filesystems.

`StorePath` has the part of pathlib.Path that the engine uses, so that the same code writes to both.
A store has no folders and no locks, and nothing is ever half there: an object appears whole when
its writing ends without an error.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from engine.errors import SpecError


@dataclass(frozen=True, order=True)
class StorePath:
    """One object, or all objects below a name. `str()` is the URL that `run_folder` and pyarrow
    read back."""

    root: str  # s3://bucket
    path: PurePosixPath
    query: str = ""  # of pyarrow.fs.FileSystem.from_uri: endpoint_override, scheme, region, …

    def __str__(self) -> str:
        url = f"{self.root}/{quote(str(self.path))}".removesuffix("/.")
        query = f"?{self.query}".removesuffix("?")
        return url + query

    def __truediv__(self, name: str | PurePosixPath) -> StorePath:
        return replace(self, path=self.path / name)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def suffix(self) -> str:
        return self.path.suffix

    @property
    def parent(self) -> StorePath:
        return replace(self, path=self.path.parent)

    def with_name(self, name: str) -> StorePath:
        return replace(self, path=self.path.with_name(name))

    def relative_to(self, other: StorePath) -> PurePosixPath:
        return self.path.relative_to(other.path)

    @property
    def place(self) -> tuple[FileSystem, str]:
        """pyarrow's filesystem and the path inside it."""
        store, base = _filesystem(f"{self.root}/?{self.query}".rstrip("?"))
        return store, str(PurePosixPath(base) / self.path)

    def _info(self) -> FileInfo:
        store, inside = self.place
        return store.get_file_info(inside)

    def exists(self) -> bool:
        return self._info().type != FileType.NotFound

    def is_file(self) -> bool:
        return self._info().type == FileType.File

    def is_dir(self) -> bool:
        return self._info().type == FileType.Directory

    def stat(self) -> os.stat_result:
        """Size and modification time; FileNotFoundError where there is no object."""
        info = self._info()
        if info.type != FileType.File:
            raise FileNotFoundError(str(self))
        return _stat(info)

    def iterdir(self) -> Iterator[StorePath]:
        store, inside = self.place
        for info in store.get_file_info(FileSelector(inside, allow_not_found=True)):
            yield self / info.base_name

    def glob(self, pattern: str) -> list[StorePath]:
        """What directly below here has a name like `pattern`."""
        return [path for path in self.iterdir() if fnmatchcase(path.name, pattern)]

    def mkdir(self, **_: Any) -> None:
        """Nothing: a store has names, not folders."""

    @contextmanager
    def open(self, mode: str) -> Generator[Any]:
        """`rb` or `wb`; what the block writes becomes the object unless the block fails."""
        if mode == "rb":
            store, inside = self.place
            with store.open_input_file(inside) as file:
                yield file
        else:
            assert mode == "wb", mode
            buffer = io.BytesIO()
            yield buffer
            self.write_bytes(buffer.getbuffer())

    def read_bytes(self) -> bytes:
        with self.open("rb") as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes | memoryview | pa.Buffer) -> None:
        store, inside = self.place
        # Without `compression` it would compress what is called x.gz.
        with store.open_output_stream(inside, compression=None) as file:
            file.write(data)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def unlink(self, missing_ok: bool = False) -> None:
        store, inside = self.place
        try:
            store.delete_file(inside)
        except FileNotFoundError:
            if not missing_ok:
                raise


Folder = Path | StorePath


@functools.lru_cache
def _filesystem(root: str) -> tuple[FileSystem, str]:
    return FileSystem.from_uri(root)


def run_folder(runs: str | Folder) -> Folder:
    """`--runs`: an absolute local path, or a store such as
    `s3://bucket/runs?endpoint_override=127.0.0.1:9000&scheme=http`.

    SpecError for a store that pyarrow does not know, or a URL that carries a password.
    """
    if isinstance(runs, StorePath):
        return runs
    if "://" not in str(runs):
        return Path(runs).expanduser().resolve()
    url = urlsplit(str(runs))
    if url.password:
        raise SpecError(
            "--runs: the URL holds a password, which would end up in logs; set AWS_ACCESS_KEY_ID"
            " and so on in the environment"
        )
    below_bucket = PurePosixPath(unquote(url.path).strip("/"))
    folder = StorePath(f"{url.scheme}://{url.netloc}", below_bucket, url.query)
    try:
        folder.place  # noqa: B018 - only to see that it can be built
    except (pa.ArrowException, ValueError, OSError) as error:
        raise SpecError(
            f"--runs {runs}: {error}; give a folder, or s3://bucket/folder, gs://bucket/folder"
        ) from None
    return folder


def file_sizes(folder: Folder, names: Iterable[str]) -> dict[str, int]:
    """Sizes in bytes of those of `names` (relative) that are there; one listing where each look
    would be a request."""
    sizes: dict[str, int] = {}
    if isinstance(folder, Path):
        for name in names:
            path = folder / name
            if path.is_file():
                sizes[name] = path.stat().st_size
        return sizes
    _, inside = folder.place
    wanted = set(names)
    for info in _objects(folder, recursive=True):
        name = info.path.removeprefix(f"{inside}/")
        if name in wanted:
            sizes[name] = info.size
    return sizes


def tree_bytes(folder: Folder) -> int:
    """Bytes of all files below `folder`."""
    return sum(info.size for info in _objects(folder, recursive=True))


def remove_tree(folder: Folder) -> None:
    """Remove all files below `folder`, and itself."""
    if isinstance(folder, Path):
        shutil.rmtree(folder)
    else:
        store, inside = folder.place
        store.delete_dir(inside)


def files_in(folder: Folder) -> dict[str, os.stat_result]:
    """Files directly in `folder` by name; none where it does not exist, and never a symbolic link
    or what is behind one."""
    if isinstance(folder, StorePath):
        return {info.base_name: _stat(info) for info in _objects(folder)}
    if folder.is_symlink() or not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {
            entry.name: entry.stat(follow_symlinks=False)
            for entry in entries
            if entry.is_file(follow_symlinks=False)
        }


def _objects(folder: Folder, recursive: bool = False) -> list[FileInfo]:
    """Files in `folder`, `recursive` those below it too; none where there is no such folder."""
    store, inside = _place(folder)
    selector = FileSelector(inside, allow_not_found=True, recursive=recursive)
    return [info for info in store.get_file_info(selector) if info.type == FileType.File]


def _place(path: Folder) -> tuple[FileSystem, str]:
    if isinstance(path, StorePath):
        return path.place
    return LocalFileSystem(), str(path)


def _stat(info: FileInfo) -> os.stat_result:
    owner = (0,) * 6  # mode, inode, device, links, user and group: a store tells none of them
    times = (0, info.mtime.timestamp(), 0)  # of access, modification and change
    return os.stat_result((*owner, info.size, *times))


def parquet_place(path: Folder) -> tuple[str | Path, FileSystem | None]:
    """A file as pyarrow.parquet takes it: where, and in which filesystem."""
    if isinstance(path, Path):
        return path, None
    store, inside = path.place
    return inside, store


def read_buffer(path: Folder) -> pa.Buffer:
    """A whole file in memory that Arrow owns.

    Arrow's threads let go of a buffer last, and to let go of one around Python's `bytes` they need
    the interpreter: while that is ending, pyarrow 26 aborts the process (100 of 150 small reads
    just before an exit).
    """
    store, inside = _place(path)
    with store.open_input_file(inside) as file:
        return file.read_buffer()
