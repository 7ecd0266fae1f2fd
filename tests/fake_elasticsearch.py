"""A small server that answers as Elasticsearch does, and fails as it is told."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

Answer = tuple[int, Any]
CUT = (0, None)
"""Instead of an answer: the connection is cut, though the request came."""


@dataclass
class FakeElasticsearch:
    """It holds documents; `fail` may answer in its place.

    Attributes:
        fail: Called with method, path and body; its answer counts, where it gives one.
        item: Called with each document of a bulk request; its status and error count, where it gives some.
        asked: The requests that came, in their order.
        headers: Those of the last request.
        documents: By index and id.
    """

    fail: Callable[[str, str, bytes], Answer | None] = lambda *_: None
    item: Callable[[str], Answer | None] = lambda *_: None
    version: str = "8.19.0"
    lifecycle: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    url: str = ""

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        path = target.partition("?")[0]
        self.asked.append((method, path))
        failed = self.fail(method, path, body)
        if failed is not None:
            return failed
        if path == "/":
            return 200, {"version": {"number": self.version}}
        if path.startswith("/_ilm/policy/"):
            return self._policy(method, path.rpartition("/")[2], body)
        if path == "/_bulk":
            return 200, self._bulk(body)
        if path.endswith("/_search"):
            found = self.documents.get(path[1:].partition("/")[0], {})
            hits = [{"_index": path[1:].partition("/")[0], "_id": i, "_source": s} for i, s in found.items()]
            return 200, {"hits": {"hits": hits}}
        if method == "GET":
            there = {name: {"aliases": {"hourly_metrics": {}}, "mappings": {}} for name in self.documents}
            return (200, there) if path.endswith("-*") else (404, {"error": {"reason": "no such index"}})
        if method == "PUT" and path.startswith("/hourly_metrics-") and path.count("/") == 1:
            self.documents.setdefault(path[1:], {})
            self.settings[path[1:]] = json.loads(body)["settings"]
        return 200, {"acknowledged": True}

    def _policy(self, method: str, name: str, body: bytes) -> Answer:
        if not self.lifecycle:
            return 400, {"error": f"no handler found for uri [/_ilm/policy/{name}] and method [{method}]"}
        if method == "PUT":
            self.policies[name] = json.loads(body)
        return (200, {name: self.policies[name]}) if name in self.policies else (404, {"error": {"reason": "none"}})

    def _bulk(self, body: bytes) -> dict[str, Any]:
        lines = iter(body.decode().splitlines())
        items = []
        for line in lines:
            ((what, where),) = json.loads(line).items()
            source = json.loads(next(lines)) if what == "index" else None
            failed = self.item(where["_id"])
            there = self.documents.setdefault(where["_index"], {})
            if failed is not None:
                told = {"status": failed[0], "error": failed[1]}
            elif source is None:
                told = {"status": 200 if there.pop(where["_id"], None) else 404}
            else:
                there[where["_id"]] = source
                told = {"status": 201}
            items.append({what: {"_id": where["_id"], **told}})
        return {"items": items, "errors": any(item for item in items)}


@contextlib.contextmanager
def fake_elasticsearch(tls: ssl.SSLContext | None = None, **told: Any) -> Iterator[FakeElasticsearch]:
    """One on loopback."""
    fake = FakeElasticsearch(**told)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fake.headers = dict(self.headers)
            status, said = fake.answer(self.command, self.path, body)
            if (status, said) == CUT:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            text = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_any)

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that gives up is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
