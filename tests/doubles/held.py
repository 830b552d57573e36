"""Replicas that a test holds: each says that it is at work, and answers nothing until it may."""

import asyncio
import os


class Held:
    """Around the worker that `build` makes. Says that it has a shard by a file in `folder`, and
    holds its shards until `replicas` have said so, or until the file `go` is there."""

    def __init__(self, build, folder, replicas=None):
        self._inner, self._folder, self._replicas = build(), folder, replicas
        self.figures = self._inner.figures

    async def __call__(self, shard):
        (self._folder / f"at-work-{os.getpid()}").touch()
        while not self._may_go():
            await asyncio.sleep(0.1)
        return await self._inner(shard)

    def _may_go(self):
        if self._replicas:
            return at_work(self._folder) >= self._replicas
        return (self._folder / "go").exists()


def at_work(folder):
    """How many replicas have had a shard."""
    return len(list(folder.glob("at-work-*")))
