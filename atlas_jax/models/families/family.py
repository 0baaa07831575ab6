"""What a family of models is to the loader."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from atlas_jax.models.arch import Arch
from atlas_jax.models.config import Config
from atlas_jax.models.names import Names


@dataclass(frozen=True)
class Family:
    """A config reader and a name table.

    Attributes:
        read: makes the `Arch` from a config.
        names: for an `Arch`, decoder parameter -> tensor of the checkpoint.
        transposed: kernels lie (out, in) in the checkpoint, as `torch.nn.Linear` has them.
        renames: beginnings of tensor names, in other layouts of the checkpoint -> as in the table.
        ignored: a regular expression of tensor names that the decoder has no use for.
    """

    read: Callable[[Config], Arch]
    names: Callable[[Arch], Names]
    transposed: bool = True
    renames: dict[str, str] = field(
        # Saved without the head: AutoModel rather than AutoModelForCausalLM.
        default_factory=lambda: {
            "embed_tokens.": "model.embed_tokens.",
            "layers.": "model.layers.",
            "norm.": "model.norm.",
        }
    )
    ignored: str = r".*rotary_emb\.inv_freq"

    def table_name(self, name: str) -> str | None:
        """A tensor's name as the table spells it; None for one to ignore."""
        if re.fullmatch(self.ignored, name):
            return None
        for begin, instead in self.renames.items():
            if name.startswith(begin):
                return instead + name.removeprefix(begin)
        return name
