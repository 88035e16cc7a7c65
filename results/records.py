"""The record schema: what is written for one sample, and the columns of one cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from ..harness.contracts import Survival

Status = Literal["ok", "infeasible", "failed", "bad_input"]

COLUMNS: tuple[str, ...] = (
    "cell_id", "model", "model_revision", "method", "method_params", "budget", "budget_value", "budget_unit",
    "budget_convention", "task", "family", "subset", "slice", "metric", "value", "ci_low", "ci_high", "n", "n_clusters",
    "n_failed", "n_bad_input", "n_infeasible", "status", "seed", "tokens_full", "tokens_entering", "tokens_mean",
    "tokens_kv", "bits_per_pixel", "flops", "latency_ms", "latency_ratio", "tpot_ms", "peak_memory_bytes", "dtype",
    "attention", "device", "higher_is_better", "protocol", "source",
    # Added to the design's columns:
    "label", "kind", "floor", "illustrative", "n_items", "unit", "worst", "verified", "work_id",
    "diagnostic", "metric_family", "loss_correlation", "loss_correlation_low", "loss_correlation_high",
    "loss_correlation_n", "loss_correlation_clusters", "comparable", "n_alone", "n_flips", "kv_bytes",
    "latency_q1_ms", "latency_q3_ms", "latency_ratio_q1", "latency_ratio_q3",
    "tpot_q1_ms", "tpot_q3_ms", "tpot_ratio", "tpot_ratio_q1", "tpot_ratio_q3",
    "vision_ms", "vision_q1_ms", "vision_q3_ms", "compressor_ms", "compressor_q1_ms", "compressor_q3_ms",
    "prefill_ms", "prefill_q1_ms", "prefill_q3_ms",
    "latency_device", "latency_rounds", "latency_samples", "latency_error",
    "answer_tokens", "break_even_tokens", "break_even_reason", "flops_decode",
    "aggregation", "lowest_rate",
)  # fmt: skip
"""Columns of `cells.parquet`, one row per (cell, metric, slice). `label` is the method with its parameters as typed,
`n` counts samples and `n_items` scored instances (words, faces), `illustrative` marks fewer than 30
clusters, `diagnostic` a method that knows what no method can know, `metric_family` is `evidence` for metrics that
explain scores and are no score; `loss_correlation` says how well: it is that of both losses, over `_n` samples of
`_clusters` clusters, with its interval. `comparable` is false for a figure of a subset that is only defined on the
whole set (a sum, a fixed denominator). `n_alone` counts answers of a batch that were asked for again one by one, where
the dtype makes no promise, and `n_flips` those that came out otherwise. `kv_bytes` is the mean size of the cache after
prefill, as executed. Of a tokenizer `tokens_mean` counts the tokens of its codes, `flops` encoding and decoding, and
`flops_decode` decoding alone; where codecs could not reach the budget, `lowest_rate` is the smallest one, in bits per
pixel, that all pictures of the cell fit in. `aggregation` says how a figure of a set is made that is no mean of items.

What the latency probe found at batch size 1, median over the samples that it timed of median and quartiles (`q1`, `q3`)
over its rounds: `latency_ms` to the first token, apart from that its phases `vision_ms`, `compressor_ms` and
`prefill_ms` (which add up to it as far as the machine was steady), and `tpot_ms` per output token; ratios are to full
tokens in the same round. `latency_error` says why a cell could not be timed, on some sample at least;
`break_even_tokens` how many visual tokens must be saved for choosing to pay, for an answer of `answer_tokens` tokens
(see `break_even.py`), or `break_even_reason` why no number does."""

ILLUSTRATIVE_BELOW = 30
"""Cells of fewer clusters (source pictures or clips) are shown, marked and never ranked."""


@dataclass(frozen=True)
class Score:
    """What one metric said of one sample: an item per scored instance, with the slices that it counts in.

    `raw` is what an aggregation of the metric's own takes of the sample; empty where the figure is the mean of items.
    """

    protocol: str
    code: str
    items: tuple[tuple[float, Mapping[str, str]], ...]
    raw: tuple[object, ...] = ()


@dataclass(frozen=True)
class SampleRecord:
    """What happened to one sample in one cell.

    `prediction` is an answer, or the file under `outputs/` that holds a picture's stream. Token counts are those of the
    ledger: `tokens_per_layer` at the input of every LLM layer, `tokens_kv` in the cache after prefill, layers' mean;
    `kv_bytes` is the size of that cache, text tokens included. Of a tokenizer `tokens` are those of its codes, and
    `flops` those of encoding and decoding, of which `flops_decode` is a part.
    `kept_indices` are source indices of the full raster, a list per stage. `bits` counts headers. `evidence` has an
    entry for each patch that holds a part of what the answer rests on. `alone` is the answer without the others of its
    batch, where that was asked for.
    """

    sample_id: str
    cluster_id: str
    fingerprint: str
    status: Status
    prediction: str | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    tokens_full: int | None = None
    tokens: int | None = None
    tokens_per_layer: tuple[int, ...] | None = None
    tokens_kv: float | None = None
    text_tokens: int | None = None
    kv_bytes: int | None = None
    kept_indices: tuple[object, ...] | None = None
    bits: int | None = None
    pixels: int | None = None
    flops: float | None = None
    flops_decode: float | None = None
    evidence: tuple[Survival, ...] | None = None
    alone: str | None = None
    error: str | None = None

    def to_json(self) -> dict[str, object]:
        """A JSON-ready mapping; fields that are None are left out."""
        data = {k: v for k, v in asdict(self).items() if v is not None}
        data["scores"] = {
            name: {k: v for k, v in score.items() if v or k != "raw"} for name, score in data["scores"].items()
        }
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> SampleRecord:
        """Read a mapping that `to_json` made; unknown keys of later versions are ignored."""
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in data.items() if k in known}
        scores = values.get("scores") or {}
        assert isinstance(scores, Mapping)
        values["scores"] = {
            name: Score(
                s["protocol"], s["code"], tuple((float(v), dict(m)) for v, m in s["items"]), tuple(s.get("raw", ()))
            )
            for name, s in scores.items()
        }
        for name in ("tokens_per_layer", "kept_indices"):
            if (got := values.get(name)) is not None:
                assert isinstance(got, list | tuple)
                values[name] = tuple(got)
        if (patches := values.get("evidence")) is not None:
            assert isinstance(patches, list | tuple)
            values["evidence"] = tuple(Survival(*patch) for patch in patches)
        return cls(**values)  # type: ignore[arg-type]
