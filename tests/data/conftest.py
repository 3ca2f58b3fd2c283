"""What the tests of data ask for: folders of their own, and a server on this machine."""

import http.server
import threading

import pytest


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """No test sees the user's own data or proxies, or writes to the user's own cache."""
    monkeypatch.delenv("FUNNET_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``: by path, bytes or a function that is given the handler."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = {}, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        answer = self.server.files.get(self.path)
        if callable(answer):
            answer(self)
        elif answer is None:
            self.send_error(404)
        else:
            self.send(answer, announced=len(answer))

    def log_message(self, *args):
        pass

    def send(self, content, announced):
        self.send_response(200)
        if announced is not None:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
