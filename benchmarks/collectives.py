"""What a compiled program sends between devices, read from its HLO.

Counted is the result of every collective operation, as often as its loop runs (XLA writes the
number of rounds beside a loop). A device's traffic follows from the size n of its group, as rings
do it:

    all-reduce          2 (n - 1) / n of the array
    all-gather          (n - 1) / n of the result
    reduce-scatter      (n - 1) of the result
    all-to-all          (n - 1) / n of the array
    collective-permute  the array
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4}
_BYTES |= {"u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_NAME = r"%?([\w.\-]+)"
_HEAD = re.compile(rf"^(?:ENTRY )?{_NAME} \(.*\{{$")
_CALLS = re.compile(rf"(?:to_apply|calls|body|condition|\w+_computation)={_NAME}")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Collective:
    """One operation.

    Attributes:
        kind: one of `KINDS`.
        dtype: of its first array.
        bytes: of its result.
        group: devices that take part together.
        times: how often it runs.
        shape: of its first array.
    """

    kind: str
    dtype: str
    bytes: int
    group: int
    times: int
    shape: tuple[int, ...]

    @property
    def sent(self) -> float:
        """Bytes that a device sends each time."""
        n = self.group
        share = {
            "all-reduce": 2 * (n - 1) / n,
            "reduce-scatter": n - 1,
            "collective-permute": 1,
        }.get(self.kind, (n - 1) / n)
        return share * self.bytes


def collectives(hlo: str, devices: int) -> list[Collective]:
    """Every collective of a compiled module, with the number of its runs.

    Args:
        hlo: `compiled.as_text()`.
        devices: of the program: the group of an operation that names none.

    Raises:
        ValueError: a loop around a collective whose number of rounds is not known.
    """
    bodies, entry = _computations(hlo)
    found: list[Collective] = []

    def visit(name: str, times: int, known: bool) -> None:
        for line in bodies.get(name, ()):
            kind = next((k for k in KINDS if re.search(rf"\s{k}(-start)?\(", line)), None)
            if kind:
                if not known:
                    raise ValueError(f"A loop of unknown length around: {line.strip()[:120]}")
                found.append(_read(kind, line, times, devices))
            loop = " while(" in line
            trips = _TRIPS.search(line)
            rounds = int(trips[1]) if loop and trips else 1
            called = set(_CALLS.findall(line))
            for branches in _BRANCHES.findall(line):
                called |= {part.strip().lstrip("%") for part in branches.split(",")}
            for other in sorted(called):
                visit(other, times * rounds, known and (not loop or trips is not None))

    visit(entry, 1, True)
    return [c for c in found if c.group > 1]


def largest_array(hlo: str) -> int:
    """Bytes of the largest array that a device holds in a compiled module."""
    return max(_bytes(kind, dims) for kind, dims in _SHAPE.findall(hlo) if kind in _BYTES)


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in hlo.splitlines():
        head = _HEAD.match(line)
        if head:
            name = head[1]
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _read(kind: str, line: str, times: int, devices: int) -> Collective:
    result = line.split("=", 1)[1]
    result = result[: re.search(rf"\s{kind}", result).start()]  # type: ignore[union-attr]
    shapes = _SHAPE.findall(result)
    if "-start(" in line and kind in ("all-gather", "collective-permute"):
        shapes = shapes[len(shapes) // 2 :]  # operands first, then results
    dtype, dims = shapes[0]
    size = sum(_bytes(*shape) for shape in shapes)
    if dtype == "f32" and "promoted" in line:  # XLA's CPU adds bfloat16 as float32
        dtype, size = "bf16", size // 2
    return Collective(kind, dtype, size, _group(line, devices), times, _dims(dims))


def _group(line: str, devices: int) -> int:
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    if listed:
        return listed[1].count(",") + 1
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    if iota:
        return int(iota[2])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
    if named:
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", named[2]))
    return 2 if "source_target_pairs" in line else devices


def _dims(dims: str) -> tuple[int, ...]:
    return tuple(int(n) for n in dims.split(",") if n)


def _bytes(dtype: str, dims: str) -> int:
    size = _BYTES[dtype]
    for n in _dims(dims):
        size *= n
    return size
