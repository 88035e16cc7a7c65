"""Checks of a method's parameters: each raises ValueError with the parameter's name and what it must be.

None passes where it is the parameter's default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

COUNTS = {3: "three ", 8: "eight "}


def number(method: object, *names: str, least: float, most: float) -> None:
    """Numbers from `least` to `most`."""
    for name, value in _given(method, names):
        if not _is_number(value) or not least <= value <= most:
            raise ValueError(f"{name} must be a number from {least} to {most}, not {value!r}")


def share(method: object, *names: str) -> None:
    """Numbers from 0 to below 1."""
    for name, value in _given(method, names):
        if not _is_number(value) or not 0 <= value < 1:
            raise ValueError(f"{name} must be a share from 0 to below 1, not {value!r}")


def above(method: object, *names: str, least: float) -> None:
    """Numbers above `least`."""
    for name, value in _given(method, names):
        if not _is_number(value) or value <= least:
            raise ValueError(f"{name} must be a number above {least}, not {value!r}")


def whole(method: object, *names: str, least: int = 1) -> None:
    """Whole numbers from `least`."""
    for name, value in _given(method, names):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number from {least}, not {value!r}")


def truth(method: object, *names: str) -> None:
    """True or False."""
    for name, value in _given(method, names):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, not {value!r}")


def one_of(method: object, name: str, *allowed: object) -> None:
    """One of a few values."""
    value = getattr(method, name)
    if value not in allowed:
        raise ValueError(f"{name} must be {', '.join(map(str, allowed[:-1]))} or {allowed[-1]}, not {value!r}")


def layers(method: object, name: str = "layers", count: int | None = None) -> None:
    """Layer numbers from 1, each above the one before."""
    for _, value in _given(method, (name,)):
        fine = isinstance(value, tuple | list) and len(value) > 0 and all(isinstance(layer, int) for layer in value)
        if not fine or sorted({0, *value}) != [0, *value] or len(value) != (count or len(value)):
            many = COUNTS[count] if count else ""
            raise ValueError(f"{name} must be {many}whole numbers from 1 in ascending order, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _given(method: object, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name in names:
        value = getattr(method, name)
        if value is not None or getattr(type(method), name, ...) is not None:
            yield name, value
