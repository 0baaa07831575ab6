"""The lock of a store: one recording at a time.

In a folder it is a file lock, which the system lets go when its process ends, however it ends.
Elsewhere it is an object, made only if it is not there; one that a killed process has left is taken
over on the same machine, and named on any other. No lock protects the data: every part has the same
bytes whoever writes it, and is written in one step. It saves two processes from the same work.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from pathlib import Path

import tensorstore as ts

from atlas_jax.activations.kvstore import create, folder_of, open_kvstore, read_json, reason
from atlas_jax.errors import InputError

_NAME = ".writer"


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
            if holder.get("host") != mine["host"] or _alive(int(holder.get("pid", 0))):
                raise InputError(
                    f"Another process is writing to {self.url} (process {holder.get('pid')} on "
                    f"{holder.get('host')}, since {holder.get('since')}): wait for it, or use "
                    f"another place. If it is dead, delete '{self._key}' there."
                )
            kv.write(self._key, json.dumps(mine).encode()).result()
        self._kv = kv

    def release(self) -> None:
        """Lets go; nothing happens where nothing is held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._kv is not None:
            kv, self._kv = self._kv, None
            kv.write(self._key, None).result()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
