"""The linear-quadratic problem that the theory's golden numbers are worked out on by hand."""

import numpy as np

from spaars.theory.lq import LQ

# P = q + g P R / (R + g P) with g = 1/2, R = 1: P = 2 needs q = 2 - 1 * 1/2 = 3/2. From s = 1 the
# optimal return is -2, by the gain K = g P / (R + g P) = 1/2.
SCALAR = LQ(
    A=np.eye(1),
    B=np.eye(1),
    Q=np.array([[1.5]]),
    R=np.eye(1),
    gamma=0.5,
    start=np.ones((1, 1)),
    noise=np.zeros((1, 1)),
)
IDLE = np.zeros((1, 1))
