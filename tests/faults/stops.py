"""Rounds of stops: a stage is killed, or its disk is full, at a random moment; then it goes on.

Every attempt is a fork of this process, in which no JAX has started yet. A kill falls on a random
call of the system that touches the stage's folder, or on a random moment of the time it takes: the
one can be repeated, the other also falls within what libraries do.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kept
import numpy as np
from nltk.tokenize.punkt import PunktSentenceTokenizer

from atlas_jax.activations import capture
from atlas_jax.atlas.training.state import load_state, save_state
from atlas_jax.corpus import build_corpus, spill
from atlas_jax.errors import InputError
from atlas_jax.translate import fit
from atlas_jax.verbalize.bridge_moments import BridgeMoments

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.truncate", "shutil.rmtree"}
spill.CHUNK = 600


def build(folder: Path) -> Any:
    """Many small chunks, each spilled to the disk."""
    texts = folder.parents[1] / "texts"
    if not texts.exists():
        draft = folder.parents[1] / f"texts{os.getpid()}"
        draft.mkdir()
        for i in range(30):
            (draft / f"{i}.txt").write_text(
                " ".join(f"Sentence {i} {j} is {'long ' * (j % 5)}enough." for j in range(12))
            )
        draft.rename(texts)
    splitter = PunktSentenceTokenizer()
    corpus = build_corpus(str(texts), n=200, seed=3, splitter=splitter, out=folder)
    return [corpus.hash, corpus.train.table.to_pydict(), corpus.counts]


def record(folder: Path) -> Any:
    found = kept.write_recording(folder)
    return [np.array(found.acts), found.tokens]


def store(folder: Path) -> Any:
    source = kept.TableSource(widths=(64, 32))
    capture(source, kept.TEXTS, out=folder / "s", rows_per_part=16, batch_tokens=128)
    return kept.read_arrays(folder)


def sums(folder: Path) -> Any:
    """Sums that go on are the same but for rounding: another batch is the first one."""
    how: dict[str, Any] = {"batch_rows": 16, "save_every": 0.0, "moments": folder / "moments"}
    found = fit(kept.ROWS, kept.side(), ("covariance",), **how)
    for site, by in found.items():
        by["covariance"].save(folder / f"{site}.safetensors")
    whole = fit(kept.ROWS, kept.side(), ("covariance",))
    for site, by in whole.items():
        right = by["covariance"].matrix
        np.testing.assert_allclose(found[site]["covariance"].matrix, right, rtol=1e-4, atol=1e-6)
    return sorted(found)


def checkpoints(folder: Path) -> Any:
    """What a training saves and goes on from; its steps add one."""
    import jax

    path = folder / "training.safetensors"
    folder.mkdir(exist_ok=True)
    state, losses = load_state(kept.like(), path, "plan")
    for step in range(len(losses), 8):
        state = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, state)
        losses = [*losses, {"step": step}]
        save_state(state, losses, path, "plan")
    return [[np.asarray(leaf) for leaf in jax.tree.leaves(state)], losses]


def bridges(folder: Path) -> Any:
    """Moments of pairs, saved as they grow; then the bridge."""
    path = folder / "moments.safetensors"
    found = BridgeMoments.load(path) if path.exists() else kept.bridge_moments()
    for i in range(len(found.about["runs"]), 6):
        more = kept.bridge_moments()
        more.about = {"runs": [f"run {i}"]}
        found = found.merge(more)
        found.save(path)
    kept.bridge().save(folder / "bridge.safetensors")
    return [[vars(part) for part in found.parts], found.about]


@dataclass(frozen=True)
class Stage:
    """What does it, what is left to read at any moment (None: nothing but itself), and how often
    it is chosen."""

    run: Callable[[Path], Any]
    read: Callable[[Path], Any] | None
    weight: int


STAGES = {
    "corpus": Stage(build, kept.read_corpus, 8),
    "recording": Stage(record, None, 8),
    "journal": Stage(kept.write_journal, None, 6),
    "run and report": Stage(kept.write_run, None, 6),
    "bridge": Stage(bridges, None, 8),
    "checkpoint": Stage(checkpoints, None, 3),
    "capture": Stage(store, kept.read_arrays, 2),
    "fit": Stage(sums, None, 2),
}


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: `done`, `refused`, `crashed` or `killed`; and what it said."""

    how: str
    text: str
    calls: int
    seconds: float


def attempt(
    stage: str,
    folder: Path,
    at_call: int = 0,
    after: float = 0.0,
    how: int = signal.SIGKILL,
    largest: int = 0,
    look: bool = False,
) -> Ended:
    """Runs a stage, or reads what it left, in a fork of this process.

    Args:
        stage: a key of `STAGES`.
        folder: of its files.
        at_call: kills itself at that call of the system; 0: at none.
        after: seconds after which it is killed; 0: never.
        how: the signal.
        largest: bytes of the largest file that it may write; 0: any.
        look: read only.
    """
    given, taken = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(given)
        _child(stage, folder, at_call, how, largest, look, taken)
    os.close(taken)
    with os.fdopen(given) as pipe:
        pipe.readline()  # it is about to begin
        if after:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        line = pipe.readline()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and not line:
        assert os.WTERMSIG(status) == how, f"{stage} ended by signal {os.WTERMSIG(status)}"
        return Ended("killed", "", 0, 0.0)
    return Ended(*json.loads(line))


