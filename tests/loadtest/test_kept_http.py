"""A kept connection against a server that counts its connections."""

from collections.abc import Iterator
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from loadtest.kept_http import Answer, KeptConnection


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        type(self).connections += 1
        super().setup()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"hang up":
            self.close_connection = True
            return
        self.send_response(503)
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def port() -> Iterator[int]:
    _Handler.connections = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(connection: KeptConnection, body: bytes) -> Answer:
    connection.send("POST", "/", body, {"Content-Type": "text/plain"})
    return connection.answer()


def test_requests_share_a_connection_until_it_rests_too_long(port: int) -> None:
    kept = KeptConnection("127.0.0.1", port, 5.0)
    assert ask(kept, b"coo") == Answer(503, b"coo", "7")
    assert ask(kept, b"again").body == b"again" and _Handler.connections == 1
    kept.close()
    rested = KeptConnection("127.0.0.1", port, 5.0, idle_s=-1.0)
    ask(rested, b"coo")
    ask(rested, b"coo")
    assert _Handler.connections == 3
    rested.close()


def test_a_broken_one_is_made_anew(port: int) -> None:
    kept = KeptConnection("127.0.0.1", port, 5.0)
    with pytest.raises((OSError, HTTPException)):
        ask(kept, b"hang up")
    assert ask(kept, b"coo").body == b"coo" and _Handler.connections == 2
    kept.close()
