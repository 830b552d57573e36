"""Stand-ins for a platform's own tools (kubectl, sbatch, sky): scripts that are first on PATH."""

from pathlib import Path


class Tools:
    """Scripts on PATH that note how they were called, and say what a test gives them to say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()

    def put(self, name: str, body: str) -> None:
        """A tool `name` whose bash is `body`; $HERE is the tests' folder."""
        script = self.folder / "bin" / name
        script.write_text(
            f'#!/bin/bash\nHERE={self.folder}\necho "{name} $*" >> "$HERE/calls"\n{body}\n'
        )
        script.chmod(0o755)

    def replies(self, name: str, *texts: str) -> None:
        """What `say NAME` prints call after call, the last one again and again."""
        for number, text in enumerate(texts, 1):
            (self.folder / f"{name}-{number}").write_text(text)
        (self.folder / f"{name}-count").write_text(f"0 {len(texts)}")

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


# bash: prints the next reply; one that starts with FAIL goes to stderr and ends with 1
SAY = """
say() {
  read -r done all < "$HERE/$1-count"
  if [ "$done" -lt "$all" ]; then done=$((done + 1)); fi
  echo "$done $all" > "$HERE/$1-count"
  if [[ $(< "$HERE/$1-$done") == FAIL* ]]; then cat "$HERE/$1-$done" >&2; exit 1; fi
  cat "$HERE/$1-$done"
}
"""
