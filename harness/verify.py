"""Holds methods against arrays that their authors' own code produced."""

from __future__ import annotations

import importlib
import importlib.util
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from .contracts import UserError
from .registry import PACKAGE, registry

UNSERVED = "a model that no family of ours serves"
LATER = ("kth_*",)
"""Cases of modes that no registered method offers yet."""
QUANTIZER = "quantizer_"
"""Starts the name of files that hold a tokenizer's quantizer, which is a part of methods and none itself."""


Status = Literal["ok", "wrong", "absent", "skipped"]
Replay = Callable[[Mapping[str, np.ndarray]], "dict[str, np.ndarray] | None"]
"""From the `in` arrays of a case to its `out` arrays; None for a case that is not run."""


@dataclass(frozen=True)
class FileReport:
    """What became of one file of arrays.

    Attributes:
        status: `ok` (all equal, or computed where there is nothing to compare with), `wrong`, `absent` (no registered
            method can compute it), `skipped` (a whole vision transformer, or a vision-language model that no family of
            ours serves).
        right, expected: arrays that are equal, and arrays compared.
        first_wrong: the first key that differs.
        listed: cases that were not run, each with its reason.
    """

    file: str
    method: str
    level: str
    status: Status
    right: int = 0
    expected: int = 0
    first_wrong: str | None = None
    listed: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Verification:
    """Reports of all files of a folder."""

    files: tuple[FileReport, ...]

    @property
    def ok(self) -> bool:
        return all(report.status != "wrong" for report in self.files)

    def reached(self, method: str) -> set[str]:
        """The levels at which every file of a method agrees."""
        mine = [r for r in self.files if r.method == method]
        levels = {r.level for r in mine if r.status == "ok" and r.expected}
        return levels - {r.level for r in mine if r.status == "wrong"}


def verify_reference(reference: Path, dump: Path | None = None, methods: Iterable[str] | None = None) -> Verification:
    """Run every registered method on the `in` arrays of a folder and compare with its `out` arrays, if it holds any.

    A method's `replay` gets the `in` arrays of a case by name, and the case's own name as `case`.

    Args:
        reference: a folder with `INDEX.json` and `*.npz` whose keys are `case/in/name` and `case/out/name`.
        dump: where what was computed goes, in files of the same names; none for a method that cannot compute it.
        methods: names to run, default all.

    Raises:
        UserError: a folder without an index, a file that cannot be read or lacks an array, an unknown method, an
            unwritable dump.
    """
    index = _read_index(reference)
    wanted = {registry("methods").get(name).name for name in methods} if methods is not None else None
    if dump is not None:
        try:
            dump.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{dump} cannot be written: {error.strerror}.") from error
    reports = []
    for path in sorted(reference.glob("*.npz")):
        entry = index.get(path.stem)
        # a variant's whole models may stand in the index under the method that it varies
        if entry is not None and (wanted is None or wanted & {entry["method"], path.stem.removeprefix("wiring_")}):
            reports.append(_file(path, entry, dump))
    return Verification(tuple(reports))


