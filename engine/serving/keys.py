"""Bearer keys with names: only their sha256 leaves the driver's process, and a header is compared
with all of them in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Keys:
    """sha256 (hex) of each key by its name; without any, everybody is let in."""

    sha256: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, keys: Mapping[str, str]) -> Keys:
        """Of the keys themselves, by name."""
        hashed = {name: _sha256(key.encode()) for name, key in keys.items()}
        return cls(hashed)

    def __bool__(self) -> bool:
        return bool(self.sha256)

    def name_of(self, authorization: bytes) -> str | None:
        """The name of the key that an Authorization header carries; "" where there are no keys,
        None where it carries none of them."""
        if not self.sha256:
            return ""
        kind, _, key = authorization.partition(b" ")
        given = _sha256(key.strip())
        found = None
        for name, known in self.sha256.items():  # all of them: the time tells nothing
            if hmac.compare_digest(given, known):
                found = name
        return found if kind.lower() == b"bearer" else None


def _sha256(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
