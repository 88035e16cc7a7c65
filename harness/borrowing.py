"""Tasks of other harnesses, named `collection:task`, as entries beside our own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from .contracts import GroupFigure, TaskCollection, UserError
from .registry import Entry, registry


def task_entry(name: str, include: Sequence[str] = ()) -> Entry:
    """The entry of a task, with the family that its collection says.

    Raises:
        UserError: an unknown name, or a collection without a task.
    """
    entry = registry("tasks").get(name)
    if not is_borrowed(entry):
        return entry
    family = collection_of(entry).family(inner(name), include)
    borrowed = {"family": family, "metrics": (), "builtin": True, "model": None, "revision": None}
    return replace(entry, meta=dict(entry.meta) | borrowed)


def expand(names: Iterable[str], include: Sequence[str], copied: Iterable[str]) -> tuple[str, ...]:
    """Names of tasks with those of a collection's groups in their place, each once.

    Args:
        copied: tasks that the user gives the data of.

    Raises:
        UserError: see `TaskCollection.expand`.
    """
    found: dict[str, None] = {}
    given = set(copied)
    for name in names:
        entry = registry("tasks").get(name)
        if is_borrowed(entry):
            leaves = collection_of(entry).expand(inner(name), include, copied=name in given)
            found |= dict.fromkeys(f"{name.partition(':')[0]}:{leaf}" for leaf in leaves)
        else:
            found[entry.name] = None
    return tuple(found)


def group_figures(names: Iterable[str], include: Sequence[str]) -> tuple[GroupFigure, ...]:
    """Figures of the groups among names as typed."""
    found: dict[GroupFigure, None] = {}
    for name in names:
        entry = registry("tasks").get(name)
        prefix = name.partition(":")[0]
        for figure in collection_of(entry).figures(inner(name), include) if is_borrowed(entry) else ():
            members = tuple(f"{prefix}:{m}" for m in figure.members)
            found[replace(figure, name=f"{prefix}:{figure.name}", members=members)] = None
    return tuple(found)


def is_borrowed(entry: Entry) -> bool:
    """Is it a task of a collection?"""
    return entry.kind == "collection"


def collection_of(entry: Entry) -> TaskCollection:
    """The collection behind an entry."""
    return cast(TaskCollection, entry.build())


def inner(name: str) -> str:
    """A task's name in its collection.

    Raises:
        UserError: none is given.
    """
    prefix, _, rest = name.partition(":")
    if not rest:
        raise UserError(f"{prefix} is a collection of tasks: write {prefix}:NAME, see toksweep list tasks.")
    return rest
