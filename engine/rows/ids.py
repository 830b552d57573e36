"""Ids, seeds and fingerprints: the same value gives the same one on every machine, for ever."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from engine.rows.records import Messages


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, UTF-8 kept."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def prompt_hash(messages: Messages, tools: str | None = None) -> str:
    """sha256 (hex) of the canonical messages, and of what tools add to them where they do."""
    if tools is None:
        return _sha256(messages).hex()
    return _sha256([messages, json.loads(tools)]).hex()


def prompt_id_of(sha256_hex: str) -> int:
    """First 63 bits of the hash: fits a signed int64."""
    return int(sha256_hex[:16], 16) >> 1


def derive_seed(*parts: Any) -> int:
    """A 31-bit seed from any JSON values, e.g. (job seed, prompt_id, teacher, sample_index)."""
    return int.from_bytes(_sha256(list(parts))[:4], "big") >> 1


def bare_prompt(messages: Messages) -> str:
    """What a model without a chat template is asked."""
    return "\n".join(message["content"] for message in messages)


def tokenizer_fingerprint(vocabulary: Mapping[str, int]) -> str:
    """sha256 (hex) of the token -> id map: equal where token ids mean the same."""
    return _sha256(sorted(vocabulary.items())).hex()


def _sha256(value: Any) -> bytes:
    return hashlib.sha256(canonical_json(value).encode()).digest()
