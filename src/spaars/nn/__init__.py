"""Networks: small, batched, typed."""

from spaars.nn.distributions import TanhNormal
from spaars.nn.layers import MLP, Critics, LayerNorm, Linear, polyak
from spaars.nn.policy import TanhGaussianPolicy

__all__ = [
    "MLP",
    "Critics",
    "LayerNorm",
    "Linear",
    "TanhGaussianPolicy",
    "TanhNormal",
    "polyak",
]
