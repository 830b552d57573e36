"""The hub's cache, with a small hub on this machine that speaks as much of its protocol as a
download wants."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from engine.errors import InputError, SpecError
from engine.store import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories as {(kind, name): {file: bytes}}; what is asked is counted."""

    def __init__(self):
        self.repositories = {}
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self, with_body=True)

            def do_HEAD(self):
                outer.answer(self, with_body=False)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler, with_body):
        path = unquote(urlsplit(handler.path).path).strip("/")
        self.asked.append(path)
        for (kind, name), files in self.repositories.items():
            if path.startswith(f"api/{kind}s/{name}/revision/"):
                siblings = [{"rfilename": file} for file in files]
                told = {"id": name, "sha": COMMIT, "siblings": siblings}
                return self.send(handler, json.dumps(told).encode(), with_body)
            if path.startswith(f"api/{kind}s/{name}/tree/"):
                tree = [
                    {"type": "file", "path": f, "size": len(b), "oid": "0" * 40}
                    for f, b in files.items()
                ]
                return self.send(handler, json.dumps(tree).encode(), with_body)
            where = (
                f"{name}/resolve/{COMMIT}/"
                if kind == "model"
                else f"datasets/{name}/resolve/{COMMIT}/"
            )
            if path.startswith(where) and path.removeprefix(where) in files:
                return self.send(handler, files[path.removeprefix(where)], with_body)
        handler.send_response(404)
        handler.send_header("X-Error-Code", "RepoNotFound")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def send(self, handler, body, with_body):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.end_headers()
        if with_body:
            handler.wfile.write(body)


@pytest.fixture
def small_hub(tmp_path, monkeypatch):
    served = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        served.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://owner/data", hub.HubData("owner/data", None, "")),
        ("hf://owner/data@v1.0", hub.HubData("owner/data", "v1.0", "")),
        ("hf://owner/data@v1/train/a.jsonl", hub.HubData("owner/data", "v1", "train/a.jsonl")),
        ("hf://owner/data/train/", hub.HubData("owner/data", None, "train")),
        ("/a/path", None),
        ("owner/data", None),
    ],
)
def test_a_source_of_the_hub_names_repository_revision_and_path(source, expected):
    assert hub.hub_data(source) == expected


@pytest.mark.parametrize("source", ["hf://", "hf://data", "hf://a b/c"])
def test_a_source_that_names_nothing_says_how(source):
    with pytest.raises(SpecError, match="write hf://owner/data, hf://owner/data@revision or"):
        hub.hub_data(source)


def test_what_was_fetched_is_found_without_the_hub(small_hub):
    rows = b'{"prompt": "a"}\n'
    files = {"train/a.jsonl": rows, "train/b.jsonl": rows, "README.md": b"#"}
    small_hub.repositories["dataset", "owner/data"] = files
    source = "hf://owner/data/train"
    assert hub.missing_data([source, "/a/path", "train:"]) == [source]
    assert not hub.local_source(source).exists()
    folder = hub.fetch_data(source)
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "b.jsonl"]
    asked = len(small_hub.asked)
    assert hub.local_source(source) == folder
    assert (folder / "a.jsonl").read_bytes() == rows
    assert hub.missing_data([source]) == []
    assert len(small_hub.asked) == asked
    assert hub.missing_data(["hf://owner/data"]) == ["hf://owner/data"], "only a part of it is here"


def test_one_file_of_a_data_set_is_fetched_alone(small_hub):
    small_hub.repositories["dataset", "owner/data"] = {"a.jsonl": b"{}\n", "b.jsonl": b"{}\n"}
    assert hub.fetch_data("hf://owner/data/a.jsonl").read_bytes() == b"{}\n"
    assert not [path for path in small_hub.asked if path.endswith("b.jsonl")]
    with pytest.raises(InputError, match=r"owner/data has no c\.jsonl; correct the path"):
        hub.fetch_data("hf://owner/data/c.jsonl")


def test_a_model_comes_without_pickles(small_hub):
    files = {"config.json": b"{}", "model.safetensors": b"w", "pytorch_model.bin": b"p"}
    small_hub.repositories["model", "owner/model"] = files
    folder = hub.fetch_model("owner/model", None)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_what_the_hub_does_not_have_is_said(small_hub):
    with pytest.raises(InputError, match=r"owner/none: the hub does not give it .* HF_TOKEN"):
        hub.fetch_model("owner/none", None)


def test_a_hub_that_does_not_answer_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match="the hub does not answer from here, and it is not in HF_HOME"
    ):
        hub.fetch_model("owner/model", None)


def test_a_run_reads_a_data_set_of_the_hub(small_hub, tmp_path, fake_job):
    """Fetched when it is missing; the rows are its identity, and the job names the hub still."""
    from engine import pipeline
    from engine.job.jobfile import load_run

    rows = "".join(json.dumps({"prompt": f"{n} + 1?"}) + "\n" for n in range(8))
    small_hub.repositories["dataset", "owner/data"] = {"train.jsonl": rows.encode()}
    job = fake_job(8)
    prompts = job.prompts.model_copy(update={"train": "hf://owner/data", "validation": None})
    job = job.model_copy(update={"prompts": prompts})
    done = pipeline.run(job, tmp_path / "runs", until="prompts")
    assert done.manifests["prompts"].rows_out == 8
    assert load_run(done.root).prompts.train == "hf://owner/data"
    folder = done.folders["prompts"]
    asked = len(small_hub.asked)
    again = pipeline.run(job, tmp_path / "runs", until="prompts")
    assert again.folders["prompts"] == folder
    assert len(small_hub.asked) == asked, "a run that resumes does not ask what is new"
    assert Path(folder).exists()
