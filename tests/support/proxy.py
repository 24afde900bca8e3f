"""An HTTP proxy before a store that, when it is told to, answers 503 or drops the connection now and then."""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Proxy(ThreadingHTTPServer):
    """`rate` is the share of requests that go wrong, and `faults` counts them: 503; the connection dropped before the
    store hears of the request, after it has answered, or in the middle of the answer."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, store: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = urlsplit(store).netloc
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.rate, self.faults, self.requests = 0.0, Counter(), 0
        self.random, self.lock = random.Random(0), threading.Lock()

    def draw(self) -> str | None:
        with self.lock:
            self.requests += 1
            if self.random.random() >= self.rate:
                return None
            fault = self.random.choice(["503", "dropped before", "dropped after", "half"])
            self.faults[fault] += 1
            return fault

    @contextmanager
    def faulty(self, rate: float) -> Iterator[Counter]:
        self.rate, self.faults = rate, Counter()
        try:
            yield self.faults
        finally:
            self.rate = 0.0

    def handle_error(self, request, client_address) -> None:
        pass  # a client that hung up


@contextmanager
def proxy(store: str) -> Iterator[Proxy]:
    with Proxy(store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self._body()
        fault = self.server.draw()
        if fault == "503":
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        if fault == "dropped before":
            self.close_connection = True
            return
        store = http.client.HTTPConnection(self.server.store, timeout=60)
        try:
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "expect"):
                    store.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                store.putheader("Content-Length", str(len(body)))
            store.endheaders(body)
            answer = store.getresponse()
            content = answer.read()
        finally:
            store.close()
        if fault == "dropped after":
            self.close_connection = True
            return
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
        self._answer(answer.status, headers, content, half=fault == "half")

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _answer(self, status: int, headers, content: bytes, half: bool = False) -> None:
        self.send_response_only(status)
        length = None
        for name, value in headers:
            length = value if name.lower() == "content-length" else length
            self.send_header(name, value)
        if length is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)
        self.close_connection = self.close_connection or half

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def log_message(self, *_) -> None:
        pass
