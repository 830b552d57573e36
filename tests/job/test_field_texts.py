"""The texts under fields, as a reader of the source sees them."""

from pydantic import BaseModel

from engine.job.field_texts import field_texts


class Engine(BaseModel):
    """A base."""

    size: int = 1
    """How many."""
    limit: int = 8
    """How many at most,
    in two lines."""
    plain: int = 0

    def method(self) -> None:
        """No field."""


class Large(Engine):
    size: int = 64
    """Many."""
    more: int = 2
    other: int = 3
    """The last."""


def test_a_text_is_the_string_under_its_field():
    assert field_texts(Engine) == {"size": "How many.", "limit": "How many at most,\nin two lines."}


def test_a_block_has_its_bases_texts_and_its_own_before_them():
    assert field_texts(Large) == field_texts(Engine) | {"size": "Many.", "other": "The last."}
