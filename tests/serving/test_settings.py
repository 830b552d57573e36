"""Keys come by environment variables or a file of their owner's alone, and leave as sha256."""

import hashlib

import pytest

from engine.errors import SpecError
from engine.job.spec import ServeSpec
from engine.serving.settings import front_settings, keys_of


@pytest.fixture
def key_file(tmp_path):
    """Write a file of keys; returns the spec that names it."""

    def write(text, mode=0o600):
        path = tmp_path / "keys.yaml"
        path.write_text(text)
        path.chmod(mode)
        return ServeSpec(api_keys_file=str(path))

    return write


def test_without_keys_there_are_none():
    assert keys_of(ServeSpec()) == {}
    assert not front_settings(ServeSpec(), {}).keys


def test_keys_of_all_sources_have_their_names(monkeypatch, key_file):
    monkeypatch.setenv("ONE", "first")
    monkeypatch.setenv("TWO", "second")
    path = key_file("carol: third\n").api_keys_file
    spec = ServeSpec(api_key_env="ONE", api_keys={"bob": "TWO"}, api_keys_file=path)
    assert keys_of(spec) == {"default": "first", "bob": "second", "carol": "third"}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (ServeSpec(api_key_env="DISTILL_NO_KEY"), "serve.api_key_env"),
        (ServeSpec(api_keys={"bob": "DISTILL_NO_KEY"}), "serve.api_keys.bob"),
    ],
)
@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named_with_its_field(monkeypatch, spec, field, value):
    monkeypatch.delenv("DISTILL_NO_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("DISTILL_NO_KEY", value)
    with pytest.raises(SpecError, match=f"{field} names DISTILL_NO_KEY, which is not set"):
        keys_of(spec)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(key_file, mode):
    with pytest.raises(SpecError, match=r"others may read .*; chmod 600 it"):
        keys_of(key_file("ann: key\n", mode))


@pytest.mark.parametrize("text", ["ann: 3\n", "ann: ''\n", "ann: {key: x}\n"])
def test_a_file_holds_names_and_keys_only(key_file, text):
    with pytest.raises(SpecError, match="must hold lines `name: key`"):
        keys_of(key_file(text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"none\.yaml is not there"):
        keys_of(ServeSpec(api_keys_file=str(tmp_path / "none.yaml")))


def test_keys_are_read_once_so_that_clients_have_the_ones_that_fronts_want(key_file):
    spec = key_file("ann: first\n")
    keys = keys_of(spec)
    key_file("ann: second\n")
    assert front_settings(spec, keys).keys.name_of(b"Bearer first") == "ann"


def test_only_hashes_of_keys_leave_the_process():
    settings = front_settings(ServeSpec(max_body_mib=0.5), {"default": "first"})
    assert settings.keys.sha256 == {"default": hashlib.sha256(b"first").hexdigest()}
    assert "'first'" not in repr(settings)
    assert settings.limits.max_body_bytes == 512 * 1024
