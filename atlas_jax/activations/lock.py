"""The lock of a store: one recording at a time.

In a folder it is a file lock, which the system lets go when its process ends, however it ends.
Elsewhere it is an object, made only if it is not there and written anew every few seconds; one that
a killed process has left is taken over: at once on the same machine, on any other after it has not
changed for a while. No lock protects the data: every part has the same bytes whoever writes it, and
is written in one step. It saves two processes from the same work.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import tensorstore as ts

from atlas_jax.activations.kvstore import create, folder_of, open_kvstore, read_json, reason
from atlas_jax.errors import InputError
from atlas_jax.files import is_alive

_NAME = ".writer"
_BEAT = 10.0
_SILENCE = 3 * _BEAT
_held: set[tuple[str, str]] = set()
"""Objects of this process: in a container the one before may have had the same number."""


class WriterLock:
    """Held from `take` to `release`.

    Args:
        url: of the store.
        process: number of this process among those that record together, each with a lock of its
            own; two groups meet at process 0.
    """

    def __init__(self, url: str | os.PathLike[str], process: int = 0) -> None:
        self.url = url
        self._file: int | None = None
        self._kv: ts.KvStore | None = None
        self._key = f"{_NAME}-{process}" if process else _NAME

    def take(self) -> None:
        """Takes the lock.

        Raises:
            InputError: another process holds it, or the place cannot be written to.
        """
        folder = folder_of(self.url)
        try:
            if folder is None:
                self._take_object()
            else:
                self._take_file(folder)
        except (OSError, ValueError) as error:
            self.release()
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"Could not write activations to {self.url}: {reason(error)}"
            ) from None

    def _take_file(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / self._key, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another process is writing to {self.url}: wait for it, or use another folder."
            ) from None

    def _take_object(self) -> None:
        kv = open_kvstore(self.url)
        mine = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%F %T %z")}
        if not create(kv, self._key, json.dumps(mine).encode()):
            holder = read_json(kv, self._key) or {}
            if self._is_live(kv, holder, mine):
                raise InputError(
                    f"Another process is writing to {self.url} (process {holder.get('pid')} on "
                    f"{holder.get('host')}, since {holder.get('since')}): wait for it, or use "
                    f"another place. If it is dead, delete '{self._key}' there."
                )
            kv.write(self._key, json.dumps(mine).encode()).result()
        self._kv = kv
        _held.add((str(self.url), self._key))
        self._ended = threading.Event()
        threading.Thread(target=self._beat, args=(kv, mine), daemon=True).start()

    def _is_live(self, kv: ts.KvStore, holder: dict[str, Any], mine: dict[str, Any]) -> bool:
        if holder.get("host") == mine["host"]:
            pid = int(holder.get("pid", 0))
            return (str(self.url), self._key) in _held if pid == os.getpid() else is_alive(pid)
        seen, until = kv.read(self._key).result().value, time.monotonic() + _SILENCE
        while time.monotonic() < until:
            time.sleep(_SILENCE / 10)
            if kv.read(self._key).result().value != seen:
                return True
        return False

    def _beat(self, kv: ts.KvStore, mine: dict[str, Any]) -> None:
        """Writes the object anew until it is let go, or another process has taken it over."""
        beats, seen = 0, json.dumps(mine).encode()
        while not self._ended.wait(_BEAT):
            with suppress(OSError, ValueError):  # the store is away: it may come back
                if kv.read(self._key).result().value != seen:
                    return
                beats += 1
                following = json.dumps({**mine, "beats": beats}).encode()
                kv.write(self._key, following).result()
                seen = following

    def release(self) -> None:
        """Lets go; nothing happens where nothing is held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._kv is not None:
            kv, self._kv = self._kv, None
            self._ended.set()
            _held.discard((str(self.url), self._key))
            with suppress(OSError, ValueError):  # the store is away: what is left is taken over
                kv.write(self._key, None).result()
