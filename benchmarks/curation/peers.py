"""Environments of the peers, each of its own: none moves a library of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# numpy in the version of our lock, so that the same one works on both sides
PEERS = {
    "datatrove": ("datatrove==0.10.1", "regex", "tokenizers", "xxhash<4"),
    "datasketch": ("datasketch==2.0.0",),
}


def python_of(peer: str, folder: Path, numpy: str) -> Path:
    """The Python of a peer's environment, made in `folder` where it is missing."""
    home = folder / peer
    if not (home / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        links = os.environ.get("PIP_FIND_LINKS")  # uv does not read pip's
        variables = os.environ | ({"UV_FIND_LINKS": links} if links else {})
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet"]
        here = ["--python", str(home / "bin/python")]
        wanted = [*PEERS[peer], f"numpy=={numpy}"]
        subprocess.run([*uv, *here, *wanted], env=variables, check=True)
        (home / "done").touch()
    return home / "bin/python"
