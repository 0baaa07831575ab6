"""Steered beside unsteered text, while it is being written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from atlas_jax.errors import InputError
from atlas_jax.explorer.explored import Explored
from atlas_jax.models import generate
from atlas_jax.steering import steer


@dataclass(frozen=True)
class Written:
    """What both have said so far."""

    prompt: str
    plain: str
    steered: str
    done: bool = False


class _Stopped(Exception):
    pass


def write(
    explored: Explored,
    prompt: str,
    weights: Mapping[int, float],
    site: str,
    method: str,
    strength: float,
    max_new_tokens: int = 40,
    mode: str = "steer",
) -> Iterator[Written]:
    """Continues a prompt twice at once, unsteered and steered along a query (eq. 4).

    Both are one batch, so that they start and end together; whoever stops iterating stops the
    model. The subject is loaded at the first call.

    Raises:
        InputError: no prompt, or a query that is zero.
    """
    if not prompt.strip():
        raise InputError("Expected a prompt to continue, got an empty one.")
    places = explored.places(site, method)
    edits = [
        steer(place, explored.stored(place, method).scores(weights), strength, mode)
        for place in places
    ]
    pieces: queue.Queue[tuple[int, str] | BaseException | None] = queue.Queue()
    stopped = threading.Event()

    def say(text: int, token: int, piece: str) -> None:
        if stopped.is_set():
            raise _Stopped
        pieces.put((text, piece))

    def run() -> None:
        try:
            with explored.model_lock:
                generate(
                    explored.run.model,
                    [prompt, prompt],
                    [[], edits],
                    max_new_tokens,
                    on_token=say,
                    progress="writing",
                )
            pieces.put(None)
        except _Stopped:
            pass
        except BaseException as error:
            pieces.put(error)

    threading.Thread(target=run, daemon=True).start()
    said = ["", ""]
    try:
        yield Written(prompt, said[0], said[1])
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            said[piece[0]] += piece[1]
            if pieces.empty():
                yield Written(prompt, said[0], said[1])
        yield Written(prompt, said[0], said[1], done=True)
    finally:
        stopped.set()
