"""Reading one model's directions in another's words: pairs, bridge, verbalizer, washout, lift."""

from atlas_jax.verbalize.bridge import Bridge
from atlas_jax.verbalize.bridge_moments import BridgeMoments
from atlas_jax.verbalize.fit_bridge import Ridge, fit_bridge, solve_bridge
from atlas_jax.verbalize.pairs import Pairing

__all__ = ["Bridge", "BridgeMoments", "Pairing", "Ridge", "fit_bridge", "solve_bridge"]
