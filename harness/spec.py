"""What the user asked for: YAML and flags to a validated SweepSpec."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from .contracts import CONVENTIONS, Budget, Convention, UserError
from .registry import label, parse_call, registry

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
            raise UserError(f"A method is a name, or a mapping with the key name, not {given!r}.")
        entry = registry("methods").get(name)
        entry.check(parameters)
        return cls(entry.name, parameters)

    @property
    def label(self) -> str:
        """How tables show it: `fastv(layer=3)`."""
        return label(self.name, self.parameters)


@dataclass(frozen=True)
class SweepSpec:
    """A validated sweep. See `toksweep sweep --help` for what each field means."""

    tasks: tuple[str, ...] = ()
    methods: tuple[MethodChoice, ...] = ()
    budgets: tuple[Budget, ...] = ()
    models: tuple[str, ...] = ()
    budget_convention: Convention = "mean"
    limit: int | None = None
    subset: str = "stratified"
    seeds: tuple[int, ...] = (0, 1, 2)
    floors: bool = True
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"
    batch_size: int = 1
    max_new_tokens: int = 16
    data: Mapping[str, str] = field(default_factory=dict)
    ocr: str = "rapidocr"
    faces: str = "dlib"
    accept_licence: tuple[str, ...] = ()
    latency: bool | None = None
    keep_outputs: bool = True
    retry_failed: bool = False
    out: Path = OUT

    def to_json(self) -> dict[str, object]:
        """As recorded in run.json and understood by `load_spec`."""
        data = asdict(self)
        data["methods"] = [m.label for m in self.methods]
        data["budgets"] = [b.text for b in self.budgets]
        data["out"] = str(self.out)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items() if v is not None}


def load_spec(file: Path | None, flags: Mapping[str, object], *, quick: bool = False) -> SweepSpec:
    """A spec from a YAML file, with flags replacing its keys and the defaults of the tasks' families filling the rest.

    Raises:
        UserError: a missing or malformed file, an unknown key, or a value that does not fit; one sentence.
    """
    given: dict[str, object] = read_yaml(file) if file else {}
    source = str(file) if file else "the command"
    known = [f.name for f in fields(SweepSpec)]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 2)
            hint = f"; near: {', '.join(near)}" if near else f"; there are {', '.join(known)}"
            raise UserError(f"{file} has the unknown key {key!r}{hint}.")
    given |= {k: v for k, v in flags.items() if v not in (None, (), [], {})}
    defaults = _defaults(given, quick=quick)
    return _validate({**defaults, **given}, source)


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


def _defaults(given: Mapping[str, object], *, quick: bool) -> dict[str, object]:
    """What the families of the chosen tasks run by default."""
    shipped = read_yaml(SWEEPS / ("quick.yaml" if quick else "default.yaml"))
    tasks = _names(given.get("tasks"), "tasks")
    families = {str(registry("tasks").get(t).meta["family"]) for t in tasks}
    lists: dict[str, list[object]] = {"tasks": [], "methods": [], "budgets": []}
    limits = []
    for family, section in shipped.items():
        assert isinstance(section, dict)
        if family in families or (not families and section["tasks"]):
            for key, values in lists.items():
                values += [v for v in section[key] if v not in values]
            limits += [section["limit"]] if "limit" in section else []
    return {**lists, **({"limit": max(limits)} if limits else {})}


def _validate(given: Mapping[str, object], source: str) -> SweepSpec:
    values: dict[str, Any] = dict(given)
    values["tasks"] = tuple(dict.fromkeys(registry("tasks").get(t).name for t in _names(values["tasks"], "tasks")))
    methods = [MethodChoice.parse(m) for m in _list(values["methods"], "methods")]
    values["methods"] = tuple({m.label: m for m in methods}.values())
    budgets = [_budget(b) for b in _list(values["budgets"], "budgets")]
    values["budgets"] = tuple(dict.fromkeys(budgets))
    values["models"] = tuple(dict.fromkeys(_names(values.get("models"), "models")))
    values["accept_licence"] = tuple(_names(values.get("accept_licence"), "accept_licence"))
    data = values.get("data", {})
    if not isinstance(data, Mapping):
        raise UserError(f"data in {source} must map tasks to folders, such as photos: DIR.")
    values["data"] = {registry("tasks").get(str(k)).name: str(Path(str(v)).expanduser()) for k, v in data.items()}
    for task, folder in values["data"].items():
        if task not in values["tasks"]:
            raise UserError(f"--data names the task {task}, which is not swept: add --task {task}.")
        if not Path(folder).is_dir():
            raise UserError(f"--data {task}={folder}: there is no such folder.")
    for key, least in (("limit", 1), ("batch_size", 1), ("max_new_tokens", 1)):
        if (value := values.get(key)) is not None and (
            not isinstance(value, int) or isinstance(value, bool) or value < least
        ):
            raise UserError(f"{key} in {source} must be a whole number of at least {least}, not {value!r}.")
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
    for key in ("device", "attention", "ocr", "faces"):
        if not isinstance(values.get(key, ""), str):
            raise UserError(f"{key} in {source} must be text, not {values[key]!r}.")
    if not isinstance(values.get("out", OUT), str | Path):
        raise UserError(f"out in {source} must be a folder, not {values['out']!r}.")
    values["out"] = Path(values.get("out", OUT)).expanduser()
    return replace(SweepSpec(), **values)


def _budget(given: object) -> Budget:
    if not isinstance(given, str | int | float) or isinstance(given, bool):
        raise UserError(f"Budget {given!r} is not a number: write 64 (tokens), 25% or 0.5bpp.")
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
