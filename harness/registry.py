"""Finds methods, tasks and metrics by name: in our folders, in a given file, behind an entry point; one code path.

Decorators record what the engine and `toksweep list` must know. Their arguments are literals, read from the source, so
that a name can be listed without importing torch; a module is imported when its name is asked for.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeVar

from .contracts import PLACES, Compressor, ModelShape, Reduction, Refusal, Stage, UserError, View

Group = Literal["methods", "tasks", "metrics"]
GROUPS: tuple[Group, ...] = ("methods", "tasks", "metrics")
PACKAGE = __name__.rsplit(".", 2)[0]
ROOT = Path(__file__).resolve().parent.parent
D = TypeVar("D")


# ----------------------------------------------------------------------------------------------------------- decorators


def compressor(
    name: str,
    *,
    places: tuple[str, ...],
    needs: tuple[str, ...] = (),
    budget_kind: Literal["exact", "at_most", "adaptive"] = "exact",
    floor: bool = False,
    diagnostic: bool = False,
    stochastic: bool = False,
    clips: bool = False,
    frames: bool = False,
    merges: bool = False,
    keeps_order: bool = True,
    operator: bool = False,
    paper: str | None = None,
    repository: str | None = None,
    verified: Literal["wiring", "selection", "paper"] | None = None,
) -> Callable[[D], D]:
    """Register a compressor: fewer visual tokens in a VLM.

    Args:
        places: where it acts, of `pixel encoder projector decoder attention`.
        needs: signals that it reads (see `View`); a family that lacks one refuses the method. `a|b` is a substitute
            where there is no `a`, which tables name; `a?` is read where it is there.
        budget_kind: `exact` keeps the count asked for, `at_most` may keep fewer (grids), `adaptive` sets an average.
        floor: a trivial method that every other must beat.
        diagnostic: knows what no method can know; shown, never ranked.
        stochastic: uses `view.noise`; run with several seeds.
        clips: leaves out what frames have in common, hence only for tasks of clips.
        frames: sees all images of a sample at once, which must be of one size, as the frames of a clip are.
        merges: makes new tokens, hence bypassed at the full budget; a selector is called there as well.
        keeps_order: kept tokens stay in raster order.
        operator: works on top of the merging method that its parameter `of` names, if any, and acts where that acts.
        verified: how far it is known to equal the authors' code; a test holds the claim against the arrays.
    """
    return _keep


def tokenizer(
    name: str,
    *,
    budget_units: tuple[str, ...] = ("bpp",),
    outputs: Literal["stream", "picture"] = "picture",
    floor: bool = False,
    stochastic: bool = False,
    network: bool = False,
    clips: bool = False,
    libraries: tuple[str, ...] = (),
    paper: str | None = None,
    repository: str | None = None,
    verified: Literal["wiring", "selection", "paper"] | None = None,
) -> Callable[[D], D]:
    """Register a tokenizer: pictures to codes and back.

    Args:
        budget_units: of `tokens percent bpp`.
        outputs: what is kept for scoring again: the bit stream, where decoding needs no model, or the picture.
        network: has weights (see `Network`), hence a device and a dtype.
        clips: codes clips only (see `ClipTokenizer`); one of pictures codes a clip frame by frame.
        libraries: distributions whose version changes the result, beyond those that every cell depends on.
    """
    return _keep


def untouched(name: str) -> Callable[[D], D]:
    """Register the absence of a method: full tokens, or the picture as it is. One cell, whatever the budgets."""
    return _keep


def task(
    name: str,
    *,
    family: Literal["vqa", "video_qa", "reconstruction", "generation"],
    metrics: tuple[str, ...],
    builtin: bool = True,
    model: str | None = None,
    revision: str = "1",
    licence: str | None = None,
    variants: Mapping[str, Mapping[str, object]] | None = None,
) -> Callable[[D], D]:
    """Register a task, a function from an optional folder to samples.

    Args:
        metrics: names of registered metrics, the headline first.
        builtin: has samples of its own; otherwise `--data NAME=DIR` is needed.
        model: what is asked where no model is named: an embedded one that was made for this task.
        revision: of its own data and prompts.
        variants: keyword arguments by name: `NAME_VARIANT` is registered for each, in place of `NAME`.
    """
    return _keep


def collection(name: str, *, licence: str | None = None) -> Callable[[D], D]:
    """Register a collection of another harness's tasks, `name:task` each: a class after `TaskCollection`."""
    return _keep


