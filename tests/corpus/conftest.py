"""A hub of data sets in this process: what its client and `datasets` ask of the real one."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

COMMIT = "c" * 40
REVISIONS = {"main", "v1", COMMIT}


class Hub(BaseHTTPRequestHandler):
    """Serves folders as data sets, each with one commit."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folders, gated, *arguments) -> None:
        self.folders, self.gated = folders, gated
        super().__init__(*arguments)

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        found = re.fullmatch(r"(?:/api)?/datasets/(\w+/\w+)(?:/(\w+)/(\w+)(?:/(.*))?)?", parts.path)
        if not found:
            return self.answer(404, {"error": "unknown"})
        name, kind, revision, rest = found.groups()
        if name in self.gated:
            return self.answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        if name not in self.folders:
            return self.answer(401, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})
        if revision and revision not in REVISIONS:
            return self.answer(404, {"error": "none"}, {"X-Error-Code": "RevisionNotFound"})
        folder = self.folders[name]
        if kind == "tree":
            deep = parse_qs(parts.query).get("recursive", ["false"])[0].lower() == "true"
            inside = folder / (rest or "")
            paths = sorted(inside.rglob("*") if deep else inside.glob("*"))
            return self.answer(200, [self.entry(folder, path) for path in paths])
        if kind == "resolve":
            return self.file(folder / (rest or ""))
        siblings = [{"rfilename": p.name} for p in folder.glob("*")]
        return self.answer(200, {"id": name, "sha": COMMIT, "siblings": siblings, "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        found = re.fullmatch(r"/api/datasets/(\w+/\w+)/paths-info/\w+", self.path)
        if not found:
            return self.answer(404, {"error": "unknown"})
        form = "json" in self.headers.get("Content-Type", "")
        paths = (json.loads(body) if form else parse_qs(body))["paths"]
        folder = self.folders[found[1]]
        there = [folder / path for path in paths if (folder / path).exists()]
        self.answer(200, [self.entry(folder, path) for path in there])

    def entry(self, folder: Path, path: Path) -> dict:
        kind = "directory" if path.is_dir() else "file"
        size = path.stat().st_size if path.is_file() else 0
        place = path.relative_to(folder).as_posix()
        return {"type": kind, "path": place, "size": size, "oid": hashlib.sha1(b"").hexdigest()}

    def file(self, path: Path) -> None:
        if not path.is_file():
            return self.answer(404, {"error": "none"}, {"X-Error-Code": "EntryNotFound"})
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            return self.answer(200, content, headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.answer(206, content[start : end + 1], headers)

    def answer(self, code: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub_server() -> Iterator[Callable[..., str]]:
    """Starts a hub that serves folders, and gives its address."""
    servers = []

    def start(folders: dict[str, Path], gated: list[str]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folders, gated))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
