import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engine.backends import ray_cluster as backend
from engine.clusterfile import Cluster
from engine.errors import CapacityError, StageError


def test_our_own_error_is_found_inside_rays_wrappers():
    inner = StageError("the cause")
    outer = RuntimeError("wrapper")
    outer.cause = inner
    assert backend.root_cause(outer) is inner


def test_the_innermost_error_that_says_something_is_the_cause():
    outer, inner, empty = RuntimeError("outer"), ValueError("why"), KeyError()
    outer.__cause__, inner.__cause__ = inner, empty
    assert backend.root_cause(outer) is inner


@pytest.mark.slow
def test_a_job_that_wants_more_than_the_cluster_has_says_the_numbers_and_the_way_out(ray_cluster):
    backend.require("generate", "cpu", 4, "replicas=4 x tensor_parallel=1")
    with pytest.raises(CapacityError, match=r"generate wants 8 CPUs \(replicas=4 x tensor_parallel=2\); the cluster has 4"):
        backend.require("generate", "cpu", 8, "replicas=4 x tensor_parallel=2")
    with pytest.raises(CapacityError, match=r"the cluster has 0\. Lower replicas or use a larger --cluster; with device: cpu"):
        backend.require("generate", "gpu", 1, "replicas=1 x tensor_parallel=1")


def test_a_cluster_that_wants_a_token_says_so(monkeypatch):
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(401)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = Cluster(name="closed", address=f"http://127.0.0.1:{server.server_port}", wait_s=0.1)
    with pytest.raises(CapacityError, match="RAY_AUTH_MODE=token"):
        backend.submit(cluster, "true", secrets={}, on_log=print)
    server.shutdown()