def metric(
    name: str,
    *,
    family: str,
    unit: str,
    higher_is_better: bool,
    backend: Literal["ocr", "faces", "features"] | None = None,
) -> Callable[[D], D]:
    """Register a metric class.

    Args:
        backend: the option whose value the class is built with (`--ocr`, `--faces`, `--features`); it shows in the
            metric's name.
    """
    return _keep


def _keep(decorated: D) -> D:
    return decorated


_DECORATORS: Mapping[str, tuple[Group, Callable[..., object]]] = {
    "compressor": ("methods", compressor),
    "tokenizer": ("methods", tokenizer),
    "untouched": ("methods", untouched),
    "task": ("tasks", task),
    "collection": ("tasks", collection),
    "metric": ("metrics", metric),
}


# -------------------------------------------------------------------------------------------------------------- entries


@dataclass(frozen=True)
class Entry:
    """One registered name: what its decorator says, and where its code is."""

    group: Group
    kind: str
    name: str
    path: Path
    module: str
    attribute: str
    meta: Mapping[str, object] = field(default_factory=dict)
    summary: str = ""
    under: Entry | None = None

    def over(self, parameters: Mapping[str, object]) -> Entry:
        """An operator with what the method under it declares; any other method as it is.

        Raises:
            UserError: an unknown method under it, or one that merges nothing.
        """
        of = parameters.get("of")
        if not self.meta.get("operator") or not isinstance(of, str):
            return self
        name, given = parse_call(of)
        under = registry("methods").get(name)
        under.check(given)
        if not under.meta.get("merges") or under.meta.get("operator"):
            raise UserError(f"{self.name} works on top of a method that merges, and {name} is none: try of='tome'.")
        # Arrays know the operator and the method, and nothing of both together.
        own = {name: self.meta[name] for name in ("paper", "repository", "operator")}
        own |= {"floor": False, "verified": "paper"}
        return replace(self, meta={**under.meta, **own}, under=under)

    def load(self) -> Callable[..., object]:
        """Import the module and return the decorated function or class."""
        loaded: Callable[..., object] = getattr(_import(self.module, self.path), self.attribute)
        arguments = self.meta.get("arguments")
        return partial(loaded, **arguments) if isinstance(arguments, Mapping) else loaded

    def parameters(self) -> dict[str, object]:
        """Names and defaults of what a user may set: keyword-only arguments, or the fields of a class."""
        target = self.load()
        found = inspect.signature(target).parameters.values()
        positional = inspect.isclass(target)
        return {
            p.name: p.default
            for p in found
            if p.kind is p.KEYWORD_ONLY or (positional and p.kind is p.POSITIONAL_OR_KEYWORD)
        }

    def check(self, given: Mapping[str, object]) -> dict[str, object]:
        """The parameters as given.

        Raises:
            UserError: an unknown parameter; the message names those that there are.
        """
        known = self.parameters()
        for name in given:
            if name not in known:
                there = ", ".join(f"{k}={v!r}" for k, v in known.items()) or "none"
                raise UserError(f"{self.name} has no parameter {name!r}{near(name, known)}; it has: {there}.")
        return dict(given)

    def build(self, parameters: Mapping[str, object] | None = None) -> object:
        """An instance of a class, or a function made into the contract of its kind."""
        given = self.check(parameters or {})
        target = self.load()
        if inspect.isclass(target):
            try:
                return target(**given)
            except (TypeError, ValueError) as error:
                raise UserError(f"{self.name} cannot be built with {given}: {error}.") from error
        if self.kind == "compressor":
            places, needs = self.meta["places"], self.meta["needs"]
            assert isinstance(places, tuple) and isinstance(needs, tuple)
            return FunctionCompressor(target, places[0], needs, given)  # type: ignore[arg-type]
        return target


