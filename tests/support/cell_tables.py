"""Tables of cells as `results.aggregate.table` makes them, for tests of the report."""

from __future__ import annotations

import numpy as np
import pandas as pd
from toksweep.results.records import COLUMNS

RUN = {
    "run_id": "r1",
    "started": "2026-01-02T03:04:05Z",
    "command": ["toksweep", "sweep", "--task", "photos", "--method", "fastv(layer=3)"],
    "version": "0.1.0",
    "commit": "abc1234",
    "libraries": {"numpy": "2.4.6", "torch": "2.8.0"},
    "device": "cpu",
    "seeds": [0, 1, 2],
}


def row(**given) -> dict[str, object]:
    """A complete headline row; what is given replaces its parts."""
    base = dict.fromkeys(COLUMNS) | {
        "method": "jpeg", "method_params": "{}", "kind": "tokenizer", "floor": False, "budget": "0.5bpp",
        "budget_value": 0.5, "budget_unit": "bpp", "task": "photos", "family": "reconstruction", "subset": "all",
        "metric": "ssim", "protocol": "ssim-1", "unit": "", "higher_is_better": True, "value": 0.8, "ci_low": 0.75,
        "ci_high": 0.85, "n": 40, "n_items": 40, "n_clusters": 40, "n_failed": 0, "n_bad_input": 0, "n_infeasible": 0,
        "status": "complete", "seed": 0, "bits_per_pixel": 0.48, "device": "cpu", "source": "measured",
        "illustrative": False,
    }  # fmt: skip
    values = base | given
    values["label"] = given.get("label", values["method"])
    parts = ("label", "budget", "seed", "model", "task")
    values["cell_id"] = given.get("cell_id", "-".join(str(values[p]) for p in parts))
    values["work_id"] = values["cell_id"]
    return values


def frame(rows) -> pd.DataFrame:
    """A table of such rows."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def untouched(**given) -> dict[str, object]:
    """The row of full tokens, or of the picture as it is."""
    return row(
        **{
            "method": "none",
            "kind": "untouched",
            "budget": None,
            "budget_value": None,
            "budget_unit": None,
            "value": 1.0,
        }
        | {"ci_low": 1.0, "ci_high": 1.0, "bits_per_pixel": 24.0}
        | given
    )


def pictures(*, clusters: int = 12) -> list[dict[str, object]]:
    """Codecs on two tasks: rising scores with the budget, one infeasible cell, one bad input, slices."""
    rows, few = [], clusters < 30
    skill = {"jpeg": 0.0, "webp": 0.06, "avif": 0.11, "lowres": -0.2}
    metrics = {
        "photos": [("psnr", "dB", 26.0, 14.0), ("ssim", "", 0.72, 0.2)],
        "text": [("t_acc[rapidocr]", "", 0.35, 0.5)],
    }
    for task, ones in metrics.items():
        for metric, unit, base, gain in ones:
            about = {"task": task, "metric": metric, "protocol": f"{metric}/8bit/v1", "unit": unit, "illustrative": few}
            about |= {
                "n": 2 * clusters,
                "n_items": 2 * clusters,
                "n_clusters": clusters,
                "n_bad_input": int(task == "text"),
            }
            top = 100.0 if metric == "psnr" else 0.97
            rows.append(untouched(**about, value=top, ci_low=top, ci_high=top))
            for method, better in skill.items():
                for spent in (0.25, 0.5, 1.0):
                    value = base + gain * (better + 0.3 * np.log2(4 * spent) / 2 + 0.25)
                    stuck = method == "jpeg" and spent == 0.25 and task == "text"
                    cell = about | {
                        "method": method, "floor": method == "lowres", "budget": f"{spent:g}bpp", "budget_value": spent,
                        "value": value, "ci_low": value - 0.08 * gain, "ci_high": value + 0.07 * gain,
                        "bits_per_pixel": spent * (0.97 if not stuck else 1.4),
                        "latency_ms": None if task == "text" else 4 + 60 * better**2 + 3 * spent,
                        "status": "infeasible" if stuck else "complete", "n_infeasible": 5 if stuck else 0,
                    }  # fmt: skip
                    rows.append(row(**cell))
                    if task == "text":
                        sizes = enumerate(("small", "medium", "large"))
                        rows += [row(**cell | {"slice": f"size={s}", "value": value + 0.1 * (i - 1)}) for i, s in sizes]
    return rows


def questions(*, clusters: int = 48) -> list[dict[str, object]]:
    """Compressors in a VLM with ranks, ties, floors of several seeds and a failure."""
    about = {
        "task": "images_qa", "family": "vqa", "metric": "exact_match", "protocol": "exact_match/v1", "unit": "%",
        "model": "tiny/llava", "model_revision": "0123456789", "dtype": "float32", "attention": "sdpa", "n": 200,
        "n_items": 200, "n_clusters": clusters, "illustrative": clusters < 30, "kind": "compressor",
        "bits_per_pixel": None, "tokens_full": 576,
    }  # fmt: skip
    full = {"tokens_mean": 576, "tokens_entering": 576, "tokens_kv": 576, "flops": 8.4e12, "latency_ms": 210.0}
    rows = [untouched(**about | full | {"kind": "untouched", "value": 0.62, "ci_low": 0.56, "ci_high": 0.68})]
    skill = {
        "divprune": (0.05, "selection", False),
        "fastv(layer=3)": (-0.08, "wiring", False),
        "tome": (0.03, "paper", False),
    }
    skill |= {"random": (-0.17, None, True), "uniform": (-0.13, None, True)}
    for label, (gain, verified, floor) in skill.items():
        for seed in (0, 1, 2) if label == "random" else (0,):
            for tokens in (288, 144, 64):
                value = 0.62 - 0.18 * np.log2(576 / tokens) / 3.2 + gain + 0.012 * seed
                rows.append(
                    row(
                        **about | {
                            "method": label.partition("(")[0], "label": label, "verified": verified, "floor": floor,
                            "seed": seed, "budget": str(tokens), "budget_value": tokens, "budget_unit": "tokens",
                            "budget_convention": "mean", "value": value, "ci_low": value - 0.03,
                            "ci_high": value + 0.03,
                            "tokens_mean": tokens, "tokens_entering": tokens if "fastv" not in label else 576,
                            "flops": 2e12 + 1.1e10 * tokens, "latency_ms": 70 + 0.23 * tokens + 3 * seed,
                            "n_failed": 3 if label == "tome" and tokens == 64 else 0,
                        }
                    )
                )  # fmt: skip
    return rows
