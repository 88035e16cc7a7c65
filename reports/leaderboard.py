"""The report: one self-contained page with sortable leaderboards and figures, and the same as files for papers."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..harness.contracts import UserError
from ..results.records import ILLUSTRATIVE_BELOW, SampleRecord
from ..results.store import Cell, write_atomically
from . import (
    equal_bits,
    evidence,
    figures,
    latency,
    margins,
    printed,
    published,
    ranking,
    retention,
    retention_curves,
    retention_figure,
    retention_tables,
    tables,
)
from .scores import Resamples, Scores

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = Path(__file__).with_name("templates")
ANSWERS, FAILURES = 3, 3


@dataclass(frozen=True)
class Excerpt:
    """A look at single samples: what a model said, or why a method failed."""

    task: str
    subset: str
    label: str
    budget: str
    sample_id: str
    status: str
    text: str


def write_report(
    cells: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    excerpts: Sequence[Excerpt] = (),
    scores: Scores | None = None,
) -> Path:
    """Write `out/index.html`, `out/figures/` (SVG, PNG, PDF) and `out/tables/` (CSV, Markdown); return the page.

    The page needs no network and no other file. Whatever a model or a file name said is escaped.

    Args:
        cells: the table of `results.aggregate.table`.
        runs: what each run recorded of itself, oldest first.
        excerpts: from `excerpts_of`.
        scores: from `scores.scores_of`; without them margins have no interval, and nothing is said of retention.

    Raises:
        UserError: nothing has been scored, or the folder cannot be written.
    """
    ranked = ranking.rank(cells)
    retained: list[retention.Retention] = []
    if scores is not None:
        resamples = Resamples(scores)
        ranked, retained = margins.with_intervals(ranked, resamples), retention.measure(ranked, resamples)
    try:
        drawn = figures.draw(ranked, out / "figures")
        explained = evidence.explain(ranked, cells, out / "figures")
        kept = retention_figure.draw(retained, figures.styles(ranked), out / "figures")
        timed = latency.explain(ranked, out / "figures")
        equal = equal_bits.explain(ranked, out / "figures")
        sections = tables.sections(ranked, cells)
        tables.write_tables(ranked, cells, sections, out / "tables")
        published.write_table([(f.task, f.published) for f in drawn if f.published], out / "tables")
        retention_tables.write(retained, out / "tables")
        latency.write_tables(timed, out / "tables")
        equal_bits.write_tables(equal, out / "tables")
        page = out / "index.html"
        write_atomically(page, render(sections, runs, drawn, explained, kept, timed, equal, excerpts))
    except OSError as error:
        raise UserError(f"The report cannot be written to {out} ({error.strerror}): choose another folder.") from error
    return page


def render(
    sections: Sequence[tables.Section],
    runs: Sequence[Mapping[str, Any]],
    drawn: Sequence[figures.Figure],
    explained: Sequence[evidence.Evidence],
    kept: Sequence[retention_figure.Drawn],
    timed: Sequence[latency.Latency],
    equal: Sequence[equal_bits.EqualBits],
    excerpts: Sequence[Excerpt],
) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "show": printed.show,
        "cost_name": printed.cost_name,
        "show_cost": printed.show_cost,
        "megabytes": latency.megabytes,
        "percent": equal_bits.percent,
        "gain": equal_bits.gain,
    }
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        sections=sections,
        figures=[(figure, Markup(figure.svg)) for figure in drawn],  # noqa: S704  (made here, its texts escaped)
        evidence=[(part, Markup(part.figure.svg)) for part in explained],  # noqa: S704
        retention=[(of, [(scope, f, Markup(f.svg) if f else None) for scope, f in parts]) for of, parts in kept],  # noqa: S704
        shares=retention_curves.SHARES,
        latency=[(part, [(f, Markup(f.svg)) for f in part.figures]) for part in timed],  # noqa: S704
        phases=latency.PHASES,
        equal_bits=[(part, Markup(part.figure.svg)) for part in equal],  # noqa: S704
        runs=list(reversed(runs)),
        excerpts=excerpts,
        provenance=provenance,
        least_clusters=ILLUSTRATIVE_BELOW,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def excerpts_of(cell: Cell, stored: Mapping[str, SampleRecord]) -> Iterator[Excerpt]:
    """The first failures of a cell, and its first answers where it answers questions.

    Args:
        stored: the records of its work by sample.
    """
    records = [stored[i] for i in cell.sample_ids if i in stored]
    failed = [r for r in records if r.status in ("failed", "bad_input")][:FAILURES]
    said = [r for r in records if r.status == "ok" and r.prediction is not None][:ANSWERS]
    for record in [*failed, *(said if cell.family in ("vqa", "video_qa") else [])]:
        text = (record.error or record.prediction or "")[:400]
        budget = cell.budget or ("fixed rate" if cell.kind == "tokenizer" else "all")
        yield Excerpt(cell.task, cell.subset, cell.label, budget, record.sample_id, record.status, text)


def provenance(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a reader needs to judge and repeat a run, as names and texts; what the run did not record is left out."""
    names = {
        "command": "repeat with",
        "version": "toksweep",
        "commit": "commit",
        "device": "device",
        "dtype": "dtype",
        "seeds": "seeds",
        "libraries": "libraries",
    }
    for key, name in names.items():
        value = run.get(key)
        if value in (None, "", [], {}):
            continue
        if isinstance(value, Mapping):
            yield name, ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list | tuple):
            yield name, shlex.join(map(str, value)) if key == "command" else ", ".join(map(str, value))
        else:
            yield name, str(value)
