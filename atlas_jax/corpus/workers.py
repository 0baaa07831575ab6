"""Processes that split chunks of documents into sentences, beside the one that reads them.

Each is a fresh interpreter, fed through its standard input and gone when that closes: it does not
import the caller's main module, inherits no thread of JAX, and outlives nobody. What a chunk's file
holds depends on the chunk alone, so the number of processes plays no role in the result.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from atlas_jax.assets import fetch
from atlas_jax.corpus.documents import Document
from atlas_jax.corpus.sentences import punkt
from atlas_jax.corpus.spill import write_spill
from atlas_jax.errors import InputError

MOST = 8
"""Processes used when nothing is said: at up to 180 MB each, all stay within 2 GB together."""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """Processes that write spills with NLTK's tokenizer; each starts when first needed.

    Args:
        n: how many, at most.
    """

    def __init__(self, n: int) -> None:
        fetch("punkt-tab")  # once, before they all would
        self.n = n
        self._threads = ThreadPoolExecutor(n)
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []

    def submit(self, chunk: Sequence[Document], path: Path, seed: int) -> Future[None]:
        """Has a chunk written to `path`."""
        return self._threads.submit(self._run, list(chunk), path, seed)

    def _run(self, chunk: list[Document], path: Path, seed: int) -> None:
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = _start()
            self._all.append(process)
        assert process.stdin and process.stdout
        try:
            pickle.dump((chunk, path, seed), process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            failure = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = process.wait()
            raise InputError(
                f"Expected {self.n} processes to split sentences, one ended ({code}; -9 is out of "
                "memory): ask for fewer workers. What is done is kept."
            ) from None
        self._idle.put(process)
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._threads.shutdown()
        else:
            self._threads.shutdown(wait=False, cancel_futures=True)
            for process in self._all:
                process.kill()
            self._threads.shutdown()
        for process in self._all:
            process.communicate()  # its input closed, it ends


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from atlas_jax.corpus.workers import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )


def serve() -> None:
    """What a process does: writes one chunk after the other until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing that a library prints may come between the answers
    # NLTK imports these where they are installed: 100 MB and a second that no sentence needs.
    sys.modules.update(dict.fromkeys(("scipy", "sklearn")))  # type: ignore[arg-type]
    with suppress(EOFError, BrokenPipeError):  # whoever started it is done, or is no more
        while True:
            chunk, path, seed = pickle.load(sys.stdin.buffer)
            failure = None
            try:
                write_spill(chunk, path, punkt(), seed)
            except Exception as error:
                known = isinstance(error, InputError | OSError)
                failure = error if known else RuntimeError(f"{type(error).__name__}: {error}")
            pickle.dump(failure, answers)
