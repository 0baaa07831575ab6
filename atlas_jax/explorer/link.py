"""Where somebody is on the page, as the query of its address."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

TABS = ("search", "steer", "compare", "bridge")


@dataclass(frozen=True)
class Place:
    """What a link restores.

    Attributes:
        tab: one of `TABS`.
        text: what was searched.
        weights: the ticked atlas features.
        site: of the subject; "" for the first choice.
        method: of the translation; "" for the first choice.
        feature: (site, index) of the subject feature that is open.
        heat: whether tokens are shaded.
    """

    tab: str = TABS[0]
    text: str = ""
    weights: tuple[tuple[int, float], ...] = ()
    site: str = ""
    method: str = ""
    feature: tuple[str, int] | None = None
    heat: bool = False

    def link(self) -> str:
        """The query of the address, with its question mark."""
        parts = {
            "tab": self.tab,
            "q": self.text,
            "atlas": ",".join(f"{feature}:{weight:g}" for feature, weight in self.weights),
            "site": self.site,
            "method": self.method,
            "feature": f"{self.feature[0]}.{self.feature[1]}" if self.feature else "",
            "heat": "1" if self.heat else "",
        }
        return "?" + urlencode({name: value for name, value in parts.items() if value})

    @classmethod
    def read(
        cls, query: Mapping[str, str], sites: tuple[str, ...], methods: tuple[str, ...]
    ) -> Place:
        """What a link says; whatever this run does not have is left out.

        Args:
            query: parameters of the address.
            sites: that can be chosen.
            methods: that can be chosen.
        """
        tab, site, method = (query.get(name, "") for name in ("tab", "site", "method"))
        place, _, number = query.get("feature", "").rpartition(".")
        feature = (place, int(number)) if place in sites and _is_index(number) else None
        return cls(
            tab if tab in TABS else TABS[0],
            query.get("q", "")[:500],
            _weights(query.get("atlas", "")),
            site if site in sites else "",
            method if method in methods else "",
            feature,
            query.get("heat") == "1",
        )


def _weights(text: str) -> tuple[tuple[int, float], ...]:
    found: dict[int, float] = {}
    for part in text.split(","):
        number, _, weight = part.partition(":")
        try:
            value = float(weight or 1)
        except ValueError:
            continue
        if _is_index(number) and math.isfinite(value):
            found[int(number)] = value
    return tuple(found.items())


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
