"""What the kernels share: filling up to whole blocks, and what the compiler is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

Platform = str
"""`tpu`, `gpu`, or `cpu`, where kernels are interpreted."""


def padded(x: Array, *multiples: int) -> Array:
    """x with zeros after it, so that each axis is a multiple; x itself where it is one already."""
    return jnp.pad(x, [(0, -n % m) for n, m in zip(x.shape, multiples, strict=True)])


def power_of_two(n: int, least: int) -> int:
    """The smallest power of two that is at least both."""
    return max(least, 1 << (n - 1).bit_length())


def call(kernel: Callable[..., None], platform: Platform, warps: int = 4, **more: Any) -> Any:
    """`pallas_call` of a kernel whose last grid axis alone must run in order.

    On a GPU it is lowered by Triton, which takes float32 products as they are; Mosaic GPU has
    tensor cores only, and those round float32 to TF32.
    """
    if platform == "cpu":
        options: dict[str, Any] = {"interpret": True}
    elif platform == "tpu":
        order = ("parallel",) * (len(more["grid"]) - 1) + ("arbitrary",)
        options = {"compiler_params": pltpu.CompilerParams(dimension_semantics=order)}
    else:
        from jax.experimental.pallas import triton

        options = {"compiler_params": triton.CompilerParams(num_warps=warps, num_stages=2)}
    built = pl.pallas_call(kernel, **options, **more)

    def run(*arrays: Array) -> Any:
        with jax.enable_x64(False):  # indices of 64 bits have no place on an accelerator
            return built(*arrays)

    return run
