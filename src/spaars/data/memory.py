"""Memory that JAX on a CPU takes over as it is, so that a dataset is there once and not twice."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes; XLA copies what does not begin at a multiple of them."""
BLOCK = 65_536
"""Rows that are looked at at a time: a dataset may be larger than the memory."""


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory that JAX can take over."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A copy that JAX can take over."""
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def blocks(rows: int) -> Iterator[slice]:
    """All rows, `BLOCK` at a time."""
    for start in range(0, rows, BLOCK):
        yield slice(start, min(start + BLOCK, rows))


def mean_and_std(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the rows, each (n,) float64, without a float64 copy of the whole array."""
    mean, variance = np.zeros((2, array.shape[1]))
    for rows in blocks(len(array)):
        mean += array[rows].sum(0, dtype=np.float64) / len(array)
    for rows in blocks(len(array)):
        variance += np.square(array[rows] - mean).sum(0) / len(array)
    return mean, np.sqrt(variance)
