"""A proxy before a PostgreSQL server that loses the answer to a COMMIT, or the COMMIT itself."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class PostgresProxy:
    """Listens on loopback and passes on to a server, byte for byte and without TLS.

    Attributes:
        upstream: The server's port.
        cuts: What happens to the next COMMITs, one after another: `before` (it never comes to the server), `after` (it
            is done, and the answer is lost), `late` (the client is cut off at once, and the server gets it only when
            `let_go` is set), `pass`. All that come later pass.
        happened: What did.
        let_go: Set it, and a COMMIT that was held back comes to the server.
    """

    upstream: int
    cuts: list[str] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.upstream)) as server:
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is server:
                        client.sendall(data)
                    elif b"COMMIT\0" in data and self.cuts and (cut := self.cuts.pop(0)) != "pass":
                        self._lose(cut, data, client, server)
                        return
                    else:
                        server.sendall(data)

    def _lose(self, cut: str, data: bytes, client: socket.socket, server: socket.socket) -> None:
        self.happened.append(cut)
        if cut == "before":
            return
        if cut == "late":
            client.shutdown(socket.SHUT_RDWR)
            client.close()
            self.let_go.wait(60)
        server.sendall(data)
        server.recv(1 << 16)

    def close(self) -> None:
        """Takes no more connections."""
        self.let_go.set()
        self._listener.close()


@contextlib.contextmanager
def postgres_proxy(upstream: int, *cuts: str) -> Iterator[PostgresProxy]:
    """A proxy that is closed at the end."""
    proxy = PostgresProxy(upstream, list(cuts))
    try:
        yield proxy
    finally:
        proxy.close()
