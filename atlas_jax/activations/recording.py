"""A recording: what of which model is captured on which texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from atlas_jax.activations.kvstore import attempt, open_kvstore
from atlas_jax.activations.layout import array_name, finished_parts
from atlas_jax.activations.meta import check_meta, read_meta
from atlas_jax.activations.parts import rows_of_a_part
from atlas_jax.activations.pool import TOKENS, Pools, pool_function, pools_of_sites
from atlas_jax.activations.tokens import Corpus, Encoder, Tokens
from atlas_jax.errors import InputError
from atlas_jax.on_host import on_host
from atlas_jax.parallel import processes_of

DTYPES = ("float32", "bfloat16", "float16")


class Source(Protocol):
    """What is captured: a `LanguageModel` or an `Atlas`."""

    name: str
    fingerprint: str

    @property
    def tokenizer(self) -> Encoder: ...

    @property
    def sites(self) -> tuple[str, ...]: ...

    @property
    def mesh(self) -> Mesh | None: ...

    def width(self, site: str) -> int: ...

    def read(
        self,
        tokens: Any,
        mask: Any,
        sites: Sequence[str],
        pool: Callable[[Array, Array], Array] | None = None,
    ) -> dict[str, Array]: ...


@dataclass(frozen=True)
class Recording:
    """What is asked for, checked.

    Attributes:
        source: the model.
        pools: of each site.
        names: all poolings together.
        dtype: of the stored values; None: the model's.
        meta: what names the recording; a store with another one is refused.
    """

    source: Source
    pools: dict[str, tuple[str, ...]]
    names: tuple[str, ...]
    dtype: str | None
    meta: dict[str, Any]

    @classmethod
    def ask(
        cls,
        source: Source,
        sites: Sequence[str] | None,
        pool: Pools,
        dtype: str | None,
        texts: Corpus,
        max_tokens: int,
    ) -> Recording:
        """Checks a request.

        Raises:
            InputError: whatever is wrong with it.
        """
        if isinstance(sites, str):
            raise InputError(f"Expected a sequence of sites, got the string '{sites}'.")
        names = tuple(dict.fromkeys(sites if sites is not None else source.sites))
        if not names:
            raise InputError("Expected at least one site, got none.")
        widths = {site: source.width(site) for site in names}
        if dtype is not None and dtype not in DTYPES:
            raise InputError(f"Expected a dtype among {', '.join(DTYPES)}, got '{dtype}'.")
        if not len(texts):
            raise InputError("Expected at least one text to capture, got none.")
        if max_tokens < 2:
            raise InputError(f"Expected max_tokens of at least 2, got {max_tokens}.")
        holders = processes_of(source.mesh)
        if len(holders) > 1 and len(holders) < jax.process_count():
            raise InputError(
                f"Expected {source.name} on devices of this process or of all, got it on those of "
                f"{len(holders)} of {jax.process_count()}: load it with mesh=make_mesh()."
            )
        max_tokens = min(max_tokens, getattr(source, "context_length", max_tokens))
        pools = pools_of_sites(pool, names)
        used = tuple(dict.fromkeys(pool for site in names for pool in pools[site]))
        token, mask = (jax.ShapeDtypeStruct((1, 16), kind) for kind in (np.int32, np.bool_))
        shapes = jax.eval_shape(
            lambda t, m: source.read(t, m, names, pool_function(used)), token, mask
        )
        meta = {
            "model": source.name,
            "fingerprint": source.fingerprint,
            "texts": texts.hash,
            "n": len(texts),
            "max_tokens": max_tokens,
            "sites": {
                site: {
                    "width": widths[site],
                    "dtype": dtype or np.dtype(shapes[site].dtype).name,
                    "pools": list(pools[site]),
                }
                for site in names
            },
        }
        return cls(source, pools, used, dtype, meta)

    @property
    def together(self) -> bool:
        """Whether the model lies over all processes, which then read every batch together."""
        return len(processes_of(self.source.mesh)) > 1

    @property
    def by_token(self) -> bool:
        """Whether a row is a token."""
        return self.names == (TOKENS,)

    @property
    def arrays(self) -> dict[str, tuple[str, str]]:
        """The site and the pooling of each array, by its name."""
        return {
            array_name(site, pool): (site, pool)
            for site, pools in self.pools.items()
            for pool in pools
        }

    def read(self, tokens: Any, mask: Any) -> dict[str, Array]:
        """Runs the model on a batch; copies of the results are on their way to the host."""
        acts = self.source.read(tokens, mask, tuple(self.pools), pool_function(self.names))
        if self.dtype is not None:
            acts = {site: array.astype(self.dtype) for site, array in acts.items()}
        for array in acts.values():
            array.copy_to_host_async()
        return acts

    def take(self, acts: dict[str, Array]) -> dict[str, np.ndarray]:
        """A batch's results on the host, by array."""
        host = {site: on_host(array) for site, array in acts.items()}
        if len(self.names) == 1:
            return {name: host[site] for name, (site, _) in self.arrays.items()}
        return {
            name: host[site][self.names.index(pool)] for name, (site, pool) in self.arrays.items()
        }

    def buffers(self, rows: int) -> dict[str, np.ndarray]:
        """Room for so many rows of every array."""
        made = {}
        for name, (site, _) in self.arrays.items():
            kind = self.meta["sites"][site]
            made[name] = np.empty((rows, kind["width"]), np.dtype(kind["dtype"]))
        return made

    def is_finished(self, url: str | os.PathLike[str]) -> bool:
        """Whether a store holds all of it.

        Raises:
            InputError: the store holds something else.
        """
        kv = open_kvstore(url)
        found = attempt(f"read {url}", lambda: read_meta(kv, url))
        if found is None:
            return False
        check_meta(found, self.meta, url)
        done = attempt(f"read {url}", lambda: finished_parts(kv))
        return len(done) == -(-found["rows"] // found["rows_per_part"])

    def plan(self, tokens: Tokens, batch_tokens: int, rows_per_part: int | None) -> dict[str, Any]:
        """The meta of its store.

        Raises:
            InputError: batches or parts of no size.
        """
        if batch_tokens < 1 or (rows_per_part is not None and rows_per_part < 1):
            raise InputError(
                f"Expected batch_tokens and rows_per_part of at least 1, got {batch_tokens} and "
                f"{rows_per_part}."
            )
        rows = len(tokens.ids) if self.by_token else len(tokens)
        if rows_per_part is None:
            row_bytes = sum(array[:1].nbytes for array in self.buffers(1).values())
            rows_per_part = rows_of_a_part(len(tokens.ids) / rows, batch_tokens, row_bytes)
        return {
            **self.meta,
            "tokens": len(tokens.ids),
            "cut": tokens.cut,
            "rows": rows,
            "rows_per_part": rows_per_part,
        }
