"""Memory that JAX on a CPU takes over as it is, so that a dataset is there once and not twice."""

import numpy as np

ALIGNMENT = 64
"""Bytes; XLA copies what does not begin at a multiple of them."""
BLOCK = 65_536
"""Rows whose statistics are taken at a time."""


def aligned(array: np.ndarray) -> np.ndarray:
    """`array` itself if JAX can take it over, else a copy that it can."""
    if array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0:
        return array
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def mean_and_std(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the rows, each (n,) float64, without a float64 copy of the whole array."""
    blocks = [array[i : i + BLOCK] for i in range(0, len(array), BLOCK)]
    mean = np.zeros(array.shape[1])
    for block in blocks:
        mean += block.sum(0, dtype=np.float64) / len(array)
    variance = np.zeros(array.shape[1])
    for block in blocks:
        variance += np.square(block - mean).sum(0) / len(array)
    return mean, np.sqrt(variance)
