"""A GGUF file's header and tensors, whichever of its parts they lie in."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.errors import InputError
from atlas_jax.outside import refusing
from atlas_jax.progress import Bar

# Keys with the value at which they change nothing.
_NEUTRAL = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.attn_factor_long": 1.0,
}
_HARMLESS = {"pooling_type", "rope.scaling.finetuned", "tensor_data_layout", "vocab_size"}


class Header:
    """Hands out a header's values and remembers which were asked for, to refuse the rest.

    Attributes:
        architecture: llama.cpp's name of the family.
        fields: every key of the header.
        tensors: by their GGUF names, in the order of the file; their shapes are reversed.

    Raises:
        InputError: not a GGUF file, a damaged one, or one of several parts without the others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with Bar("reading the header"):
            readers = [_open(path)]
            with refusing(f"the header of {path}", "Download it again"):
                self.fields: dict[str, Any] = {
                    k: v.contents() for k, v in readers[0].fields.items()
                }
                readers += [_open(part) for part in self._other_parts()]
        self.tensors: dict[str, Any] = {t.name: t for r in readers for t in r.tensors}
        if "general.architecture" not in self.fields:
            raise InputError(
                f"Expected 'general.architecture' in the header of {path}, found none."
            )
        self.architecture: str = str(self.fields["general.architecture"])
        self.read: set[str] = set()

    def _other_parts(self) -> list[Path]:
        count = self.fields.get("split.count", 1)
        if type(count) is not int or count < 2:
            return []
        stem = re.fullmatch(r"(.*)-00001-of-(\d{5})", self.path.stem)
        if stem is None or int(stem[2]) != count:
            raise InputError(
                f"{self.path} is one of the {count} parts of a split model. Give the first, named "
                f"...-00001-of-{count:05d}.gguf, with the others beside it."
            )
        return [
            self.path.with_name(f"{stem[1]}-{i:05d}-of-{count:05d}.gguf")
            for i in range(2, count + 1)
        ]

    def __call__(self, key: str, default: Any = ...) -> Any:
        """The value of `{architecture}.{key}`, one for all layers; the default if it is absent.

        Raises:
            InputError: it is absent and there is no default, or differs between layers.
        """
        name = f"{self.architecture}.{key}"
        self.read.add(name)
        value = self.fields.get(name, default)
        if value is ...:
            raise InputError(f"Expected '{name}' in the header of {self.path}, found none.")
        if isinstance(value, list):
            if len(set(value)) != 1:  # one of no entries too
                raise InputError(
                    f"The header of {self.path} has a '{name}' for each layer, and this decoder's "
                    "layers are alike. Use another file."
                )
            value = value[0]
        return decimal(value) if isinstance(value, float) else value

    def layers(self, key: str) -> list[Any] | None:
        """A key's values for each layer; None if it is absent or one for all."""
        name = f"{self.architecture}.{key}"
        value = self.fields.get(name)
        if not isinstance(value, list):
            return None
        self.read.add(name)
        return value

    def must_be(self, key: str, *allowed: Any) -> None:
        """Accepts a key only where it is absent or has one of some values."""
        value = self(key, None)
        if value is not None and value not in allowed:
            raise self.refusal(
                f"{self.architecture}.{key}={value!r} (known: {', '.join(map(repr, allowed))})"
            )

    def shape(self, tensor: str) -> tuple[int, ...]:
        """A tensor's shape, rows first."""
        if tensor not in self.tensors:
            raise InputError(f"Expected a tensor '{tensor}' in {self.path}, found none.")
        return tuple(int(n) for n in self.tensors[tensor].shape[::-1])

    def tokenizer(self, key: str, default: Any = None) -> Any:
        """The value of `tokenizer.ggml.{key}`."""
        return self.fields.get(f"tokenizer.ggml.{key}", default)

    def refusal(self, what: str) -> InputError:
        """The error of a file that asks for what the decoder does not do."""
        return InputError(
            f"{self.path} asks for {what}, which this decoder does not implement for "
            f"{self.architecture}. Use another file."
        )

    def finish(self) -> None:
        """Refuses what was neither asked for nor is known to change nothing."""
        prefix = f"{self.architecture}."
        rest = {
            name: value
            for name, value in self.fields.items()
            if name.startswith(prefix) and name not in self.read
        }
        unknown = [
            f"{name}={str(value)[:20]}"
            for name, value in sorted(rest.items())
            if (key := name.removeprefix(prefix)) not in _HARMLESS
            and not (key in _NEUTRAL and value == _NEUTRAL[key])
        ]
        if unknown:
            raise InputError(
                f"The header of {self.path} has keys this reader does not know: "
                f"{', '.join(unknown)}. Refused rather than ignored: they may change the numbers."
            )


def decimal(value: float) -> float:
    """The shortest decimal that float32, as which the header holds it, rounds to a value."""
    return float(str(np.float32(value)))


def _open(path: Path) -> Any:
    if not path.exists():
        raise InputError(f"Expected {path}, a part of a split GGUF file; it is missing.")
    with refusing(f"{path} as a GGUF file", "Download it again"), np.errstate(all="raise"):
        return _reader()(str(path))


@cache
def _reader() -> Any:
    """The gguf package's reader, which stops where the file does."""
    import gguf

    class Reader(gguf.GGUFReader):
        def _get(self, offset: Any, dtype: Any, count: Any = 1, *more: Any, **how: Any) -> Any:
            values = super()._get(offset, dtype, count, *more, **how)
            if offset < 0 or len(values) != int(count):
                raise ValueError("it claims more than its bytes hold")
            return values

        def _get_field_parts(self, orig_offs: Any, raw_type: Any) -> Any:
            # An array of numbers in one piece: the package would make an object for each.
            if raw_type == gguf.GGUFValueType.ARRAY:
                kind, count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
                inner = gguf.GGUFValueType(kind[0])
                if inner in self.gguf_scalar_to_np:
                    values = self._get(orig_offs + 12, self.gguf_scalar_to_np[inner], count[0])
                    types = [gguf.GGUFValueType.ARRAY, inner]
                    return 12 + values.nbytes, [kind, count, values], [2], types
                if inner == gguf.GGUFValueType.ARRAY:
                    raise ValueError("an array of arrays")
            return super()._get_field_parts(orig_offs, raw_type)

    return Reader
