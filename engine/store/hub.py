"""Models and data sets of the Hugging Face hub in this machine's cache (HF_HOME): fetched once,
before anybody waits for them.

`hf://owner/data`, `hf://owner/data@revision` and `hf://owner/data/folder/file.parquet` name data.
What was fetched is used as it is: the hub is asked again by `distill fetch` alone, so that a run
which resumes reads the rows that it began with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError, SpecError

SCHEME = "hf://"
# No pickles: weights come as safetensors alone.
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")
_SOURCE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?")


@dataclass(frozen=True)
class HubData:
    """A data set of the hub, or a file or folder in it; no revision means its main branch."""

    repository: str
    revision: str | None
    path: str

    @property
    def patterns(self) -> list[str] | None:
        """What is downloaded of it; None for all."""
        return [self.path, f"{self.path}/*"] if self.path else None


def hub_data(source: str) -> HubData | None:
    """What a source such as `hf://owner/data@main/train` names; None for a path. SpecError where it
    starts so and names nothing."""
    if not source.startswith(SCHEME):
        return None
    found = _SOURCE.fullmatch(source.rstrip("/"))
    if found is None:
        raise SpecError(
            f"{source} names no data set; write hf://owner/data, hf://owner/data@revision or"
            " hf://owner/data/folder/file.parquet"
        )
    repository, revision, path = found.groups()
    return HubData(repository, revision, path or "")


def local_source(source: str) -> Path:
    """Where a source lies on this machine. One of the hub that was not fetched is a path that does
    not exist."""
    data = hub_data(source)
    if data is None:
        return Path(source)
    mark = _mark(data)
    if not mark.exists():
        return Path(source)
    folder = mark.parent / "snapshots" / mark.read_text().strip()
    return folder / data.path


def missing_data(sources: Iterable[str]) -> list[str]:
    """The sources of the hub that are not on this machine."""
    return [each for each in sources if hub_data(each) and not local_source(each).exists()]


def fetch_data(source: str) -> Path:
    """Download a source of the hub, or what of it is new; gives where it lies. InputError where the
    hub does not give it."""
    data = hub_data(source)
    assert data is not None, source
    folder = _download(source, data.repository, data.revision, "dataset", data.patterns)
    if not (folder / data.path).exists():
        raise InputError(f"{source}: {data.repository} has no {data.path}; correct the path")
    _mark(data).write_text(folder.name + "\n")
    return folder / data.path


def fetch_model(model: str, revision: str | None) -> Path:
    """Download a model's weights and what belongs to them; gives its folder. InputError where the
    hub does not give it."""
    return _download(model, model, revision, "model", list(MODEL_FILES))


def _download(
    what: str, repository: str, revision: str | None, kind: str, patterns: list[str] | None
) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository, repo_type=kind, revision=revision, allow_patterns=patterns
        )
    except GatedRepoError as error:
        raise InputError(
            f"{what}: the hub gives it to those alone who accepted its terms; accept them on its"
            f" page, and set HF_TOKEN ({error})"
        ) from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{what}: the hub does not answer from here, and it is not in HF_HOME; fetch it where"
            " there is a network, with the same HF_HOME"
        ) from error
    except (HfHubHTTPError, httpx.HTTPError) as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"{what}: the hub does not give it ({said}); correct the name or the revision, or set"
            " HF_TOKEN where it is private"
        ) from error
    return Path(folder)


def _mark(data: HubData) -> Path:
    """A file beside the cache's snapshots that says which of them holds all of this source: a
    snapshot may be there of which other files were fetched."""
    from huggingface_hub import constants

    name = hashlib.sha256(f"{data.revision}\0{data.path}".encode()).hexdigest()[:16]
    folder = f"datasets--{data.repository.replace('/', '--')}"
    return Path(constants.HF_HUB_CACHE) / folder / f".distill-{name}"