@dataclass(frozen=True)
class FunctionCompressor(Compressor):
    """A function `(view, keep, **parameters) -> Reduction` as a compressor that cuts once, at the projector."""

    function: Callable[..., Reduction]
    place: str
    needs: tuple[str, ...]
    parameters: Mapping[str, object]

    @property
    def name(self) -> str:
        """For messages."""
        return self.function.__name__

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        if self.place != "projector":
            raise Refusal(f"a function can cut at the projector only, not at {self.place}: write a class with stages()")
        return (Stage("projector", keep, reads=tuple(name for need in self.needs if (name := shape.served(need)))),)

    def reduce(self, view: View, keep: int) -> Reduction:
        return self.function(view, keep, **self.parameters)


@dataclass(frozen=True)
class Broken:
    """A plug-in that cannot be read, with its error; shown by `toksweep list`."""

    group: str
    source: str
    error: str


# ------------------------------------------------------------------------------------------------------------- registry


class Registry:
    """All names of one group."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._entries: dict[str, Entry] = {}
        self.broken: list[Broken] = []
        for path in sorted((ROOT / group).rglob("*.py")):
            module = ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts))
            self._add(path, module)
        for point in entry_points(group=f"toksweep.{group}"):
            self._add_entry_point(point)

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda e: (e.kind, e.name)))

    def get(self, name: str) -> Entry:
        """The entry of a name, or of a path to a Python file that holds one.

        Raises:
            UserError: an unknown name (near names are listed), a plug-in that is broken, a file without a method.
        """
        if name.endswith(".py"):
            return self.add_file(Path(name))
        if name in self._entries:
            return self._entries[name]
        whole = self._entries.get(name.partition(":")[0])
        if whole and whole.kind == "collection":
            return replace(whole, name=name)  # whether it knows the task is for the collection to say
        singular = self.group[:-1]
        for bad in self.broken:
            if name in bad.source:
                raise UserError(f"{singular.capitalize()} {name!r} is broken: {bad.error}")
        close = near(name, self._entries)
        raise UserError(f"Unknown {singular} {name!r}{close}. See all: toksweep list {self.group}.")

    def add_file(self, path: Path) -> Entry:
        """Register what a user's own file holds, and return it.

        Raises:
            UserError: no such file, a syntax error, nothing registered in it, or several names.
        """
        if not path.is_file():
            raise UserError(f"There is no file {path}: give the path of a Python file with a decorated method.")
        resolved = path.resolve()
        tag = hashlib.sha256(str(resolved).encode()).hexdigest()[:8]
        try:
            found = [e for e in scan(resolved, f"toksweep_file_{path.stem}_{tag}") if e.group == self.group]
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        if len(found) != 1:
            names = ", ".join(e.name for e in found) or "none"
            raise UserError(f"{path} must register one of our {self.group} with a decorator; it registers: {names}.")
        self._put(found[0])
        return found[0]

    def _add(self, path: Path, module: str, attribute: str | None = None) -> None:
        try:
            for entry in scan(path, module):
                if entry.group == self.group and attribute in (None, entry.attribute):
                    self._put(entry)
        except (SyntaxError, ValueError, UserError) as error:
            self.broken.append(Broken(self.group, f"{module} ({path})", str(error)))

    def _add_entry_point(self, point: EntryPoint) -> None:
        path = locate(point.module)
        source = f"{point.name} = {point.value}"
        if path is None:
            self.broken.append(Broken(self.group, source, f"module {point.module} has no source file"))
            return
        before = len(self._entries)
        self._add(path, point.module, point.attr or None)
        if len(self._entries) == before and not any(point.module in b.source for b in self.broken):
            self.broken.append(Broken(self.group, source, f"{path} registers nothing in {self.group}"))

    def _put(self, entry: Entry) -> None:
        other = self._entries.get(entry.name)
        if other and other.path != entry.path:
            raise UserError(f"Two {self.group} are called {entry.name!r}: {other.path} and {entry.path}. Rename one.")
        self._entries[entry.name] = entry


@cache
def registry(group: Group) -> Registry:
    """The registry of a group, read once per process."""
    return Registry(group)


def parse_call(text: str) -> tuple[str, dict[str, object]]:
    """`fastv(layer=3)` to its name and parameters; a path that ends in `.py` may stand for the name.

    Raises:
        UserError: anything but a name with literal keyword arguments.
    """
    name, bracket, rest = text.strip().partition("(")
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("only keyword arguments are understood")
        return name.strip(), {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{text!r} cannot be read; write it like 'fastv(layer=3)': {error}.") from error


def label(name: str, parameters: Mapping[str, object]) -> str:
    """The inverse of `parse_call`: how a method with parameters is shown."""
    inside = ", ".join(f"{k}={v!r}" for k, v in sorted(parameters.items()))
    return f"{name}({inside})" if inside else name


def scan(path: Path, module: str) -> list[Entry]:
    """The decorated functions and classes of a source file, without importing it.

    Raises:
        SyntaxError: the file is no Python. ValueError: a decorator's argument is not a literal or not known.
    """
    text = path.read_text(encoding="utf-8")
    if module.startswith(f"{PACKAGE}.") and not any(f"@{d}(" in text for d in _DECORATORS):
        return []  # parsing our own files that register nothing would be most of the time that listing takes
    found = []
    for node in ast.parse(text, filename=str(path)).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for call in node.decorator_list:
            if not isinstance(call, ast.Call):
                continue
            kind = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if kind in _DECORATORS:
                entry = _entry(path, module, node, call, kind)
                found += _variants(entry) if entry.meta.get("variants") else [entry]
    return found


def _variants(entry: Entry) -> list[Entry]:
    """A task under each of its variants' names."""
    variants = entry.meta["variants"]
    assert isinstance(variants, Mapping)
    return [
        replace(entry, name=f"{entry.name}_{name}", meta={**entry.meta, "arguments": arguments})
        for name, arguments in variants.items()
    ]


