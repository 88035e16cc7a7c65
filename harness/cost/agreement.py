"""Which published FLOPs agree with which convention, from a table of published figures.

A figure is read as its paper invites to: as many visual tokens at every LLM layer as are printed. Where a convention
counts text and the paper does not say how much, the paper's first full-token figure fixes the length, and then proves
nothing for that convention.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ..models.published import load_config
from .closed_form import prefill_flops
from .conventions import CONVENTIONS, FlopsConvention

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TOLERANCE = 0.02

MODELS = (
    (r"LLaVA-1\.5-7B", "llava-hf/llava-1.5-7b-hf", 576),
    (r"LLaVA-1\.5-13B", "llava-hf/llava-1.5-13b-hf", 576),
    (r"LLaVA-(NeXT|1\.6)-7B", "llava-hf/llava-v1.6-vicuna-7b-hf", 2880),
    (r"LLaVA-NeXT-13B", "llava-hf/llava-v1.6-vicuna-13b-hf", 2880),
    (r"LLaVA-NeXT-Video-7B", "llava-hf/LLaVA-NeXT-Video-7B-hf", 1152),
    (r"LLaVA-OneVision-0\.5B", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 6272),
    (r"LLaVA-OneVision-7B", "llava-hf/llava-onevision-qwen2-7b-ov-hf", 6272),
    (r"LLaVA-OneVision-72B", "llava-hf/llava-onevision-qwen2-72b-ov-hf", 6272),
)
"""As papers call a model, its hub id, and its visual tokens: 2 x 2 crops and an overview, 8 frames, or 32 frames."""

DIVPRUNE, DYCOKE = "2503.02175", "2411.15024"

DIVPRUNE_TEXT = {
    "llava-hf/LLaVA-NeXT-Video-7B-hf": (28, 63, 21, 38, 196),
    "": (15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57),
}
"""Text tokens of DivPrune's benchmarks, by model; means over benchmarks are what it prints."""

DIVPRUNE_VISUAL = {
    "llava-hf/llava-v1.6-vicuna-7b-hf": (2225, 1922, 2239, 1927, 2108, 1882, 2292, 2249, 2250, 1598, 2116)
}
"""Visual tokens of the same, measured, where the picture decides."""

INSIDE = re.compile(r"FastV|PDrop|SparseVLM|v2Drop|VTW|FitPrune|FiCoCo-V?L|PIO-FVLM|DART|DyCoke|HoliTom$")
"""Methods that cut inside the LLM."""

NO_COUNT = "the model or the number of tokens is not printed"
INSIDE_LLM = "the method cuts inside the LLM, and what each layer sees is not printed"
QUANTISED = "operations are weighed by their bits (INT8, INT4)"
FITTED = "it is the figure that fixes the text length, and no other convention gives it"
NONE_FITS = "no convention gives it for the tokens printed"

Layers = Callable[[int, int], Sequence[float]]
"""Visual tokens at every layer, of the LLM's depth and the full count."""


@dataclass(frozen=True)
class Figure:
    """A published figure: TFLOPs, or a percentage of the full-token FLOPs."""

    paper: str
    arxiv: str
    method: str
    model: str | None
    tokens: str
    value: float
    percent: bool

    @property
    def full(self) -> bool:
        return self.method.startswith("Vanilla")

    @property
    def layers(self) -> Layers | None:
        """How the printed count is read; None where there is none."""
        if self.arxiv == DYCOKE and (merged := re.search(r"K=([\d.]+)", self.method)):
            # What is printed is left for decoding; three of four frames lose a share K before the LLM.
            return _share((1 + 3 * (1 - float(merged[1]))) / 4)
        if self.tokens.startswith("100%") and not self.full:
            return None
        if found := re.fullmatch(r"(\d+) in layers 1-(\d+); (\d+) after", self.tokens):
            before, first, after = map(int, found.groups())
            return lambda depth, _: [before] * first + [after] * (depth - first)
        if found := re.fullmatch(r"([\d.]+)%( before LLM)?", self.tokens):
            return _share(float(found[1]) / 100)
        if found := re.fullmatch(r"(?:up to )?(\d+)(?: \(.*\))?", self.tokens):
            count = int(found[1])
            return lambda depth, _: [count] * depth
        return None


@dataclass(frozen=True)
class Finding:
    """What conventions make of a figure: their values, those within 2%, and the reason where none is."""

    figure: Figure
    values: Mapping[str, float]
    agreeing: tuple[str, ...]
    why: str | None


def ours(config: PretrainedConfig, layers: Sequence[float], text_tokens: float) -> float:
    """Our own prefill, to be set beside the conventions."""
    return prefill_flops(config, text_tokens, layers)  # type: ignore[arg-type]  # a mean of prompts need not be whole


