"""A run folder: what was asked, what was done, and what need not be done again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

from atlas_jax.errors import InputError
from atlas_jax.files import read_json, sealed, sha256_of, write_json
from atlas_jax.parallel import agree, barrier, leads
from atlas_jax.pipeline.recipe import Recipe

T = TypeVar("T")
Say = Callable[[str], None]
Others = Literal["stay away", "load", "help"]

MANIFEST = "manifest.json"
"""What was asked, what was done, by which versions, and the sha256 of small files."""
_PACKAGES = ("atlas-jax", "jax", "flax", "transformers", "numpy", "tensorstore", "nltk")


class Run:
    """A folder that holds everything needed to repeat an experiment.

    Args:
        folder: where; made if need be.
        recipe: what to do.
        say: prints one line to the user.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], recipe: Recipe, say: Say) -> None:
        self.folder, self.recipe, self.say = Path(folder).expanduser(), recipe, say
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"Expected to write into {self.folder}: {error.strerror or error}. Name another "
                "folder with --out."
            ) from None
        self.manifest: dict[str, Any] = {"stages": {}}
        with suppress(InputError):
            found = read_json(self.folder / MANIFEST, "manifest of a run", "run the recipe again")
            stages = found.get("stages")
            if isinstance(stages, dict) and all(isinstance(s, dict) for s in stages.values()):
                self.manifest = found
        self.manifest |= {"recipe": recipe.to_dict(), "versions": versions()}
        self.timings: dict[str, float] = {}

    def stage(
        self,
        name: str,
        inputs: Any,
        produce: Callable[[], T],
        load: Callable[[], T] | None = None,
        others: Others = "stay away",
    ) -> T:
        """Does a stage, or takes its result from an earlier run.

        Args:
            name: of the stage.
            inputs: JSON-able; the result is taken from the folder if these are as before.
            produce: computes and saves the result.
            load: reads what `produce` saved; None: `produce` itself resumes.
            others: what the other processes do, where there are several: `load` what the first
                one saved, `help` to produce it, or `stay away`: then only the first may come here.
        """
        if others == "load" and load is not None and not leads():
            barrier(name)
            return load()
        started = time.perf_counter()
        text = json.dumps([version_of("atlas-jax"), inputs], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        record = self.manifest["stages"].get(name, {})
        result: T | None = None
        if load is not None and record.get("key") == key:
            with suppress(InputError, OSError, ValueError, KeyError):
                result = load()
        again = result is None
        if others == "help":  # the folder may look different from another machine
            again = agree(name, "again" if again else "done") == "again"
            if result is None and not again:
                raise InputError(_apart(self.folder))
        if again or result is None:
            self.manifest["stages"].pop(name, None)
            result = produce()
        seconds = time.perf_counter() - started
        self.timings[name] = seconds
        if again:
            self.manifest["stages"][name] = {
                "key": key,
                "seconds": round(seconds, 2),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            self.save_manifest()
        if others == "load":
            barrier(name)
        return result

    def check_shared(self, patience: float = 10.0) -> None:
        """Refuses a folder that not all processes see; alone, does nothing.

        Args:
            patience: seconds that a network disk may take to show a file.
        """
        token = agree("folder", self._mark() if leads() else "")
        until = time.monotonic() + patience
        while not (self.folder / token).exists():
            if time.monotonic() > until:
                raise InputError(_apart(self.folder))
            time.sleep(0.1)
        barrier("the folder is seen")
        if leads():
            (self.folder / token).unlink()

    def _mark(self) -> str:
        path = self.folder / f".shared.{os.getpid()}.{time.time_ns()}"
        path.touch()
        return path.name

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file of the run in one step; of several processes, the first does.

        The manifest keeps its checksum.
        """
        self.manifest.setdefault("files", {}).pop(name, None)
        if not leads():
            return
        remedy = "Free some space, or name another folder with --out"
        write_json(self.folder / name, value, remedy=remedy)
        if name != MANIFEST:
            self.keep(name)

    def keep(self, name: str) -> None:
        """Records a file's sha256 in the manifest."""
        self.manifest.setdefault("files", {})[name] = sha256_of(self.folder / name)

    def save_manifest(self) -> None:
        """Writes the manifest, sealed."""
        self.write_json(MANIFEST, sealed(self.manifest))

    def read_json(self, name: str) -> Any:
        """Reads a JSON file of the run.

        Raises:
            InputError: it is not the one that was written.
        """
        path, known = self.folder / name, self.manifest.get("files", {}).get(name)
        found = read_json(path, "result of a stage", "run the recipe again", object)
        if known not in (None, sha256_of(path)):
            raise InputError(f"{path} was changed or damaged: run the recipe again.")
        return found


def _apart(folder: Path) -> str:
    return (
        f"Expected a folder that all processes see, got {folder}: what the first one wrote is not "
        "there. Name one on a shared disk with --out."
    )


def version_of(package: str) -> str:
    """The installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Versions of everything that numbers depend on."""
    return {"python": platform.python_version()} | {name: version_of(name) for name in _PACKAGES}
