"""Who gets in: tokens, hosts, closed routes, and what is said where something is missing."""

import asyncio
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from atlas_jax.cli.app import app
from atlas_jax.errors import InputError
from atlas_jax.explorer.access import COOKIE, Access, is_local
from atlas_jax.explorer.server import listen, make_app

TOKEN = "a-token-of_20-letters"


def ask(token, path="/", query="", host="127.0.0.1:7860", cookie="", origin=None):
    """Status and headers of one request; the page itself answers 200."""
    sent = []

    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.encode()), (b"cookie", cookie.encode())]
    headers += [(b"origin", origin.encode())] if origin else []
    scope = {"type": "http", "path": path, "query_string": query.encode(), "headers": headers}
    asyncio.run(Access(page, token)(scope, None, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *[("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.9.1", True)],
        *[("0.0.0.0", False), ("::", False), ("10.0.0.2", False), ("evil.example", False)],
        *[("127.0.0.1.evil.example", False), ("", False)],
    ],
)
def test_which_hosts_are_this_machine(host, local):
    assert is_local(host) is local


def test_without_a_token_only_local_names_are_served():
    assert ask("")[0] == 200 and ask("", host="localhost:80")[0] == 200
    assert ask("", host="[::1]:7860")[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example:7860", "", "[::1"):
        assert ask("", host=host)[0] == 403
    assert ask("", origin="http://127.0.0.1:7860")[0] == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert ask("", origin=origin)[0] == 403
    policy = ask("")[1]["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy


def test_with_a_token_nothing_is_served_without_it():
    for more in ({}, {"query": "token="}, {"query": f"token={TOKEN[:-1]}"}, {"path": "/config"}):
        assert ask(TOKEN, **more)[0] == 401
    for cookie in ("", f"{COOKIE}=", f"{COOKIE}={TOKEN}x", f"other={TOKEN}", "\xff=;;"):
        assert ask(TOKEN, cookie=cookie)[0] == 401
    assert ask(TOKEN, cookie=f"{COOKIE}={TOKEN}", host="other.example")[0] == 200
    status, headers = ask(TOKEN, query=f"tab=steer&token={TOKEN}&q=a+%26+b")
    assert status == 303 and headers["location"] == "?tab=steer&q=a+%26+b"
    assert headers["set-cookie"].startswith(f"{COOKIE}={TOKEN};")
    assert {"HttpOnly", "SameSite=Lax"} <= set(headers["set-cookie"].split("; "))


@pytest.mark.parametrize(
    "path", ["upload", "file=/etc/passwd", "file/x", "proxy=http://a", "vibe-edit"]
)
def test_routes_to_files_and_other_servers_are_closed(path):
    assert ask("", f"/gradio_api/{path}")[0] == 404


def test_listening_beyond_this_machine_takes_a_token():
    here = listen(port=0)
    assert here.token == "" and here.address.startswith("http://127.0.0.1:")
    port = here.socket.getsockname()[1]
    with pytest.raises(InputError, match=f"127.0.0.1:{port}.*another --port"):
        listen(port=port)
    here.socket.close()
    first, second = listen("0.0.0.0", 0), listen("0.0.0.0", 0)
    assert len(first.token) >= 24 and first.token != second.token
    assert first.address.endswith(f"?token={first.token}")
    for opened in (first, second):
        opened.socket.close()
    for token in ("", "short", "a token of 20 letters", "äääääääääääääääää"):
        with pytest.raises(InputError, match="token"):
            listen("0.0.0.0", 0, token)


def test_a_missing_extra_is_one_line(monkeypatch, explored):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install 'atlas-jax\[explore\]'") as caught:
        make_app(explored)
    assert "\n" not in str(caught.value)


def test_nothing_loads_gradio_before_the_page():
    code = "import sys, atlas_jax.cli.app, atlas_jax.cli.explore; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"gradio", "fastapi", "uvicorn"} & set(run.stdout.split())


def test_wrong_input_on_the_command_line(folder, tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr("atlas_jax.explorer.server.make_app", lambda explored, token: token)
    monkeypatch.setattr("atlas_jax.explorer.server.serve", lambda app, at, say: served.append(at))
    monkeypatch.setattr("atlas_jax.explorer.explored.Explored.warm", lambda self: None)

    def invoke(*arguments):
        return CliRunner().invoke(app, ["explore", *map(str, arguments)])

    for arguments, message in (
        ((tmp_path,), "Expected the folder of a run"),
        ((folder, "--host", "0.0.0.0", "--token", "short"), "at least 12"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2 and message in result.stderr
        assert result.stderr.count("\n") == 1
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = invoke(folder, "--port", taken.getsockname()[1])
        assert result.exit_code == 2 and "--port" in result.stderr
    assert served == [] and invoke(folder, "--port", 0).exit_code == 0
    served[0].socket.close()
    assert "Example: atlas-jax explore" in invoke("--help").output
