"""A proxy before an S3 server that does what networks do: it delays, cuts, loses and repeats.

What happens to a request follows from the seed, its method and path, and how often the same was asked before: not from
the order in which threads come, so that a seed means the same faults again.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import random
import re
import socket
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAULTS = (
    "delay",  # it comes late
    "cut_before",  # it never comes to the server
    "cut_request",  # half of it comes to the server
    "cut_after",  # it is done, and the reply is lost
    "cut_reply",  # it is done, and half of the reply comes
    "repeat",  # it is done twice, and the second reply comes
    "repeat_late",  # it is done, the reply comes, and some time later it is done again
    "busy",  # 503 SlowDown; it is not done
    "fault",  # it is done, and 500 comes
)


@dataclass
class Request:
    """One request, whole."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def path(self) -> str:
        """Its path, decoded, without the query."""
        return urllib.parse.unquote(self.target.partition("?")[0])


@dataclass
class FaultProxy:
    """Listens on loopback and passes on to `upstream` (host and port).

    Attributes:
        upstream: Where the server listens.
        seed: What chance follows from.
        rate: The share of requests that something happens to.
        faults: What may happen.
        plan: Called with each request and how often it was asked before; names a fault, gives a reply of its own
            (status and body), or None to leave it to chance.
        happened: How often each fault happened.
    """

    upstream: tuple[str, int]
    seed: int = 0
    rate: float = 0.0
    faults: tuple[str, ...] = FAULTS
    delay: float = 0.05
    plan: Callable[[Request, int], str | tuple[int, bytes] | None] | None = None
    happened: Counter[str] = field(default_factory=Counter)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Takes no further connection, and lets those go that are there."""
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, http.client.HTTPException):
            reader = client.makefile("rb")
            while not self._ended.is_set():
                request = _read(reader)
                if request is None or not self._answer(client, request):
                    return

    def _fault(self, request: Request) -> str | tuple[int, bytes] | None:
        key = (request.method, request.target)
        with self._lock:
            before = self.seen[key]
            self.seen[key] += 1
        fault = self.plan(request, before) if self.plan else None
        if fault is None and self.rate:
            # Names of buckets, uploads and terms are new in each run.
            told = re.sub(
                r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,}",
                "*",
                f"{self.seed} {request.method} {request.target} {before}",
            ).encode()
            chance = random.Random(hashlib.sha256(told).digest())
            fault = chance.choice(self.faults) if chance.random() < self.rate else None
        if fault is not None:
            with self._lock:
                self.happened[fault if isinstance(fault, str) else "reply"] += 1
        return fault

    def _answer(self, client: socket.socket, request: Request) -> bool:
        """Answers one request; False when the connection is to be closed."""
        fault = self._fault(request)
        if isinstance(fault, tuple):
            client.sendall(_reply(*fault))
            return True
        if fault == "delay":
            self._ended.wait(self.delay)
        if fault == "cut_before":
            return False
        if fault == "cut_request":
            self._half(request)
            return False
        if fault == "busy":
            client.sendall(_reply(503, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"))
            return True
        reply = self._pass_on(request)
        if fault == "repeat":
            reply = self._pass_on(request)
        if fault == "repeat_late":
            threading.Timer(self.delay, self._again, args=(request,)).start()
        if fault == "fault":
            reply = _reply(500, b"<Error><Code>InternalError</Code><Message>a fault</Message></Error>")
        if fault == "cut_after":
            return False
        if fault == "cut_reply":
            client.sendall(reply[: max(1, len(reply) // 2)])
            return False
        client.sendall(reply)
        return True

    def _again(self, request: Request) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._pass_on(request)

    def _half(self, request: Request) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self.upstream, timeout=10) as server:
            head = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
            server.sendall(f"{request.method} {request.target} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
            server.sendall(request.body[: len(request.body) // 2])

    def _pass_on(self, request: Request) -> bytes:
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                connection.putheader(name, value)
            connection.endheaders(request.body or None)
            answer = connection.getresponse()
            body = answer.read()
            kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in ("connection", "transfer-encoding")]
            if request.method != "HEAD":
                kept = [(n, v) for n, v in kept if n.lower() != "content-length"]
                if answer.status != 204:
                    kept.append(("Content-Length", str(len(body))))
            head = "".join(f"{name}: {value}\r\n" for name, value in kept)
            return f"HTTP/1.1 {answer.status} {answer.reason}\r\n{head}\r\n".encode("latin-1") + body
        finally:
            connection.close()


def _reply(status: int, body: bytes) -> bytes:
    reason = http.client.responses[status]
    lines = [
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: application/xml",
        'ETag: "x"',
        f"Content-Length: {len(body)}",
    ]
    head = "".join(f"{line}\r\n" for line in [*lines, ""])
    return head.encode() + body


def _read(reader: object) -> Request | None:
    readline, read = reader.readline, reader.read  # type: ignore[attr-defined]
    first = readline()
    if not first.strip():
        return None
    method, target, _ = first.decode("latin-1").split(" ", 2)
    headers: list[tuple[str, str]] = []
    while (line := readline().decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    length = int(next((value for name, value in headers if name.lower() == "content-length"), "0"))
    body = read(length)
    return Request(method, target, headers, body) if len(body) == length else None


@contextlib.contextmanager
def fault_proxy(endpoint: str, **settings: object) -> Iterator[FaultProxy]:
    """A proxy before the server at an `http://` endpoint."""
    url = urllib.parse.urlsplit(endpoint)
    proxy = FaultProxy((url.hostname or "", url.port or 80), **settings)  # type: ignore[arg-type]
    try:
        yield proxy
    finally:
        proxy.close()
