"""`distill run --from train --until train` on a copy of the pack's finished stages, as its user
gives it, and what came of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from benchmarks.gpu.cases import arguments, load_case
from engine.run.manifests import load_manifest


def main() -> None:
    """Write the exit code of the command and the facts of the train stage's manifest."""
    options = arguments(__doc__)
    shutil.copytree(options.pack / "runs/quickstart", options.runs / "quickstart")
    case = load_case(options.pack, "quickstart", options.device, runs=options.runs)
    sets = [argument for value in case.sets for argument in ("--set", value)]
    command = [
        sys.executable,
        "-m",
        "engine.cli",
        "run",
        str(case.file),
        "--from",
        "train",
        "--until",
        "train",
        *sets,
    ]
    done = subprocess.run([*command, "--runs", str(options.runs)], check=False)
    manifest = load_manifest(case.folder("train")) if done.returncode == 0 else None
    facts = {}
    if manifest:
        facts = {"seconds": manifest.seconds, **manifest.info.model_dump(exclude_unset=True)}
    options.result.write_text(json.dumps({"exit_code": done.returncode, **facts}))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
