"""Reading one model's directions in another's words: pairs, bridge, verbalizer, washout, lift."""

from atlas_jax.verbalize.bridge import Bridge
from atlas_jax.verbalize.bridge_moments import BridgeMoments
from atlas_jax.verbalize.fit_bridge import Ridge, fit_bridge, solve_bridge
from atlas_jax.verbalize.pairs import Pairing
from atlas_jax.verbalize.verbalizer import Explanation, Verbalizer, load_verbalizer
from atlas_jax.verbalize.washout import BARE, Background, Washout, record_background

__all__ = [
    "BARE",
    "Background",
    "Bridge",
    "BridgeMoments",
    "Explanation",
    "Pairing",
    "Ridge",
    "Verbalizer",
    "Washout",
    "fit_bridge",
    "load_verbalizer",
    "record_background",
    "solve_bridge",
]