def _entry(path: Path, module: str, node: ast.FunctionDef | ast.ClassDef, call: ast.Call, kind: str) -> Entry:
    group, decorator = _DECORATORS[kind]
    where = f"{path}, line {call.lineno}, @{kind}"
    try:
        args = [ast.literal_eval(a) for a in call.args]
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except ValueError as error:
        raise ValueError(f"{where}: arguments must be literals ({error})") from error
    try:
        bound = inspect.signature(decorator).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
    bound.apply_defaults()
    meta = dict(bound.arguments)
    for place in meta.get("places", ()):
        if place not in PLACES:
            raise ValueError(f"{where}: unknown place {place!r}; there are {', '.join(PLACES)}")
    doc = (ast.get_docstring(node) or "").strip().partition("\n")[0]
    return Entry(group, kind, str(meta.pop("name")), path, module, node.name, meta, doc)


def locate(module: str) -> Path | None:
    """The source file of a module, found without running any code of its package."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder).joinpath(*rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def _import(module: str, path: Path) -> ModuleType:
    """Import by name, or run a file under a name of its own. A file is loaded once per process."""
    if module in sys.modules:
        return sys.modules[module]
    if not module.startswith("toksweep_file_"):
        return importlib.import_module(module)
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[module]
        raise
    return loaded


def near(name: str, known: Iterable[str]) -> str:
    """For messages: the known names that are like an unknown one, or nothing."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; near: {', '.join(close)}" if close else ""