def _read_index(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / "INDEX.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder} is no folder of reference arrays: INDEX.json cannot be read.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from error
    if not isinstance(index, dict) or not all(isinstance(e, dict) and "method" in e for e in index.values()):
        raise UserError(f"{path} must map file names to entries that name a method.")
    return index


def _file(path: Path, entry: Mapping[str, object], dump: Path | None) -> FileReport:
    method, level = str(entry["method"]), str(entry.get("level", "selection"))
    if level not in ("selection", "wiring"):
        return FileReport(path.name, method, level, "skipped", reason=f"level {level}: {UNSERVED}")
    if not method.startswith(QUANTIZER) and method not in {e.name for e in registry("methods")}:
        return FileReport(path.name, method, level, "absent", reason=f"{method} is not registered")
    replay = _selection_replay(method) if level == "selection" else _wiring_replay(path.stem, method)
    if replay is None:
        return FileReport(path.name, method, level, "absent", reason=f"{method} has no replay of level {level}")
    cases, expected = _read(path)
    skip = {
        "not judged": _patterns(entry, "not_judged"),
        "whole model": _patterns(entry, "model_cases"),
        "later": LATER,
    }
    found: dict[str, np.ndarray] = {}
    listed = []
    for case, arrays in cases.items():
        reason = next((why for why, patterns in skip.items() if _fits(case, patterns)), None)
        if reason:
            listed.append(f"{case}: {reason}")
            expected = {k: v for k, v in expected.items() if not k.startswith(f"{case}/")}
            continue
        try:
            made = replay({**arrays, "case": np.asarray(case)})
        except KeyError as error:
            raise UserError(f"{path}: case {case} lacks the array in/{error.args[0]}, which {method} needs.") from error
        if made is None:
            listed.append(f"{case}: {UNSERVED}")
            expected = {k: v for k, v in expected.items() if not k.startswith(f"{case}/")}
            continue
        found |= {f"{case}/out/{name}": array for name, array in made.items()}
    if dump is not None:
        np.savez_compressed(dump / path.name, **found)  # type: ignore[arg-type]
    free, tolerance = _patterns(entry, "order_free"), entry.get("tolerance", {})
    assert isinstance(tolerance, dict)
    wrong = [
        key
        for key, array in expected.items()
        if key not in found or not agree(array, found[key], order_free=_fits(key.split("/", 2)[2], free), **tolerance)
    ]
    unserved = not found and any(UNSERVED in line for line in listed)
    if unserved:
        return FileReport(path.name, method, level, "skipped", listed=tuple(listed), reason=UNSERVED)
    return FileReport(
        path.name, method, level, "wrong" if wrong else "ok", len(expected) - len(wrong), len(expected),
        wrong[0] if wrong else None, tuple(listed),
    )  # fmt: skip


def _selection_replay(method: str) -> Replay | None:
    """A method's own function on arrays, or a quantizer."""
    if method.startswith(QUANTIZER):
        replays: Mapping[str, Replay] = importlib.import_module(f"{PACKAGE}.methods.replays.quantizers").REPLAYS
        return replays.get(method)
    module = f"{PACKAGE}.methods.replays.{method}"
    if importlib.util.find_spec(module) is None:
        return None
    replay: Replay = importlib.import_module(module).replay
    return replay


def _wiring_replay(stem: str, method: str) -> Replay | None:
    """A method in the whole tiny model of a case."""
    from .wiring import module_of, replay

    module = module_of(stem, method)
    return None if module is None else partial(replay, module)


def _read(path: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Inputs by case, and expected outputs by key. Nothing but `in` arrays reaches a method."""
    cases: dict[str, dict[str, np.ndarray]] = {}
    expected: dict[str, np.ndarray] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                case, section, name = (*key.split("/", 2), "", "")[:3]
                if section == "in":
                    cases.setdefault(case, {})[name] = file[key]
                elif section == "out":
                    expected[key] = file[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as arrays: {error}.") from error
    return cases, expected


def _patterns(entry: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = entry.get(name, ())
    assert isinstance(value, list | tuple | dict)
    return tuple(value)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def agree(want: np.ndarray, got: np.ndarray, *, order_free: bool = False, rtol: float = 0, atol: float = 0) -> bool:
    """Integers and strings are equal exactly, floats within a tolerance.

    With `order_free`, distinct integers are compared as sets (row by row), labels as partitions, which may be named
    otherwise, and rows of floats as bags.
    """
    if want.shape != got.shape or (want.dtype.kind == "f") != (got.dtype.kind == "f"):
        return False
    exact = want.dtype.kind != "f"

    def close(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(np.array_equal(a, b) if exact else np.allclose(b, a, rtol=rtol, atol=atol, equal_nan=True))

    if not order_free or want.ndim == 0:
        return close(want, got)
    if want.ndim >= 3 or (want.ndim == 2 and not exact):
        matrices = (want.reshape(-1, *want.shape[-2:]), got.reshape(-1, *got.shape[-2:]))
        return all(_same_bag(a, b, close) for a, b in zip(*matrices, strict=True))
    if not exact:
        return close(np.sort(want), np.sort(got))
    rows = list(zip(np.atleast_2d(want), np.atleast_2d(got), strict=True))
    if all(len(set(a.tolist())) == len(a) for a, _ in rows):
        return all(close(np.sort(a), np.sort(b)) for a, b in rows)
    return all(list(_first_seen(a)) == list(_first_seen(b)) for a, b in rows)


def _same_bag(want: np.ndarray, got: np.ndarray, close: object) -> bool:
    assert callable(close)
    left = list(got)
    for row in want:
        match = next((i for i, other in enumerate(left) if close(row, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _first_seen(labels: np.ndarray) -> Iterator[int]:
    """Labels renamed in the order of their first appearance, so that equal partitions are equal sequences."""
    names: dict[int, int] = {}
    for label in labels.tolist():
        yield names.setdefault(label, len(names))
