"""The server of the page: where it listens, and with which token."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atlas_jax.errors import InputError
from atlas_jax.explorer.access import Access, is_local
from atlas_jax.explorer.explored import Explored

HOST, PORT = "127.0.0.1", 7860


@dataclass(frozen=True)
class Listening:
    """A socket that is open, the token it asks for ("" for none), and the address to visit."""

    socket: socket.socket
    token: str
    address: str


def listen(host: str = HOST, port: int = PORT, token: str | None = None) -> Listening:
    """Opens the socket; beyond this machine always with a token, a new one unless given.

    Args:
        host: to listen on.
        port: 0 takes any that is free.
        token: to require; also allowed on this machine.

    Raises:
        InputError: a port that is taken, a host that is not this machine's, or a short token.
    """
    if token is None and not is_local(host):
        token = secrets.token_urlsafe(24)
    if token and not re.fullmatch(r"[A-Za-z0-9_-]{12,}", token):
        raise InputError(
            "Expected a token of at least 12 letters, digits, - or _, got another one: leave "
            "--token out to have one made."
        )
    if token == "" and not is_local(host):
        raise InputError(f"Expected a token for {host}, got an empty one: leave --token out.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.create_server((host.strip("[]"), port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"Expected to listen on {host}:{port}, could not ({error}): choose another --port."
        ) from None
    shown = f"[{host.strip('[]')}]" if ":" in host else host
    query = f"?token={token}" if token else ""
    return Listening(opened, token or "", f"http://{shown}:{opened.getsockname()[1]}/{query}")


def make_app(explored: Explored, token: str = "") -> Any:
    """The page as an ASGI application.

    Raises:
        InputError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio as gr
        from fastapi import FastAPI
        from gradio.themes import Default
    except ImportError:
        raise InputError(
            "Expected Gradio for the explorer, it is not installed: pip install "
            "'atlas-jax[explore]'"
        ) from None
    from atlas_jax.explorer.answers import Answers
    from atlas_jax.explorer.page import build_page
    from atlas_jax.explorer.style import STYLE

    sans = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "monospace"]
    theme = Default(
        primary_hue="orange", neutral_hue="stone", font=sans, font_mono=mono, text_size="md"
    )
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = build_page(Answers(explored))
    gr.mount_gradio_app(
        app, page, "/", footer_links=[], run_history=False, show_error=True, ssr_mode=False,
        theme=theme, head=STYLE, enable_monitoring=False, pwa=False, mcp_server=False,
    )  # fmt: skip
    return Access(app, token)


def serve(app: Any, at: Listening, say: Callable[[str], object]) -> None:
    """Serves until interrupted.

    Args:
        app: of `make_app`.
        at: where.
        say: called with the address.
    """
    import uvicorn

    say(at.address)
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(
        sockets=[at.socket]
    )