def _child(stage: str, folder: Path, at_call: int, how: int, largest: int, look: bool, taken: int):
    calls, answer = [0], ("crashed", "no answer")
    begun = time.perf_counter()
    try:
        inside = str(folder)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in EVENTS and any(inside in str(a) for a in arguments[:2]):
                calls[0] += 1
                if calls[0] == at_call:
                    os.kill(os.getpid(), how)

        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        sys.addaudithook(hook)
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        os.write(taken, b"\n")
        begun = time.perf_counter()
        does = STAGES[stage].read if look else STAGES[stage].run
        assert does is not None
        answer = ("done", kept.fingerprint(does(folder)))
    except InputError as error:
        answer = ("refused", str(error))
    except BaseException as error:
        answer = ("crashed", f"{type(error).__name__}: {error}")
    finally:
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        text = json.dumps([*answer, calls[0], time.perf_counter() - begun])
        os.write(taken, text.encode() + b"\n")
        os._exit(0)


class Stopped:
    """Undisturbed runs of every stage, against which the others are held."""

    def __init__(self, folder: Path, stages: tuple[str, ...] = tuple(STAGES)) -> None:
        self.folder, self.whole, self.right = folder, {}, {}
        for stage in stages:
            whole = folder / "whole" / stage
            whole.mkdir(parents=True)
            self.whole[stage] = attempt(stage, whole)
            assert self.whole[stage].how == "done", f"{stage}: {self.whole[stage]}"
            if STAGES[stage].read is not None:
                self.right[stage] = attempt(stage, whole, look=True).text
        self.disk = can_mount(folder)

    def _choose(self, rng: random.Random) -> tuple[str, Path, Ended]:
        stages = sorted(self.whole)
        (stage,) = rng.choices(stages, [STAGES[s].weight for s in stages])
        folder = self.folder / "part" / stage.replace(" ", "-")
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        return stage, folder, self.whole[stage]

    def kill(self, seed: int) -> tuple[str, str]:
        """One round: killed up to three times, then left alone."""
        rng = random.Random(seed)
        stage, folder, whole = self._choose(rng)
        what, kills = f"seed {seed}: {stage}", 0
        for _ in range(rng.randint(1, 3)):
            how = rng.choice([signal.SIGKILL, signal.SIGTERM])
            if rng.random() < 0.6:
                moment = {"at_call": rng.randint(1, max(whole.calls, 1))}
            else:
                moment = {"after": rng.uniform(0, whole.seconds)}
            what += f", {how.name} {moment}"
            ended = attempt(stage, folder, how=how, **moment)
            kills += ended.how == "killed"
            assert ended.how in ("killed", "done"), f"{what}: {ended}"
            self._look(stage, folder, what)
        self._finish(stage, folder, what)
        return what, f"killed {kills}"

    def fill(self, seed: int) -> tuple[str, str]:
        """One round: a disk, or a file, that holds less than is wanted; then it holds enough."""
        rng = random.Random(seed)
        stage, folder, _ = self._choose(rng)
        files = [p for p in (self.folder / "whole" / stage).rglob("*") if p.is_file()]
        sizes = [path.stat().st_size for path in files]
        real = self.disk and rng.random() < 0.5
        size = rng.randint(1, int(1.2 * (sum(sizes) if real else max(sizes))))
        what = f"seed {seed}: {stage}, {'a disk' if real else 'files'} of {size} bytes"
        with small_disk(folder, size) if real else contextlib.nullcontext():
            ended = attempt(stage, folder, largest=0 if real else size)
            assert ended.how in ("refused", "done"), f"{what}: {ended}"
            assert len(ended.text.splitlines()) == 1 and len(ended.text) < 600, f"{what}: {ended}"
            self._look(stage, folder, what)
            if real:
                subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
            self._finish(stage, folder, f"{what}, {ended.text}")
        return what, ended.how

    def _look(self, stage: str, folder: Path, what: str) -> None:
        """What is there at this moment is whole, or is refused in one line."""
        if STAGES[stage].read is None:
            return
        found = attempt(stage, folder, look=True)
        if found.how == "refused":
            assert len(found.text.splitlines()) == 1 and len(found.text) < 600, f"{what}: {found}"
        else:
            assert found.how == "done" and found.text == self.right[stage], f"{what}: {found}"

    def _finish(self, stage: str, folder: Path, what: str) -> None:
        ended = attempt(stage, folder)
        assert ended.how == "done", f"{what}: then {ended}"
        assert ended.text == self.whole[stage].text, f"{what}: another result"
        left = [p.name for p in folder.rglob("*") if p.name.endswith((".partial", ".part"))]
        assert not left, f"{what}: left {left}"


def can_mount(folder: Path) -> bool:
    """Whether this process may make a small disk of its own."""
    try:
        with small_disk(folder, 65536):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk in memory of so many bytes, rounded up to pages."""
    quiet: dict[str, Any] = {"check": True, "stderr": subprocess.DEVNULL}
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], **quiet)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], **quiet)
