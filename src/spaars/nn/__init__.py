"""Networks: small, batched, typed."""

from spaars.nn.distributions import TanhNormal
from spaars.nn.layers import MLP, Critics, LayerNorm, Linear, polyak
from spaars.nn.learner import Learner, Metrics, descend
from spaars.nn.policy import TanhGaussianPolicy

__all__ = [
    "MLP",
    "Critics",
    "LayerNorm",
    "Learner",
    "Linear",
    "Metrics",
    "TanhGaussianPolicy",
    "TanhNormal",
    "descend",
    "polyak",
]
