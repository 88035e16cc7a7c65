"""The command line: one thin function per command; the work is done in the packages."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from .harness.contracts import Convention, UserError

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import TaskID

    from .harness.plan import Plan, Refused

app = typer.Typer(
    help="How much accuracy does each visual token cost? Sweeps token budgets over compression methods and tokenizers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else.")]
Out = Annotated[Path | None, typer.Option("--out", help="Results folder [default: toksweep-out].")]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="A method, e.g. divprune, 'fastv(layer=3)', mine.py.")
]
Budgets = Annotated[
    list[str] | None, typer.Option("--budget", help="64 (tokens), 512/clip, 25% or 0.5bpp (bits per pixel).")
]
Models = Annotated[list[str] | None, typer.Option("--model", help="A folder or hub id of a vision-language model.")]


Listed = Literal["methods", "tasks", "models", "metrics"]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere in the command.")] = False,
) -> None:
    """Taken out of the command by `main`, declared here to be shown by --help."""


@app.command()
def sweep(
    spec: Annotated[Path | None, typer.Argument(help="A sweep in YAML; flags replace its keys.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task, see toksweep list tasks.")] = None,
    method: Methods = None,
    budget: Budgets = None,
    model: Models = None,
    data: Annotated[list[str] | None, typer.Option(help="TASK=DIR: your own samples for a task.")] = None,
    include_path: Annotated[
        list[str] | None,
        typer.Option(help="A folder with lmms-eval tasks of your own; their Python files are run."),
    ] = None,
    out: Out = None,
    limit: Annotated[int | None, typer.Option(help="At most this many samples of each task.")] = None,
    subset: Annotated[
        Literal["stratified", "first"] | None, typer.Option(help="Which samples --limit takes [default: stratified].")
    ] = None,
    budget_convention: Annotated[
        Convention | None, typer.Option(help="Which token count --budget means [default: mean over LLM layers].")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds of stochastic methods [default: 0 1 2].")] = None,
    floors: Annotated[bool | None, typer.Option("--floors/--no-floors", help="Add the floors to VQA sweeps.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... [default: cpu].")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16 [default: fp32].")] = None,
    attn: Annotated[str | None, typer.Option(help="Attention kernel [default: sdpa].")] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="A folder or hub id of a CLIP checkpoint, for methods such as cdpruner.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per forward pass [default: 1].")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer [default: 16; lmms: tasks say it themselves].")
    ] = None,
    min_pixels: Annotated[
        int | None, typer.Option(help="Smallest picture, where a family sees pictures at their own resolution.")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Largest picture [default: the checkpoint's; of lmms: tasks their wrapper's].")
    ] = None,
    ocr: Annotated[str | None, typer.Option(help="Text recogniser [default: rapidocr], see toksweep doctor.")] = None,
    faces: Annotated[str | None, typer.Option(help="Face embedder [default: dlib], see toksweep doctor.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric beside the tasks' own, e.g. fd, see toksweep list metrics."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="Of set distances: inception, or a file with its weights [default: toksweep-mini]."),
    ] = None,
    accept_licence: Annotated[
        list[str] | None, typer.Option(help="A pack of weights whose licence you accept, so that it may be downloaded.")
    ] = None,
    latency: Annotated[
        bool | None,
        typer.Option("--latency/--no-latency", help="Time every cell, by phases [default: tokenizers only]."),
    ] = None,
    keep_outputs: Annotated[
        bool | None,
        typer.Option("--keep-outputs/--no-keep-outputs", help="Keep pictures and bit streams [default: keep]."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute failed samples again.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A first Pareto plot within a minute.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what is refused, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Sweep methods over budgets and write a report. Run it again and it goes on where it stopped."""
    from .harness.spec import load_spec

    flags = {
        "tasks": task, "methods": method, "budgets": budget, "models": model, "data": _pairs(data or []), "out": out,
        "limit": limit, "subset": subset, "include_path": include_path,
        "min_pixels": min_pixels, "max_pixels": max_pixels,
        "budget_convention": budget_convention,
        "seeds": seed, "floors": floors, "device": device, "dtype": dtype, "attention": attn, "batch_size": batch_size,
        "text_encoder": text_encoder,
        "max_new_tokens": max_new_tokens, "ocr": ocr, "faces": faces, "metrics": metric, "features": features,
        "accept_licence": accept_licence, "latency": latency, "keep_outputs": keep_outputs,
        "retry_failed": retry_failed or None,
    }  # fmt: skip
    chosen = load_spec(spec, flags, quick=quick)
    from .harness.plan import make_plan
    from .harness.sweep import dry_run_rows, run_sweep

    plan = make_plan(chosen)
    if dry_run:
        rows = dry_run_rows(plan)
        if as_json:
            _print_json({"plan": rows, "refused": _refused(plan)})
        else:
            _print_table(rows, title="Plan")
            _tell_refused(plan.refused)
        return
    from .reports.report import report_folder

    tally = run_sweep(plan, command=shlex.join(["toksweep", *sys.argv[1:]]), progress=_Bars())
    page, cells = report_folder(chosen.out)
    if as_json:
        _print_json(
            {
                "out": str(chosen.out),
                "report": str(page),
                "tally": tally,
                "refused": _refused(plan),
                "cells": _records(cells),
            }
        )
        return
    _print_summary(cells)
    _tell_refused(plan.refused)
    typer.echo(f"{tally['computed']} computed, {tally['stood']} stood already, {tally['failed']} failed, "
               f"{tally['bad_inputs']} bad inputs. Report: {page}")  # fmt: skip


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A results folder.")], as_json: Json = False) -> None:
    """Rebuild cells.parquet and the HTML report of a results folder, finished or not."""
    from .reports.report import report_folder

    page, cells = report_folder(folder)
    if as_json:
        _print_json({"report": str(page), "cells": _records(cells)})
    else:
        _print_summary(cells)
        typer.echo(f"Report: {page}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A results folder.")],
    baseline: Annotated[Path, typer.Option(help="The committed baseline, a JSON file.")],
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Write the baseline from the folder.")
    ] = False,
    margin: Annotated[
        float | None, typer.Option(help="The share of its score that a cell may lose [default: 0.01].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold a results folder against a baseline: exit 0 fine, 1 regression, 2 misuse, 3 not enough evidence."""
    from .reports.baseline import make_baseline, read_baseline, write_baseline
    from .reports.regression import check as check_results
    from .results.store import ResultsFolder

    results = ResultsFolder(folder)
    if update_baseline:
        write_baseline(make_baseline(results), baseline)
        _print_json({"baseline": str(baseline)}) if as_json else typer.echo(f"Wrote {baseline}")
        return
    options = {} if margin is None else {"margin": margin}
    result = check_results(results, read_baseline(baseline), **options)
    if as_json:
        _print_json(result.to_json())
    else:
        typer.echo(result.to_text())
    raise typer.Exit(result.exit_code)


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(help="A results folder.")],
    a: Annotated[str, typer.Argument(help="A cell, e.g. jpeg@0.5bpp or none.")],
    b: Annotated[str, typer.Argument(help="Another cell.")],
    as_json: Json = False,
) -> None:
    """The paired difference of two cells on the same samples, with its interval; of answers also McNemar's test and
    which samples were lost and gained."""
    from .reports.comparison import compare_cells
    from .reports.comparison_text import flip_lists, summary
    from .results.store import ResultsFolder

    found = compare_cells(ResultsFolder(folder), a, b)
    if as_json:
        _print_json([c.row() for c in found])
    else:
        _print_table([summary(c) for c in found], title=f"{b} minus {a}")
        for title, rows in (part for c in found for part in flip_lists(c, a, b)):
            _print_table(rows, title=title)
    if all(c.difference is None for c in found):
        raise UserError(f"{a} and {b} cannot be compared: {found[0].note}.")


