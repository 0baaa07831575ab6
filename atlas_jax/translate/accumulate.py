"""One pass over the rows (or one for each block of atlas features): every sum that is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from atlas_jax.errors import InputError
from atlas_jax.parallel import agree, barrier, one_at_a_time
from atlas_jax.progress import Bar
from atlas_jax.translate.column_blocks import bytes_per_column, column_blocks
from atlas_jax.translate.device_sums import DeviceSums
from atlas_jax.translate.host_sums import HostSums
from atlas_jax.translate.moments import Moments, Side, SiteMoments, SitesOnDemand, Wanted
from atlas_jax.translate.moments_file import Columns, MomentsFolder
from atlas_jax.translate.ridge_path import fold_bounds
from atlas_jax.translate.rows import Inputs, check_finite, read_ahead

_BATCH_BYTES = 128 * 2**20
_MOST_ROWS = 4096
_LEAST_ROWS = 256


Part = tuple[Wanted, int, int]
"""Which sums of which rows."""


@dataclass(frozen=True)
class Plan:
    """How the sums are taken.

    Attributes:
        batch_rows: rows taken together; default: as many as fit into 128 MB, 4,096 at most.
        mesh: devices to spread over: rows on the axis `data`, atlas features on `model`. Default:
            the host where JAX's device is a CPU, else one device.
        layout: of atlas rows on the host: `sparse`, `dense` or `auto`.
        max_memory: bytes (or "8GB") that the sums may take; default: no bound.
        moments: folder to save the sums in; a fit that was stopped goes on from there.
        save_every: seconds between two savings.
        report: takes a line about what was chosen.
    """

    batch_rows: int | None = None
    mesh: Mesh | None = None
    layout: str = "auto"
    max_memory: int | str | None = None
    moments: str | Path | None = None
    save_every: float = 60.0
    report: Callable[[str], None] | None = None


class Accumulator(Protocol):
    """`HostSums` or `DeviceSums`."""

    layout: str
    density: float

    def local(self, start: int, stop: int) -> tuple[int, int]: ...

    def prepare(self, rows: np.ndarray) -> Any: ...

    def add(
        self, subjects: Mapping[str, np.ndarray], atlas: Any, start: int, stop: int
    ) -> None: ...

    def moments(self) -> Moments: ...


class Accumulated(NamedTuple):
    """The sums and how they were taken.

    Attributes:
        moments: of all rows.
        folds: of each fold.
        about: for the header: engine, layout, density, passes, bytes of the sums.
    """

    moments: Moments
    folds: list[Moments]
    about: dict[str, Any]


@contextmanager
def accumulate(inputs: Inputs, asked: Wanted, folds: int, plan: Plan) -> Iterator[Accumulated]:
    """The sums over all rows, to be used within the context: blocks may lie in a temporary folder.

    Args:
        inputs: the rows.
        asked: which sums.
        folds: also keep the regression's sums of that many contiguous folds; 0: none.
        plan: how.
    """
    asked = replace(asked, top=min(asked.top, inputs.n))
    bounds = fold_bounds(inputs.n, folds) if folds else [0, 0]
    parts: dict[str, Part] = {"all": (asked, 0, inputs.n)}
    column = bytes_per_column(inputs.widths, inputs.atlas_width, asked)
    if folds:  # their sum is that of all rows
        regression = Wanted(cross=True, gram=asked.gram)
        parts = {"all": (replace(asked, cross=False, gram=""), 0, inputs.n)}
        for i in range(folds):
            parts[f"fold{i}"] = (regression, bounds[i], bounds[i + 1])
        column += (folds - 1) * bytes_per_column(inputs.widths, inputs.atlas_width, regression)
    blocks = column_blocks(inputs.atlas_width, column, plan.max_memory)
    with TemporaryDirectory(prefix="atlas-jax-") as temporary:
        place = plan.moments or (temporary if len(blocks) > 1 else None)
        folder = MomentsFolder(place) if place else None
        found, about = _passes(inputs, parts, blocks, plan, folder)
        about |= {"passes": len(blocks), "sum_bytes": column * (blocks[0][1] - blocks[0][0])}
        if plan.report:
            plan.report(_line(about))
        if folder and len(blocks) > 1:
            names, _ = folder.parts()
            found = {name: folder.whole(name) for name in names}
        whole = found.pop("all")
        if folds:
            whole = with_regression(whole, list(found.values()))
        yield Accumulated(whole, list(found.values()), about)


def _passes(
    inputs: Inputs,
    parts: Mapping[str, Part],
    blocks: Sequence[Columns],
    plan: Plan,
    folder: MomentsFolder | None,
) -> tuple[dict[str, Moments], dict[str, Any]]:
    """A pass for each block: the moments of the last, and how the sums were taken."""
    found: dict[str, Moments] = {}
    about: dict[str, Any] = {}
    with Bar("accumulating moments", inputs.n * len(blocks)) as bar:
        for i, columns in enumerate(blocks):
            mine = {
                name: (wanted if i == 0 else replace(wanted, top=0), start, stop)
                for name, (wanted, start, stop) in parts.items()
            }
            found, passed = {}, None  # the last block's sums make room for this one's
            passed = _Pass(inputs, mine, columns, plan, folder)
            found = passed.run(bar.advance)
            about = about or passed.about()
    return found, about


def _line(about: Mapping[str, Any]) -> str:
    where = "on the host" if about["engine"] == "host" else "on the device"
    share = f"{about['density']:.1%} of the atlas entries are not zero" if about["density"] else ""
    rows = f"{about['layout']} atlas rows {where}"
    size = f"sums of {about['sum_bytes'] / 1e6:.0f} MB, {about['passes']} pass(es) over the rows"
    return "; ".join(part for part in (rows, share, size) if part)


def with_regression(whole: Moments, folds: Sequence[Moments]) -> Moments:
    """The sums of rows as they are come from the folds, those of unit rows from the whole."""

    def raw(side: Side, parts: Iterable[Side], product: str) -> Side:
        parts = list(parts)
        names = ("total", "squares", product)
        return replace(side, **{name: sum(getattr(part, name) for part in parts) for name in names})

    def site(name: str) -> SiteMoments:
        return raw(whole.sites[name], (fold.sites[name] for fold in folds), "cross")

    atlas = raw(whole.atlas, (fold.atlas for fold in folds), "gram")
    return Moments(whole.n, atlas, SitesOnDemand(whole.sites, site))


class _Share(NamedTuple):
    """The rows from `start` to `stop`, or what this process has of them, for one part."""

    part: str
    subjects: dict[str, np.ndarray]
    atlas: Any
    start: int
    stop: int


class _Pass:
    """One pass over the rows for one block of atlas features."""

    def __init__(
        self,
        inputs: Inputs,
        parts: Mapping[str, Part],
        columns: Columns,
        plan: Plan,
        folder: MomentsFolder | None,
    ) -> None:
        self.inputs, self.parts, self.columns = inputs, parts, columns
        self.plan, self.folder = plan, folder
        self.turn = nullcontext() if plan.mesh is None else one_at_a_time  # rows may be live
        self.sums: dict[str, Accumulator] = {}
        self.resumed: dict[str, int] = {}
        size = _batch_rows(inputs) if plan.batch_rows is None else plan.batch_rows
        if size < 1:
            raise InputError(f"Expected batch_rows of at least 1, got {size}.")
        self.size = min(size, inputs.n)
        for name, (wanted, start, _) in parts.items():
            saved = folder.load(name, columns) if folder else None
            moments = None
            if saved is not None:
                moments, header = saved
                self._check(header, wanted)
            self.resumed[name] = start + (moments.n if moments else 0)
            self.sums[name] = self._accumulator(wanted, moments)
        self.done = dict(self.resumed)

    def _accumulator(self, wanted: Wanted, saved: Moments | None) -> Accumulator:
        inputs, plan = self.inputs, self.plan
        if plan.mesh is None and jax.default_backend() == "cpu":
            return HostSums(
                inputs.widths, inputs.atlas_width, wanted, self.columns, plan.layout, saved
            )
        return DeviceSums(
            inputs.widths, inputs.atlas_width, wanted, self.columns, self.size, plan.mesh, saved
        )

    def _check(self, header: Mapping[str, Any], wanted: Wanted) -> None:
        if header["inputs"] != [self.inputs.about()] or header["wanted"] != asdict(wanted):
            raise InputError(
                f"Expected moments of these rows, methods and options in {self.plan.moments}, "
                "found others: name another folder."
            )

    def run(self, advance: Callable[[float], None]) -> dict[str, Moments]:
        """The sums of each part."""
        n = self.inputs.n
        begin = min([d for name, d in self.resumed.items() if d < self.parts[name][2]], default=n)
        advance(begin)
        saved, pause = time.monotonic(), self.plan.save_every
        for stop, shares in read_ahead(self._read, range(begin, n, self.size)):
            for share in shares:
                with self.turn:
                    self.sums[share.part].add(share.subjects, share.atlas, share.start, share.stop)
                self.done[share.part] = share.stop
            advance(stop - max(begin, stop - self.size))
            due = time.monotonic() - saved > pause
            if self.folder and stop < n and _all_save(due):
                before = time.monotonic()
                self._save()
                saved = time.monotonic()
                if pause:  # writing takes a twentieth of the time at most
                    pause = max(self.plan.save_every, 20 * (saved - before))
        if self.folder and begin < n:
            self._save()
        return {name: sums.moments() for name, sums in self.sums.items()}

    def _read(self, start: int) -> tuple[int, list[_Share]]:
        """A batch, and the share of it that each part takes."""
        stop = min(start + self.size, self.inputs.n)
        spans = {}
        for name, (*_, last) in self.parts.items():
            a, b = max(start, self.resumed[name]), min(stop, last)
            if a < b:
                spans[name] = (a, b, *self.sums[name].local(a, b))
        low, high = min(span[2] for span in spans.values()), max(span[3] for span in spans.values())
        subjects, atlas = self.inputs.read(low, high)
        check_finite({**subjects, "the atlas": atlas}, low)
        shares = []
        for name, (a, b, first, last) in spans.items():
            cut = slice(first - low, last - low)
            mine = {site: rows[cut] for site, rows in subjects.items()}
            shares.append(_Share(name, mine, self.sums[name].prepare(atlas[cut]), a, b))
        return stop, shares

    def _save(self) -> None:
        assert self.folder is not None
        # Of several processes one writes to the folder that they share, each to one of its own.
        mine = not self.plan.moments or jax.process_index() == 0
        for name, sums in self.sums.items():
            wanted, _, stop = self.parts[name]
            header = {
                "inputs": [self.inputs.about()],
                "wanted": asdict(wanted),
                "left": stop - self.done[name],
            }
            with self.turn:
                moments = sums.moments()  # by all processes together
            if mine:
                self.folder.save(name, self.columns, moments, header)
        barrier("moments are saved")

    def about(self) -> dict[str, Any]:
        """How the sums were taken."""
        sums = self.sums["all"]
        engine = "host" if isinstance(sums, HostSums) else "device"
        density = None if np.isnan(sums.density) else round(sums.density, 4)
        return {"engine": engine, "layout": sums.layout, "density": density}


def _all_save(due: bool) -> bool:
    """Whether to save now: the first process's clock decides."""
    return agree("save the moments", "now" if due else "later") == "now"


def _batch_rows(inputs: Inputs) -> int:
    """A power of two."""
    row = 4 * (sum(inputs.widths.values()) + inputs.atlas_width)
    return 1 << (min(max(_BATCH_BYTES // row, _LEAST_ROWS), _MOST_ROWS).bit_length() - 1)
