"""Time to the first token of every compressor in a model of full size, with random weights: no download, no accuracy.

A checkpoint of the stored configuration is drawn and saved, swept with the latency probe like any other, and its table
by phase is written as Markdown, with device and versions. A 7B model in bf16 takes 15 GB of disk and as much memory on
the GPU. How many tokens adaptive methods keep hangs on weights: their rows are of random ones. Usage:
python tests/benchmarks/first_token.py [--model ID] [--device cuda] [--dtype bf16] [--budget N]... [--out TABLE.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import random_checkpoint
from toksweep.harness.contracts import UserError
from toksweep.harness.models.loading import check_platform
from toksweep.harness.models.published import load_config
from toksweep.harness.plan import make_plan
from toksweep.harness.registry import registry
from toksweep.harness.spec import load_spec
from toksweep.harness.sweep import run_sweep
from toksweep.reports.report import report_folder
from toksweep.results.store import ResultsFolder

BUDGETS = ("576", "192", "128", "64")


class Told:
    """Progress as lines on standard error."""

    def start(self, what: str, total: int) -> None:
        print(f"{what}: {total} to do", file=sys.stderr)

    def advance(self, steps: int = 1) -> None: ...

    def stop(self) -> None: ...


def compressors() -> list[str]:
    """All that act on single pictures, floors among them; a diagnostic that knows the answer is no method."""
    entries = [e for e in registry("methods") if e.kind == "compressor"]
    return [e.name for e in entries if not e.meta["clips"] and not e.meta["diagnostic"]]


def measure(options: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    """The results folder, and the table as Markdown.

    Raises:
        UserError: a device, dtype or kernel that this machine lacks; a family without a stand-in for its processor.
    """
    dtype = str(check_platform(options.device, options.dtype, options.attn)).removeprefix("torch.")
    config = load_config(options.model)
    if config.model_type not in random_checkpoint.PROCESSORS:
        known = ", ".join(random_checkpoint.PROCESSORS)
        raise UserError(f"{options.model} is of the family {config.model_type}: take one of {known}.")
    model = random_checkpoint.save(folder / "model", config, device=options.device, dtype=dtype)
    encoder = random_checkpoint.save_text_encoder(folder / "text-encoder", config)
    out = Path(options.results) if options.results else folder / "results"
    flags = {
        "models": [str(model)], "tasks": ["synth_vqa"], "methods": options.method or compressors(), "seeds": [0],
        "budgets": options.budget or list(BUDGETS), "floors": False, "limit": options.samples, "latency": True,
        "device": options.device, "dtype": options.dtype, "attention": options.attn, "max_new_tokens": 16, "out": out,
        "text_encoder": str(encoder) if encoder else None, "budget_convention": options.budget_convention,
    }  # fmt: skip
    plan = make_plan(load_spec(None, {k: v for k, v in flags.items() if v is not None}))
    run_sweep(plan, command=" ".join(["python", *sys.argv]), progress=Told())
    page, _ = report_folder(out)
    (table,) = (page.parent / "tables").glob("*-latency.md")
    return out, told(options, out, table.read_text(encoding="utf-8").replace(str(model), options.model))


def told(options: argparse.Namespace, out: Path, table: str) -> str:
    """The table with what it rests on, and what was refused."""
    run = ResultsFolder(out).runs()[-1]
    libraries = ", ".join(f"{k} {v}" for k, v in run["libraries"].items() if k in ("torch", "transformers"))
    title, _, body = table.partition("\n")
    assert title.startswith("#")
    refused = [f"- {r['method']} at {r['budget']}: {r['reason']}" for r in run["refused"]]
    return "\n".join(
        [
            f"# Time to first token: {options.model}, random weights",
            "",
            f"{run['device_name'] or run['processor']}, {options.dtype}, {options.attn}; toksweep {run['version']} "
            f"({run['commit'] or 'no commit'}), {libraries}, Python {run['python']}, {run['platform']}; "
            f"{run['started']}.",
            "Weights are drawn: nothing here speaks of accuracy.",
            "",
            body.strip(),
            *(["", "Refused:", "", *refused] if refused else []),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="llava-hf/llava-1.5-7b-hf", help="a stored configuration, or a folder")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu ...")
    parser.add_argument("--dtype", default="bf16", help="bf16, fp16 or fp32")
    parser.add_argument("--attn", default="sdpa", help="attention kernel")
    parser.add_argument("--budget", action="append", help="repeats; default 576, 192, 128 and 64 tokens")
    parser.add_argument("--budget-convention", default="mean", help="which token count --budget means")
    parser.add_argument("--method", action="append", help="repeats; default all compressors of pictures")
    parser.add_argument("--samples", type=int, default=1, help="questions that are timed, two at most")
    parser.add_argument("--folder", help="where the checkpoint is put for the while, such as /dev/shm")
    parser.add_argument("--results", help="a results folder to keep, with report and figures")
    parser.add_argument("--out", type=Path, help="the Markdown file; default standard output")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        try:
            _, table = measure(options, Path(folder))
        except UserError as error:
            sys.exit(f"Error: {error}")
    if options.out:
        options.out.write_text(table, encoding="utf-8")
    else:
        print(table)


if __name__ == "__main__":
    main()