COMPARED: dict[str, FlopsConvention] = {**CONVENTIONS, "toksweep": ours}
COUNT_TEXT = ("divprune", "hiprune", "toksweep")


def read_figures(table: Path) -> list[Figure]:
    """The FLOPs of a CSV with the columns paper, arxiv_id, method, model, visual_tokens_kept, quantity and value; what
    is 100% of itself is left out."""
    with table.open(newline="", encoding="utf-8") as lines:
        rows = [r for r in csv.DictReader(lines) if r["quantity"] in ("TFLOPs", "FLOPs_percent_of_full")]
    figures = [
        Figure(
            paper=_short(r["paper"]), arxiv=r["arxiv_id"], method=r["method"], model=_hub_id(r["model"]),
            tokens=r["visual_tokens_kept"], value=float(r["value"]), percent=r["quantity"] != "TFLOPs",
        )
        for r in rows
    ]  # fmt: skip
    return [f for f in figures if not (f.percent and f.full)]


def findings(figures: Sequence[Figure]) -> list[Finding]:
    """One per figure, in their order."""
    lengths = {
        (paper, name): text_length(figures, paper, name) for paper in {f.paper for f in figures} for name in COMPARED
    }
    found = []
    for figure in figures:
        values, agreeing, fixes = {}, [], False
        for name in COMPARED if figure.layers and figure.model else ():
            text, fixed_by = lengths[figure.paper, name]
            values[name] = _value(figure, name, text)
            fixes = fixes or fixed_by is figure
            if abs(values[name] - figure.value) <= TOLERANCE * figure.value and fixed_by is not figure:
                agreeing.append(name)
        found.append(Finding(figure, values, tuple(agreeing), None if agreeing else _why(figure, fixes)))
    return found


def implied_tokens(figure: Figure, name: str, text: float) -> float:
    """The visual tokens at every layer with which a convention gives a figure."""
    return _solve(lambda n: _value(figure, name, text, lambda depth, _: [n] * depth), figure.value)


def text_length(figures: Sequence[Figure], paper: str, name: str) -> tuple[float, Figure | None]:
    """Text tokens that bring the paper's first full-token figure about, and that figure; none where even without text
    more is counted than printed, or the paper states its texts."""
    full = [f for f in figures if f.paper == paper and f.full and f.model and f.layers and f.arxiv != DIVPRUNE]
    if not full or name not in COUNT_TEXT or _value(full[0], name, 0) > full[0].value:
        return 0.0, None
    return _solve(lambda text: _value(full[0], name, text), full[0].value), full[0]


def _why(figure: Figure, fixes: bool) -> str:
    if "INT" in figure.method:
        return QUANTISED
    if figure.model is None or (figure.layers is None and not figure.tokens.startswith("100%")):
        return NO_COUNT
    if INSIDE.search(figure.method):
        return INSIDE_LLM
    return FITTED if fixes else NONE_FITS


def _value(figure: Figure, name: str, text: float, layers: Layers | None = None) -> float:
    """What a convention gives for a figure, in the figure's unit: a mean over prompts."""
    read = layers or figure.layers
    assert figure.model is not None and read is not None
    config = _config(figure.model)
    depth = config.get_text_config().num_hidden_layers
    convention, values = COMPARED[name], []
    for visual, words in _prompts(figure.model, figure.arxiv, text):
        spent = convention(config, read(depth, visual), words)
        values.append(100 * spent / convention(config, [visual] * depth, words) if figure.percent else spent / 1e12)
    return fmean(values)


def _solve(rising: Callable[[float], float], wanted: float) -> float:
    """Where a rising function of a count of tokens gives what is wanted."""
    low, high = 0.0, 10_000.0
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return low


def _prompts(model: str, arxiv: str, text: float) -> list[tuple[int, float]]:
    """Visual tokens of the full prompt and text tokens, of every prompt that a figure is a mean of."""
    full = next(n for _, ref, n in MODELS if ref == model)
    if arxiv != DIVPRUNE:
        return [(full, text)]
    texts = DIVPRUNE_TEXT.get(model, DIVPRUNE_TEXT[""])
    return list(zip(DIVPRUNE_VISUAL.get(model, (full,) * len(texts)), texts, strict=True))


def _share(share: float) -> Layers:
    return lambda depth, full: [round(share * full)] * depth


@lru_cache
def _config(model: str) -> PretrainedConfig:
    return load_config(model)


def _hub_id(name: str) -> str | None:
    return next((ref for pattern, ref, _ in MODELS if re.search(pattern, name)), None)


def _short(title: str) -> str:
    """`Name: what it is about`, or `What it is about (Name)`."""
    found = re.search(r"\((FastV|DART|SparseVLMs #\d+)\)", title)
    return found[1] if found else title.split(":")[0]
