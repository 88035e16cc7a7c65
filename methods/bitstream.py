"""Whole numbers as a string of bits, each in as few as its range needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def width_of(size: int) -> int:
    """Bits that tell `size` values apart; none for one."""
    return (size - 1).bit_length()


def pack(fields: Sequence[tuple[np.ndarray, int]]) -> bytes:
    """Rows of numbers, each [n] with the size that they are below; the last byte is filled up with zeros."""
    parts = [(numbers[:, None] >> _places(size) & 1).astype(np.uint8).reshape(-1) for numbers, size in fields]
    return np.packbits(np.concatenate(parts)).tobytes()


def unpack(stream: bytes, fields: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """The first rows that `pack` wrote, by their counts and sizes.

    Raises:
        ValueError: the stream is too short for them.
    """
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    found, start = [], 0
    for count, size in fields:
        end = start + count * width_of(size)
        if end > len(bits):
            raise ValueError(f"a stream of {len(bits)} bits ends before bit {end}")
        found.append(bits[start:end].reshape(count, width_of(size)).astype(np.int64) @ (1 << _places(size)))
        start = end
    return found


def _places(size: int) -> np.ndarray:
    """Of the bits, highest first."""
    return np.arange(width_of(size), dtype=np.int64)[::-1]
