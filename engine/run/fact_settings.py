"""How blocks of facts are checked and built."""

from __future__ import annotations

from pydantic import ConfigDict

# Frozen, and nothing that no field names; of all blocks only those that are read are built.
FACTS = ConfigDict(extra="forbid", frozen=True, defer_build=True)
