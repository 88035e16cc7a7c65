"""What lmms-eval's tasks score, as JSON and back: tuples stay tuples, and keys of dictionaries need not be texts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_TAG = "__kind__"


def encode(value: object) -> object:
    """A JSON-ready form of numbers, texts, lists, tuples, sets and dictionaries, nested.

    Raises:
        TypeError: anything else, such as a picture.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {_TAG: "array", "of": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, list):
        return [encode(v) for v in value]
    if isinstance(value, tuple | set | frozenset):
        kind = "tuple" if isinstance(value, tuple) else "set"
        return {_TAG: kind, "of": [encode(v) for v in (value if kind == "tuple" else sorted(value, key=repr))]}
    if isinstance(value, Mapping):
        if all(isinstance(k, str) for k in value) and _TAG not in value:
            return {k: encode(v) for k, v in value.items()}
        return {_TAG: "dict", "of": [[encode(k), encode(v)] for k, v in value.items()]}
    raise TypeError(f"a task scored a {type(value).__name__}, which cannot be kept in a record")


def decode(value: object) -> object:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TAG)
    if kind is None:
        return {k: decode(v) for k, v in value.items()}
    if kind == "array":
        return np.array(value["of"], dtype=value["dtype"])
    if kind == "dict":
        return {decode(k): decode(v) for k, v in value["of"]}
    parts = [decode(v) for v in value["of"]]
    return tuple(parts) if kind == "tuple" else set(parts)
