"""What every block is made of: fields that are marked, and an identity of those that change the
result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Task = Literal["nli", "conversation", "qa", "math", "summarization"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
EnvironmentVariable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def identity(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes what a stage produces."""
    return Field(default, json_schema_extra={"role": "identity"}, **constraints)


def placement(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes where, how fast or how patiently a stage works, never its result."""
    return Field(default, json_schema_extra={"role": "placement"}, **constraints)


class Block(BaseModel):
    """Base of every block: frozen, no unknown fields, no silent type conversion."""

    # Defaults are validated too: an int written for a float would otherwise have another identity
    # than what a file says.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        defer_build=True,  # of all blocks only those that are read, most of them inside the job
    )

    def identity_fields(self) -> dict[str, Any]:
        """The block's identity as plain JSON values; nested blocks likewise, placement fields left
        out."""
        values = {}
        for name, field in type(self).model_fields.items():
            if role_of(field) == "identity":
                values[name] = _identity_value(getattr(self, name))
        return values


def role_of(field: Any) -> str:
    """`identity` or `placement`, as the field of a block is marked."""
    return (field.json_schema_extra or {}).get("role", "")


def _identity_value(value: Any, free: bool = False) -> Any:
    """`free` values stand in maps whose fields have no types: 20 and 20.0 are one there too."""
    if isinstance(value, Block):
        return value.identity_fields()
    if isinstance(value, list | tuple):
        return [_identity_value(item, free) for item in value]
    if isinstance(value, dict):
        return {key: _identity_value(item, free=True) for key, item in value.items()}
    if isinstance(value, float) and free and value.is_integer():
        return int(value)
    if isinstance(value, float) and value == 0:
        return 0.0  # -0.0 too
    return value
