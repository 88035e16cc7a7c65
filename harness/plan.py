"""SweepSpec to cells: every combination that can run, with its samples and metrics, and why the others cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar, cast

from ..results.store import Cell, MetricInfo
from .borrowing import collection_of, inner, is_borrowed, task_entry
from .contracts import (
    Budget,
    Listed,
    Metric,
    Network,
    Refusal,
    Sample,
    SetMetric,
    Task,
    UserError,
    picture_limits,
)
from .digest import code_digest, digest, engine_digest, library_versions, major
from .fitting import asks_text_encoder, check_budgets, check_task, fit_compressor, verified
from .models import ModelInfo, model_info
from .models.embedded import embedded
from .registry import Entry, parse_call, registry
from .schedule import Schedule
from .spec import MethodChoice, Section, SweepSpec

S = TypeVar("S", Sample, Listed)
ENGINE = {
    "reconstruction": ("contracts.py", "reconstruction.py", "checkpoints.py"),
    "vqa": ("contracts.py", "reduction.py", "schedule.py", "answering.py", "models"),
}
"""What of the engine determines a prediction, by kind of task."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell with the objects that run it."""

    cell: Cell
    entry: Entry
    method: object
    budget: Budget | None
    schedule: Schedule | None


@dataclass(frozen=True)
class Group:
    """The cells that share samples, and a model where there is one."""

    task: str
    family: str
    model: ModelInfo | None
    samples: tuple[Sample, ...]
    metrics: tuple[Metric, ...]
    cells: tuple[PlannedCell, ...]
    pixels: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Material:
    """What a task asks of one model: its samples as far as a limit takes them, and how they are scored."""

    samples: tuple[Sample, ...]
    subset: str
    metrics: list[tuple[MetricInfo, Metric]]
    revision: object
    pixels: tuple[int, int] | None = None


@dataclass(frozen=True)
class Refused:
    """A combination that was asked for and cannot run."""

    task: str
    model: str | None
    method: str
    budget: str | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a sweep will do."""

    spec: SweepSpec
    groups: tuple[Group, ...]
    refused: tuple[Refused, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, in the order in which they run."""
        return [c.cell for g in self.groups for c in g.cells]


def make_plan(spec: SweepSpec) -> Plan:
    """Expand a spec.

    Raises:
        UserError: a task without data or model; a device or an attention kernel that this machine lacks; or no cell
            left of those that were asked for, and the message has the reasons.
    """
    if not spec.tasks:
        raise UserError("There is no task to sweep: add --task, see toksweep list tasks.")
    if not all(section.methods for section in spec.sections.values()):
        raise UserError("There is no method to sweep: add --method, see toksweep list methods.")
    groups: list[Group] = []
    refused: list[Refused] = []
    asked = 0
    for name in spec.tasks:
        entry = task_entry(name, spec.include_path)
        family = str(entry.meta["family"])
        models = _models(entry, spec)
        own = None if is_borrowed(entry) else _own(entry, spec)
        if own:
            models = [m and m.asked_about(own.samples) for m in models]
        check_budgets(spec.sections[family].budgets, [m for m in models if m])
        for model in models:
            material = own or _borrowed(entry, spec, model)
            model = model and model.asked_about(material.samples)
            cells, refusals, count = _Expander(spec, entry, family, model, material).expand()
            refused += refusals
            asked += count
            metrics = tuple(m for _, m in material.metrics)
            groups.append(Group(name, family, model, material.samples, metrics, tuple(cells), material.pixels))
    if any(g.model or any(c.entry.meta.get("network") for c in g.cells) for g in groups):
        from .models.loading import check_platform

        check_platform(spec.device, spec.dtype, spec.attention)
    if not asked:
        _nothing_left(refused)
    if spec.models and not any(g.model for g in groups):
        raise UserError(f"--model {spec.models[0]} is given, but no task here asks a model: add one such as images_qa.")
    return Plan(spec, tuple(groups), tuple(refused))


