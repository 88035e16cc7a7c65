"""What the user asked for: YAML and flags to a validated SweepSpec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from .borrowing import expand, task_entry
from .contracts import CONVENTIONS, Budget, Convention, UserError
from .registry import Entry, label, near, parse_call, registry

SWEEPS = Path(__file__).with_name("sweeps")
DTYPES = ("float32", "bfloat16", "float16")
DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SUBSETS = ("stratified", "first")
OUT = Path("toksweep-out")


@dataclass(frozen=True)
class MethodChoice:
    """A method as typed: a name or a file, with parameters."""

    name: str
    parameters: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: object) -> MethodChoice:
        """`fastv`, `fastv(layer=3)`, `my_method.py(alpha=0.5)`, or a mapping with `name` and parameters.

        Raises:
            UserError: neither, or an unknown method.
        """
        if isinstance(given, Mapping) and isinstance(given.get("name"), str):
            name, parameters = str(given["name"]), {str(k): v for k, v in given.items() if k != "name"}
        elif isinstance(given, str):
            name, parameters = parse_call(given)
        else:
            raise UserError(f"A method is a name, fastv(layer=3) or {{name: fastv, layer: 3}}, not {given!r}.")
        entry = registry("methods").get(name)
        entry.check(parameters)
        entry.over(parameters)
        return cls(entry.name, parameters)

    @property
    def entry(self) -> Entry:
        """What the registry knows of it."""
        return registry("methods").get(self.name).over(self.parameters)

    @property
    def label(self) -> str:
        """How tables show it: `fastv(layer=3)`."""
        return label(self.name, self.parameters)


@dataclass(frozen=True)
class Section:
    """What is swept over the tasks of one family: methods, budgets, and at most how many samples of each task."""

    methods: tuple[MethodChoice, ...] = ()
    budgets: tuple[Budget, ...] = ()
    limit: int | None = None

    def to_json(self) -> dict[str, object]:
        """As typed."""
        typed = {"methods": [m.label for m in self.methods], "budgets": [b.text for b in self.budgets]}
        return typed | ({} if self.limit is None else {"limit": self.limit})


SECTION = tuple(f.name for f in fields(Section))


@dataclass(frozen=True)
class SweepSpec:
    """A validated sweep. See `toksweep sweep --help` for what each field means; `sections` are by family of tasks."""

    tasks: tuple[str, ...] = ()
    sections: Mapping[str, Section] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    budget_convention: Convention = "mean"
    subset: str = "stratified"
    seeds: tuple[int, ...] = (0, 1, 2)
    floors: bool = True
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"
    text_encoder: str | None = None
    batch_size: int = 1
    max_new_tokens: int = 16
    min_pixels: int | None = None
    max_pixels: int | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    include_path: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    ocr: str = "rapidocr"
    faces: str = "dlib"
    features: str = "toksweep-mini"
    metrics: tuple[str, ...] = ()
    accept_licence: tuple[str, ...] = ()
    latency: bool | None = None
    keep_outputs: bool = True
    retry_failed: bool = False
    out: Path = OUT

    def to_json(self) -> dict[str, object]:
        """As recorded in run.json and understood by `load_spec`."""
        data = {k: v for k, v in asdict(self).items() if k != "sections" and v is not None}
        data["out"] = str(self.out)
        for key in SECTION:
            by_family = {f: told[key] for f, s in self.sections.items() if key in (told := s.to_json())}
            alike = all(value == next(iter(by_family.values())) for value in by_family.values())
            if by_family:
                data[key] = (
                    next(iter(by_family.values())) if alike and len(by_family) == len(self.sections) else by_family
                )
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}


def load_spec(file: Path | None, flags: Mapping[str, object], *, quick: bool = False) -> SweepSpec:
    """A spec from a YAML file, with flags replacing its keys and the defaults of the tasks' families filling the rest.

    Raises:
        UserError: a missing or malformed file, an unknown key, or a value that does not fit; one sentence.
    """
    given: dict[str, object] = read_yaml(file) if file else {}
    source = str(file) if file else "the command"
    known = [*SECTION, *(f.name for f in fields(SweepSpec) if f.name != "sections")]
    for key in given:
        if key not in known:
            raise UserError(f"{file} has the unknown key {key!r}{_hint(key, known)}.")
    given |= {k: v for k, v in flags.items() if v not in (None, (), [], {})}
    shipped = read_yaml(SWEEPS / ("quick.yaml" if quick else "default.yaml"))
    if given.get("tasks") and not quick:  # who names a task wants all of it
        shipped = {f: {k: v for k, v in s.items() if k != "limit"} for f, s in shipped.items()}  # type: ignore
    return _validate(given, shipped, source)


def read_yaml(file: Path) -> dict[str, object]:
    """A mapping from a YAML file, loaded safely.

    Raises:
        UserError: no such file, no YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): give the path of a sweep in YAML.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UserError(f"{file} is not valid YAML{line}: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(data, dict):
        raise UserError(f"{file} must hold keys such as tasks, methods and budgets, not {type(data).__name__}.")
    return {str(k): v for k, v in data.items()}


def _section(given: Mapping[str, object], shipped: object, family: str, source: str) -> Section:
    """What the user asks of a family, else what comes with us."""
    assert isinstance(shipped, Mapping)
    asked = {}
    for key in SECTION:
        value = given.get(key)
        if _by_family(value, key):
            value = value.get(family)
        asked[key] = shipped.get(key) if value is None else value
    methods = [MethodChoice.parse(m) for m in _list(asked["methods"], "methods")]
    budgets = [_budget(b) for b in _list(asked["budgets"], "budgets")]
    return Section(
        tuple({m.label: m for m in methods}.values()), tuple(dict.fromkeys(budgets)),
        _whole(asked["limit"], "limit", source),
    )  # fmt: skip


def _by_family(value: object, key: str) -> TypeGuard[Mapping[str, object]]:
    """A mapping is by family; one of methods with a name is a method."""
    return isinstance(value, Mapping) and not (key == "methods" and "name" in value)


def _check_families(given: Mapping[str, object], source: str) -> None:
    """Raises UserError where something is given for a family that no task is of."""
    known = sorted({str(entry.meta["family"]) for entry in registry("tasks") if "family" in entry.meta})
    for key in SECTION:
        value = given.get(key)
        for family in value if _by_family(value, key) else ():
            if family not in known:
                mend = _hint(str(family), known)
                mend += "; a method with parameters is written fastv(layer=3)" if key == "methods" else ""
                raise UserError(f"{key} in {source} has the unknown family {family!r}{mend}.")


def _hint(name: str, known: Iterable[str]) -> str:
    return near(name, known) or f"; there are {', '.join(known)}"


def _whole(value: object, key: str, source: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise UserError(f"{key} in {source} must be a whole number of at least 1, not {value!r}.")


def _validate(given: Mapping[str, object], shipped: Mapping[str, object], source: str) -> SweepSpec:
    values: dict[str, Any] = {k: v for k, v in given.items() if k not in SECTION}
    tasks = _names(given.get("tasks"), "tasks") or [t for s in shipped.values() for t in s["tasks"]]  # type: ignore
    include = tuple(str(Path(p).expanduser()) for p in _names(given.get("include_path"), "include_path"))
    for folder in include:
        if not Path(folder).is_dir():
            raise UserError(f"--include-path {folder}: there is no such folder.")
    values["include_path"] = include
    data = values.get("data", {})
    if not isinstance(data, Mapping):
        raise UserError(f"data in {source} must map tasks to folders, such as photos: DIR.")
    entries = {entry.name: entry for entry in (task_entry(t, include) for t in expand(tasks, include, map(str, data)))}
    values["tasks"] = tuple(entries)
    values["groups"] = tuple(
        dict.fromkeys([*_names(given.get("groups"), "groups"), *(t for t in tasks if t not in entries)])
    )
    families = dict.fromkeys(str(entry.meta["family"]) for entry in entries.values())
    _check_families(given, source)
    values["sections"] = {f: _section(given, shipped.get(f, {}), f, source) for f in families}
    values["models"] = tuple(dict.fromkeys(_names(values.get("models"), "models")))
    values["metrics"] = tuple(dict.fromkeys(_names(values.get("metrics"), "metrics")))
    for name in values["metrics"]:
        _check_metric(name, families)
    values["accept_licence"] = tuple(_names(values.get("accept_licence"), "accept_licence"))
    values["data"] = {registry("tasks").get(str(k)).name: str(Path(str(v)).expanduser()) for k, v in data.items()}
    for task, folder in values["data"].items():
        if task not in values["tasks"]:
            raise UserError(f"--data names the task {task}, which is not swept: add --task {task}.")
        if not Path(folder).is_dir():
            raise UserError(f"--data {task}={folder}: there is no such folder.")
    for key in ("batch_size", "max_new_tokens", "min_pixels", "max_pixels"):
        _whole(values.get(key), key, source)
    seeds = values.get("seeds", SweepSpec.seeds)
    if not isinstance(seeds, list | tuple) or not all(isinstance(s, int) and s >= 0 for s in seeds) or not seeds:
        raise UserError(f"seeds in {source} must be whole numbers of at least 0, not {seeds!r}.")
    values["seeds"] = tuple(dict.fromkeys(seeds))
    values["dtype"] = DTYPE_ALIASES.get(str(values.get("dtype", "float32")), values.get("dtype", "float32"))
    for key, allowed in (("dtype", DTYPES), ("budget_convention", CONVENTIONS), ("subset", SUBSETS)):
        value = values.get(key, getattr(SweepSpec, key))
        if value not in allowed:
            raise UserError(f"{key} in {source} must be one of {', '.join(allowed)}, not {value!r}.")
    for key in ("floors", "keep_outputs", "retry_failed", "latency"):
        if (value := values.get(key)) is not None and not isinstance(value, bool):
            raise UserError(f"{key} in {source} must be true or false, not {value!r}.")
    for key in ("device", "attention", "ocr", "faces", "features"):
        if not isinstance(values.get(key, ""), str):
            raise UserError(f"{key} in {source} must be text, not {values[key]!r}.")
    if not isinstance(values.get("text_encoder", ""), str | None):
        raise UserError(f"text_encoder in {source} must be a folder or a hub id, not {values['text_encoder']!r}.")
    if not isinstance(values.get("out", OUT), str | Path):
        raise UserError(f"out in {source} must be a folder, not {values['out']!r}.")
    values["out"] = Path(values.get("out", OUT)).expanduser()
    return replace(SweepSpec(), **values)


def _check_metric(typed: str, families: Iterable[str]) -> None:
    """Raises UserError for an unknown metric, or one that suits no task here."""
    name, parameters = parse_call(typed)
    entry = registry("metrics").get(name)
    entry.check(parameters)
    if str(entry.meta["family"]) not in families:
        swept = ", ".join(families)
        raise UserError(f"--metric {name} is for tasks of {entry.meta['family']}, and those swept are of {swept}.")


def _budget(given: object) -> Budget:
    if not isinstance(given, str | int | float) or isinstance(given, bool):
        raise UserError(f"Budget {given!r} is not a number: write 64 (tokens), 512/clip, 25% or 0.5bpp.")
    return Budget.parse(given)


def _list(given: object, key: str) -> Sequence[object]:
    if given is None:
        return []
    if isinstance(given, str | int | float | Mapping):
        return [given]
    if not isinstance(given, list | tuple):
        raise UserError(f"{key} must be a list, not {given!r}.")
    return given


def _names(given: object, key: str) -> list[str]:
    values = _list(given, key)
    for value in values:
        if not isinstance(value, str) or not value:
            raise UserError(f"{key} must hold names, not {value!r}.")
    return [str(v) for v in values]