@app.command()
def cost(
    model: Annotated[str, typer.Option(help="A folder or hub id; weights are not needed.")],
    method: Methods = None,
    budget: Budgets = None,
    text_tokens: Annotated[int, typer.Option(min=0, help="Text tokens of the prompt.")] = 64,
    images: Annotated[
        int, typer.Option(min=1, help="Images of the prompt: pictures, crops of one, or frames of a clip.")
    ] = 1,
    budget_convention: Annotated[Convention, typer.Option(help="Which token count --budget means.")] = "mean",
    dtype: Annotated[str, typer.Option(help="For the size of the KV cache.")] = "bf16",
    text_encoder: Annotated[
        str | None, typer.Option(help="A folder or hub id of a CLIP checkpoint, for methods such as cdpruner.")
    ] = None,
    flops_convention: Annotated[
        list[str] | None,
        typer.Option(
            help="Also count the LLM's FLOPs as papers do: pio_fvlm, divprune, holitom, dycoke, pyramiddrop, "
            "globalcom2, hiprune."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """FLOPs by stage and KV-cache bytes, without weights or network."""
    from .harness.cost.table import cost_table

    rows, refused = cost_table(
        model, method or ["none"], budget or [], text_tokens=text_tokens, images=images, convention=budget_convention,
        dtype=dtype, text_encoder=text_encoder, flops=flops_convention or (),
    )  # fmt: skip
    if as_json:
        _print_json(rows)
    else:
        shown = [{k: v for k, v in row.items() if k != "flops_per_layer"} for row in rows]
        _print_table(shown, title=f"Costs of {model}")
    _tell_refused(refused)


@app.command()
def verify(
    method: Annotated[str | None, typer.Argument(help="A compressor: its name, or the path of a Python file.")] = None,
    reference: Annotated[Path | None, typer.Option(help="A folder of arrays made by the authors' code.")] = None,
    dump: Annotated[Path | None, typer.Option(help="Write what our code computes to this folder.")] = None,
    model: Annotated[str | None, typer.Option(help="What it is tried in [default: a small one of ours].")] = None,
    task: Annotated[
        str | None, typer.Option(help="A task whose samples name their evidence [default: drawn pictures, or clips].")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="A folder or hub id of a CLIP checkpoint, for methods such as cdpruner.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try what every figure about a compressor takes for granted; with --reference, compare it as well (or, without
    one, all methods) with arrays that the authors' own code produced. Exit 0 all is well, 1 something is not."""
    if dump is not None and reference is None:
        raise UserError("--dump writes what our code computes from reference arrays: add --reference DIR.")
    if method is not None:
        from .harness.registry import parse_call, registry
        from .harness.truth import truth_test

        name, parameters = parse_call(method)
        verdicts = truth_test(
            registry("methods").get(name), parameters, model, task, text_encoder=text_encoder, reference=reference,
            dump=dump,
        )  # fmt: skip
        rows = [{"promise": promise, **verdict._asdict()} for promise, verdict in verdicts.items()]
        _print_json(rows) if as_json else _print_table(rows, title=f"{method} in {model or 'a small model'}")
        raise typer.Exit(1 if any(v.status == "fail" for v in verdicts.values()) else 0)
    if reference is None:
        raise UserError("verify needs a compressor to try, or --reference DIR with arrays to compare all methods with.")
    from .harness.verify import verify_reference

    result = verify_reference(reference, dump)
    rows = [asdict(report) for report in result.files]
    _print_json(rows) if as_json else _print_table(rows, title=f"Reference arrays of {reference}")
    raise typer.Exit(0 if result.ok else 1)


@app.command("list")
def list_(
    what: Annotated[Listed, typer.Argument(help="methods, tasks, models or metrics.")] = "methods",
    as_json: Json = False,
) -> None:
    """Everything that a sweep can be asked for."""
    from .harness.listing import listing

    rows, broken = listing(what)
    if as_json:
        _print_json(rows)
    else:
        _print_table(rows, title=what)
    for bad in broken:
        typer.echo(f"Broken plug-in {bad.source}: {bad.error}", err=True)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Which backends, weights and devices are at hand, and how to get the rest."""
    from .harness.listing import diagnosis

    rows = diagnosis()
    _print_json(rows) if as_json else _print_table(rows, title="doctor")


# ------------------------------------------------------------------------------------------------------------- printing


class _Bars:
    """Progress on standard error, with an estimate of the time left; plain lines where that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._console = console
        self._current: TaskID | None = None

    def start(self, what: str, total: int) -> None:
        self._bars.start()
        self._current = self._bars.add_task(what, total=total)
        if not self._console.is_terminal:
            typer.echo(f"{what}: {total} to do", err=True)

    def advance(self, steps: int = 1) -> None:
        if self._current is not None:
            self._bars.advance(self._current, steps)

    def stop(self) -> None:
        self._bars.stop()


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def _print_summary(cells: pd.DataFrame) -> None:
    from .reports.tables import summary_rows

    _print_table(summary_rows(cells), title="Results")


def _print_table(rows: Sequence[Mapping[str, object]], *, title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else ():
        numeric = all(isinstance(r[name], int | float | None) for r in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(v)) for v in row.values()))
    width = None if sys.stdout.isatty() else 240
    console = Console(width=width, highlight=False)
    console.print(Text(title, style="italic"))  # a line of its own: a table's title is wrapped at its width
    console.print(table)


def _shown(value: object) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple | dict):
        return " ".join(map(str, value))
    return str(value)


def _tell_refused(refused: Iterable[Refused]) -> None:
    for r in refused:
        budget = f" at {r.budget}" if r.budget else ""
        typer.echo(f"Refused: {r.method}{budget} on {r.task}: {r.reason}", err=True)


def _refused(plan: Plan) -> list[dict[str, object]]:
    return [vars(r) for r in plan.refused]


def _records(cells: pd.DataFrame) -> object:
    return json.loads(cells.to_json(orient="records"))


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for item in given:
        name, equals, folder = item.partition("=")
        if not equals or not name or not folder:
            raise UserError(f"--data {item!r} must be TASK=DIR, such as photos=my/pictures.")
        pairs[name] = folder
    return pairs


def main() -> NoReturn:
    """Run a command: mistakes that the user can mend are one sentence and exit code 2."""
    debug = "--debug" in sys.argv
    sys.argv[1:] = [a for a in sys.argv[1:] if a != "--debug"]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve small models on busy cores
    try:
        app()
    except UserError as error:
        if debug:
            raise
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("Interrupted. What was computed is kept: run the same command to go on.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        typer.echo(
            f"Internal error: {type(error).__name__}: {error}. Run again with --debug for the traceback.", err=True
        )
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