def _nothing_left(refused: Sequence[Refused]) -> None:
    reasons = dict.fromkeys(f"{r.method} on {r.task}: {r.reason}" for r in refused)
    shown = "; ".join(list(reasons)[:3])
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    raise UserError(f"No cell is left to run: {shown}{more}.")


def _samples(entry: Entry, spec: SweepSpec) -> list[Sample]:
    folder = spec.data.get(entry.name)
    if folder is None and not entry.meta["builtin"]:
        raise UserError(f"Task {entry.name} has no samples of its own: add --data {entry.name}=DIR.")
    samples = list(cast(Task, entry.load())(Path(folder) if folder else None))
    if not samples:
        raise UserError(f"Task {entry.name} has no samples in {folder or 'its own data'}: check the folder.")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise UserError(f"Task {entry.name} lists the sample {sample.id!r} twice: give each its own id.")
        seen.add(sample.id)
    return samples


def _own(entry: Entry, spec: SweepSpec) -> _Material:
    """Of a task of ours, or of a plug-in: the same for every model."""
    limit = spec.sections[str(entry.meta["family"])].limit
    listed = _samples(entry, spec)
    samples, subset = _subset(listed, limit, spec.subset)
    return _Material(
        samples,
        subset,
        _metrics(entry, spec, listed[0].protocol),
        entry.meta["revision"],
        picture_limits(spec.min_pixels, spec.max_pixels, None),
    )


def _borrowed(entry: Entry, spec: SweepSpec, model: ModelInfo | None) -> _Material:
    """Of a task of another harness, whose prompts depend on the model's family."""
    assert model is not None
    folder = spec.data.get(entry.name)
    opened = collection_of(entry).open(
        inner(entry.name), family=model.family.name, include=spec.include_path, folder=Path(folder) if folder else None,
        pixels=(spec.min_pixels, spec.max_pixels),
    )  # fmt: skip
    chosen, subset = _subset(list(opened.listed()), spec.sections[str(entry.meta["family"])].limit, spec.subset)
    metrics: list[tuple[MetricInfo, Metric]] = [
        (
            MetricInfo(
                m.name, m.unit, m.higher_is_better, m.worst, m.mean_over, m.protocol(), m.code,
                str(entry.meta["family"]), m.aggregation, m.whole_set,
            ),
            m,
        )
        for m in opened.metrics
    ]  # fmt: skip
    samples = opened.samples(s.id for s in chosen)
    return _Material(samples, subset, metrics, opened.revision, opened.pixels)


def _subset(samples: Sequence[S], limit: int | None, kind: str) -> tuple[tuple[S, ...], str]:
    """The samples of a limit, the same for all methods; those of a smaller limit are among those of a larger one."""
    if limit is None or limit >= len(samples):
        return tuple(samples), "all"
    if kind == "first":
        return tuple(samples[:limit]), f"first:{limit}"
    strata: dict[str, list[S]] = {}
    for sample in sorted(samples, key=lambda s: hashlib.sha256(s.id.encode()).digest()):
        strata.setdefault(sample.stratum, []).append(sample)
    turns = chain.from_iterable(zip_longest(*(strata[k] for k in sorted(strata))))
    chosen = {s.id for s in [s for s in turns if s is not None][:limit]}
    return tuple(s for s in samples if s.id in chosen), f"stratified:{limit}"


def _metrics(entry: Entry, spec: SweepSpec, protocol: str) -> list[tuple[MetricInfo, Metric]]:
    """The task's own metrics, the headline first, and what the user adds to tasks of this family; each once, for two
    names may come to the same with a backend. `protocol` is the data's."""
    names = entry.meta["metrics"]
    assert isinstance(names, tuple)
    found: dict[str, tuple[MetricInfo, Metric]] = {}
    for typed in (*names, *spec.metrics):
        name, parameters = parse_call(typed)
        about = registry("metrics").get(name)
        if name not in names and about.meta["family"] != entry.meta["family"]:
            continue
        option = about.meta["backend"]
        options = {"backend": getattr(spec, str(option)), "accept_licence": spec.accept_licence} if option else {}
        metric = about.build({k: v for k, v in options.items() if k in about.parameters()} | parameters)
        if not isinstance(metric, Metric):
            raise UserError(f"Metric {name} in {about.path} lacks a part of the Metric contract.")
        info = MetricInfo(
            metric.name, metric.unit, metric.higher_is_better, metric.worst, metric.mean_over,
            ";".join(filter(None, [protocol, metric.protocol()])), code_digest(about), str(about.meta["family"]),
            aggregation=metric.aggregation if isinstance(metric, SetMetric) else None,
        )  # fmt: skip
        found.setdefault(metric.name, (info, metric))
    return list(found.values())


