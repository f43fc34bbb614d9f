"""Networks: small, batched, typed."""

from spaars.nn.distributions import Normal, TanhNormal
from spaars.nn.layers import MLP, Critics, LayerNorm, Linear, polyak
from spaars.nn.learner import Learner, Metrics, descend
from spaars.nn.policy import GaussianPolicy, TanhGaussianPolicy
from spaars.nn.recurrent import GRU, BidirectionalGRU

__all__ = [
    "GRU",
    "MLP",
    "BidirectionalGRU",
    "Critics",
    "GaussianPolicy",
    "LayerNorm",
    "Learner",
    "Linear",
    "Metrics",
    "Normal",
    "TanhGaussianPolicy",
    "TanhNormal",
    "descend",
    "polyak",
]
