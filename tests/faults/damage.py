"""Rounds of damage: one file of a finished folder is changed, and its reader must notice or not
need what was changed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from kept import KEPT, fingerprint

from atlas_jax.errors import InputError

HOW = ("bit", "bit", "bit", "byte", "cut", "cut", "block", "gone")


def damage(path: Path, rng: random.Random) -> str:
    """Does one thing to a file and says what."""
    how = rng.choice(HOW)
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return "removed"
    if how == "cut" or not content:
        size = rng.randrange(len(content) + 1)
        path.write_bytes(content[:size])
        return f"cut to {size} of {len(content)} bytes"
    # Headers and indices are short: most places would be in the values.
    size = len(content)
    last = size - 1 - rng.randrange(min(size, 200))
    place = rng.choice([rng.randrange(size), rng.randrange(min(size, 1000)), last])
    if how == "bit":
        bit = rng.randrange(8)
        content[place] ^= 1 << bit
        told = f"bit {bit} of byte {place} flipped"
    elif how == "byte":
        content[place] = rng.randrange(256)
        told = f"byte {place} is now {content[place]}"
    else:
        content[place : place + 64] = bytes(len(content[place : place + 64]))
        told = f"64 bytes at {place} are zeros"
    path.write_bytes(content)
    return told


class Damaged:
    """Whole folders of every kind, of which copies are damaged."""

    def __init__(self, folder: Path, kinds: tuple[str, ...] = tuple(KEPT)) -> None:
        self.folder, self.right = folder, {}
        for kind in kinds:
            whole = folder / "whole" / kind
            whole.mkdir(parents=True)
            KEPT[kind].write(whole)
            self.right[kind] = fingerprint(KEPT[kind].read(whole))
            assert self.right[kind] == fingerprint(KEPT[kind].read(whole)), kind

    def round(self, seed: int) -> tuple[str, str]:
        """One round: (what was done, `noticed` or `the same`).

        Raises:
            AssertionError: something wrong was read, or the answer is no clear line.
        """
        rng = random.Random(seed)
        kind = rng.choice(sorted(self.right))
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder / "whole" / kind, copy)
        files = [p for p in sorted(copy.rglob("*")) if p.is_file() and p.name != ".writer"]
        victim = rng.choice(files)
        what = f"seed {seed}: {kind}, {victim.relative_to(copy)}, {damage(victim, rng)}"
        try:
            found = fingerprint(KEPT[kind].read(copy))
        except InputError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 600, f"{what}: {error}"
            return what, "noticed"
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        assert found == self.right[kind], f"{what}: read silently"
        return what, "the same"