def _models(entry: Entry, spec: SweepSpec) -> Sequence[ModelInfo | None]:
    """The models that a task asks: those of the user, else the one that was made for it."""
    if entry.meta["family"] == "reconstruction":
        return [None]
    own = entry.meta["model"]
    named = spec.models or ((own,) if isinstance(own, str) and own in embedded() else ())
    if not named:
        raise UserError(
            f"Task {entry.name} asks a model: add --model with a folder or a hub id, see toksweep list models."
        )
    return [model_info(m, spec.text_encoder) for m in named]


@dataclass(frozen=True)
class _Expander:
    """The cells of one task on one model."""

    spec: SweepSpec
    task: Entry
    family: str
    model: ModelInfo | None
    material: _Material

    @property
    def section(self) -> Section:
        return self.spec.sections[self.family]

    @property
    def networks(self) -> bool:
        """Whether a device and a dtype mean something to tokenizers here; all cells of a task then share them."""
        return any(m.entry.meta.get("network") for m in self.section.methods)

    def expand(self) -> tuple[list[PlannedCell], list[Refused], int]:
        """Cells, refusals, and how many cells come from methods that the user named."""
        cells: list[PlannedCell] = []
        refused: list[Refused] = []
        asked = 0
        for choice, named in self._choices():
            entry = choice.entry
            for budget in self._budgets(entry, choice):
                try:
                    method, planned = self._fit(entry, choice, budget)
                except Refusal as reason:
                    refused.append(self._refusal(choice, budget, str(reason)))
                    continue
                for seed in self.spec.seeds if entry.meta.get("stochastic") else self.spec.seeds[:1]:
                    cell = self._cell(entry, choice, budget, seed, method)
                    cells.append(PlannedCell(cell, entry, method, budget, planned))
                    asked += named
        return cells, refused, asked

    def _budgets(self, entry: Entry, choice: MethodChoice) -> Sequence[Budget | None]:
        """What is untouched, or has a fixed rate, is one cell, whatever the budgets."""
        if entry.kind == "untouched":
            return (None,)
        if entry.meta.get("network"):
            network = entry.build(choice.parameters)
            if isinstance(network, Network) and not network.variable:
                return (None,)
        return self.section.budgets

    def _choices(self) -> list[tuple[MethodChoice, bool]]:
        """Full tokens first, then what was named, then the floors that a question needs."""
        named = {m.label: (m, True) for m in self.section.methods}
        first: dict[str, tuple[MethodChoice, bool]] = {}
        last: dict[str, tuple[MethodChoice, bool]] = {}
        for entry in registry("methods"):
            if entry.kind == "untouched":
                first[entry.name] = named.get(entry.name, (MethodChoice(entry.name), False))
            if entry.kind == "compressor" and entry.meta["floor"] and self.spec.floors and self.model:
                last[entry.name] = (MethodChoice(entry.name), False)
        return list({**first, **named, **{k: v for k, v in last.items() if k not in named}}.values())

    def _fit(self, entry: Entry, choice: MethodChoice, budget: Budget | None) -> tuple[object, Schedule | None]:
        check_task(entry, self.task, self.model)
        if self.model and budget and budget.unit == "clip" and self.task.meta["family"] != "video_qa":
            raise Refusal(f"budget {budget.text} is for all frames of a clip, and {self.task.name} asks about none")
        if self.model:
            return fit_compressor(entry, choice, budget, self.spec.budget_convention, self.model)
        return None if entry.kind == "untouched" else self._fit_tokenizer(entry, choice, budget), None

    def _fit_tokenizer(self, entry: Entry, choice: MethodChoice, budget: Budget | None) -> object:
        if entry.kind != "tokenizer":
            raise Refusal(
                f"{entry.name} is a {entry.kind} and acts in a model; the task {self.task.name} is about pictures"
            )
        if entry.meta.get("clips") and not all(s.clip for s in self.material.samples):
            raise Refusal(f"{entry.name} codes clips, and {self.task.name} shows pictures")
        units = entry.meta["budget_units"]
        assert isinstance(units, tuple)
        if budget and budget.unit not in units:
            example = {"bpp": "0.5bpp", "tokens": "64", "percent": "25%"}
            raise Refusal(
                f"{entry.name} takes a budget such as {' or '.join(example[u] for u in units)}, not {budget.text}"
            )
        method = entry.build(choice.parameters)
        if entry.meta.get("network"):
            if not isinstance(method, Network):
                raise UserError(f"{entry.name} in {entry.path} lacks a part of the Network contract.")
            if budget:
                method.check(budget)
        return method

    def _refusal(self, choice: MethodChoice, budget: Budget | None, reason: str) -> Refused:
        return Refused(
            self.task.name,
            self.model.ref if self.model else None,
            choice.label,
            budget.text if budget else None,
            reason,
        )

    def _cell(self, entry: Entry, choice: MethodChoice, budget: Budget | None, seed: int, method: object) -> Cell:
        model, spec = self.model, self.spec
        asks = model is not None
        work_id = digest(self._work(entry, choice, budget, seed, method))
        return Cell(
            cell_id=digest([work_id, self.material.subset]),
            work_id=work_id,
            model=model.ref if model else None,
            model_revision=model.revision if model else None,
            method=entry.name,
            method_params=dict(choice.parameters),
            label=choice.label,
            kind=entry.kind,
            floor=bool(entry.meta.get("floor", False)),
            diagnostic=bool(entry.meta.get("diagnostic", False)),
            verified=verified(entry, model),
            budget=budget.text if budget else None,
            budget_value=budget.value if budget else None,
            budget_unit=budget.unit if budget else None,
            budget_convention=spec.budget_convention if asks and budget else None,
            task=self.task.name,
            family=self.family,
            subset=self.material.subset,
            seed=seed,
            dtype=spec.dtype if asks or self.networks else None,
            attention=spec.attention if asks else None,
            device=spec.device if asks or self.networks else "cpu",
            metrics=tuple(info for info, _ in self.material.metrics),
            sample_ids=tuple(s.id for s in self.material.samples),
        )

    def _work(
        self, entry: Entry, choice: MethodChoice, budget: Budget | None, seed: int, method: object
    ) -> Mapping[str, object]:
        """Everything that determines a prediction, a sample apart."""
        spec = self.spec
        libraries = entry.meta.get("libraries", ())
        assert isinstance(libraries, tuple)
        work: dict[str, object] = {
            "task": self.task.name,
            "task_revision": self.material.revision,
            "task_code": code_digest(self.task),
            "data": str(Path(spec.data[self.task.name]).resolve()) if self.task.name in spec.data else None,
            "method": entry.name,
            "parameters": dict(choice.parameters),
            "method_code": code_digest(entry),
            "budget": [budget.value, budget.unit] if budget else None,
            "seed": seed,
            "engine": engine_digest(*ENGINE["vqa" if self.model else "reconstruction"]),
            "libraries": major(library_versions()) | library_versions(libraries),
        }
        if isinstance(method, Network):
            work |= {"model": method.revision(), "dtype": spec.dtype, "device": spec.device.partition(":")[0]}
        if self.model:
            work |= {
                "model": self.model.revision,
                "convention": spec.budget_convention if budget else None,
                "dtype": spec.dtype,
                "attention": spec.attention,
                "device": spec.device.partition(":")[0],
                "max_new_tokens": spec.max_new_tokens,
            }
            if self.material.pixels:
                work["pixels"] = list(self.material.pixels)
            if self.model.text_encoder and asks_text_encoder(entry):
                work["text_encoder"] = self.model.text_encoder.revision
        return work
