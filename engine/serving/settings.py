"""From the block `serve` to what a front must know: the keys by their names, and its settings."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from engine.errors import SpecError
from engine.job.spec import ServeSpec
from engine.job.yamlfile import read_document
from engine.serving.front import FrontSettings
from engine.serving.keys import Keys
from engine.serving.limits import Limits


def keys_of(spec: ServeSpec) -> dict[str, str]:
    """The keys by their names. SpecError for a variable that is not set, or a file that others may
    read."""
    keys = {}
    variables = dict(spec.api_keys)
    if spec.api_key_env:
        variables["default"] = spec.api_key_env
    for name, variable in variables.items():
        key = os.environ.get(variable)
        if not key:
            field = "api_key_env" if name == "default" else f"api_keys.{name}"
            raise SpecError(
                f"serve.{field} names {variable}, which is not set; export it, or take {field} out"
            )
        keys[name] = key
    if spec.api_keys_file:
        keys |= _keys_in(Path(spec.api_keys_file))
    return keys


def _keys_in(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise SpecError(f"serve.api_keys_file: {path} is not there")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SpecError(f"serve.api_keys_file: others may read {path}; chmod 600 it")
    found = read_document(path).data
    if not found or not all(isinstance(key, str) and key for key in found.values()):
        raise SpecError(f"serve.api_keys_file: {path} must hold lines `name: key`")
    return {str(name): key for name, key in found.items()}


def front_settings(spec: ServeSpec, keys: Mapping[str, str]) -> FrontSettings:
    """What the fronts must know; of the keys (keys_of) only their sha256."""
    return FrontSettings(
        host=spec.host,
        port=spec.port,
        keys=Keys.of(keys),
        max_queued=spec.max_queued,
        routing=spec.routing,
        limits=Limits(spec.header_timeout_s, int(spec.max_body_mib * 2**20), spec.max_connections),
        wait_s=spec.wait_s,
        open_health=spec.open_health,
        cors_origins=tuple(spec.cors_origins),
        tls_cert=spec.tls_cert,
        tls_key=spec.tls_key,
    )
