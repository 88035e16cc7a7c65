"""The nouns that methods, tasks, metrics and the engine share."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL.Image import Image

T = TypeVar("T")

Place = Literal["pixel", "encoder", "projector", "decoder", "attention"]
PLACES: tuple[Place, ...] = ("pixel", "encoder", "projector", "decoder", "attention")
Convention = Literal["mean", "entering", "after_cut"]
CONVENTIONS: tuple[Convention, ...] = ("mean", "entering", "after_cut")
Unit = Literal["tokens", "percent", "bpp"]


class UserError(Exception):
    """A mistake that the user can mend: one sentence, shown without a traceback, exit code 2."""


class Refusal(Exception):
    """Why a combination of method, budget, model and task cannot run; the plan lists it and goes on."""


# --------------------------------------------------------------------------------------------------------------- budget


@dataclass(frozen=True)
class Budget:
    """What a method may spend: `64` tokens per image (per frame for video), `25%` of the full count, `0.5bpp`."""

    value: float
    unit: Unit
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str | int | float) -> Budget:
        """Read a budget as a user types it.

        Raises:
            UserError: not a number, not above 0, more than 100%, a fraction of a token, or more than the 24 bits of
                an uncompressed pixel.
        """
        typed = str(text).strip()
        number, unit = _split_unit(typed)
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"Budget {typed!r} is not a number: write 64 (tokens), 25% or 0.5bpp.")
        if value <= 0:
            raise UserError(f"Budget {typed!r} is not above 0: write 64 (tokens), 25% or 0.5bpp.")
        if unit == "tokens" and value != int(value):
            raise UserError(f"Budget {typed!r} is a fraction of a token: write a whole number, 25% or 0.5bpp.")
        if unit == "percent" and value > 100:
            raise UserError(f"Budget {typed!r} is above the full count: write at most 100%.")
        if unit == "bpp" and value > 24:
            raise UserError(f"Budget {typed!r} is above the 24 bits of an uncompressed pixel: write less.")
        return cls(value, unit, typed)

    def tokens(self, full: int) -> int:
        """The number of tokens that this budget means where `full` are at hand.

        Raises:
            Refusal: bits per pixel, above the full count, or a share that rounds to no token at all.
        """
        if self.unit == "bpp":
            raise Refusal(
                f"budget {self.text} counts bits per pixel, and a compressor counts tokens: write {full} or 25%"
            )
        count = int(self.value) if self.unit == "tokens" else round(full * self.value / 100)
        if count > full:
            raise Refusal(f"budget {self.text} is above the full count of {full} tokens")
        if count < 1:
            raise Refusal(f"budget {self.text} of {full} tokens is less than one token")
        return count


def _split_unit(typed: str) -> tuple[str, Unit]:
    lowered = typed.lower()
    if lowered.endswith("bpp"):
        return lowered[:-3], "bpp"
    if lowered.endswith("%"):
        return lowered[:-1], "percent"
    return lowered, "tokens"


# ----------------------------------------------------------------------------------------------------------------- memo


class Memo:
    """Work that several cells share for one sample: computed when first asked for, dropped with the sample."""

    def __init__(self) -> None:
        self._values: dict[Hashable, object] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value under `key`, computed at the first call. An exception is raised again and nothing is stored."""
        if key not in self._values:
            self._values[key] = compute()
        return self._values[key]  # type: ignore[return-value]

    def forget(self) -> None:
        """Drop all values."""
        self._values.clear()


# -------------------------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class Region:
    """A part of a picture that a metric looks at: a word with its transcript, or a face with its key points.

    `box` is x0, y0, x1, y1 in pixels of the sample's picture, half-open; `points` are x, y pairs; `slices` name the
    groups that the region counts in, such as `{"size": "small"}`. A region whose size falls below the smallest bin of
    its protocol has no slices and is not scored. `image` is the number of the picture, or frame, that it lies in. In
    question answering a region is evidence: a box that holds what the answer rests on.
    """

    box: tuple[float, float, float, float]
    text: str | None = None
    points: tuple[tuple[float, float], ...] = ()
    slices: Mapping[str, str] = field(default_factory=dict)
    image: int = 0


@dataclass(frozen=True)
class Sample:
    """One item of a task.

    Attributes:
        id: unique in its task, stable between runs.
        cluster_id: shared by samples that come from one picture or clip; intervals resample clusters.
        images: loaders of the pictures (RGB). A loader that raises makes the sample a bad input, in every cell alike.
        fingerprint: digest of everything that determines the sample; a stored record counts only while it is equal.
        question, answers: for question answering; any of the answers is right.
        regions: words or faces that a metric looks at.
        slices: groups that the whole sample counts in.
        stratum: the group that a stratified subset balances.
    """

    id: str
    cluster_id: str
    images: tuple[Callable[[], Image], ...]
    fingerprint: str
    question: str | None = None
    answers: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    slices: Mapping[str, str] = field(default_factory=dict)
    stratum: str = ""


class Task(Protocol):
    """A function, decorated with `@task`, that lists the samples of its own data or of a user's folder."""

    def __call__(self, folder: Path | None) -> Iterable[Sample]: ...


# -------------------------------------------------------------------------------------------------------------- metrics


@dataclass(frozen=True)
class Item:
    """One scored instance: a picture, a word, a face or an answer, with the slices it counts in."""

    value: float
    slices: Mapping[str, str] = field(default_factory=dict)


class Survival(NamedTuple):
    """What a compressor left of one patch that holds evidence.

    `area` is the share of the patch that the evidence covers; `entering` and `last` are its largest weights, at most 1,
    in any token at the LLM's door and in its last layer: 1 where it is kept as it is, 1/4 in a mean of four.
    """

    area: float
    entering: float
    last: float


@dataclass(frozen=True)
class Output:
    """What a cell produced for a sample: a picture, or an answer with what was left of the evidence for it."""

    image: Image | None = None
    text: str | None = None
    evidence: tuple[Survival, ...] = ()


@runtime_checkable
class Metric(Protocol):
    """A pure function from an output and its sample to scored items; the class is decorated with `@metric`.

    `name` carries the backend (`t_acc[rapidocr]`). `worst` is what a failed sample gets for each of its items; None
    means that a cell with a failure has no value. `mean_over` names the slices whose means are averaged for the
    headline (TokBench averages its three size bins); empty means the mean over all items.
    """

    name: str
    unit: str
    higher_is_better: bool
    worst: float | None
    mean_over: str

    def protocol(self) -> str:
        """A short id of everything that makes two figures of this metric comparable."""

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """Score one output. `memo` is shared by the metrics of one output."""

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        """The slices of the items that `score` would return: what a failure is counted on."""


# ---------------------------------------------------------------------------------------------------------- compressors


@dataclass(frozen=True)
class ModelShape:
    """What a method may know about a model before it has seen a picture.

    `grid` is rows and columns of visual tokens of one image at the LLM's door, `tokens` their number;
    `feature_layers` counts the vision layers that the LLM's features have passed (None: all of them), since merging in
    a later one changes nothing. With `crops` a picture is several images to the model: the whole first, then its parts,
    row by row.
    """

    family: str
    tokens: int
    grid: tuple[int, int]
    vision_layers: int
    llm_layers: int
    class_token: bool
    feature_layers: int | None = None
    crops: bool = False

    def scale(self, layer: int, of: int, *, vision: bool = False) -> int:
        """A paper's layer number, given for `of` layers, at this model's depth: max(1, round(l * L / L_ref))."""
        return max(1, round(layer * (self.vision_layers if vision else self.llm_layers) / of))


@dataclass(frozen=True)
class Stage:
    """One cut of a compressor: where, after how many layers, and how many visual tokens of one image are left.

    Attributes:
        place: `pixel` (the picture is encoded at a grid of `keep` tokens; nothing is reduced), `encoder` (inside
            vision layer `layer`, between attention and MLP), `projector` (between projector and LLM), `decoder`
            (before LLM layer `layer`, which is the first to compute on fewer tokens).
        keep: tokens of one image that are left after this cut, the class token not counted.
        layer: 0-based.
        reads: signals that `reduce` will look up in its view; see `View`.
        grid: of the smaller picture, at the place `pixel`.
        proportional: in the encoder, later layers add log(size) of every key to their attention logits, so that a token
            that stands for several patches draws as much attention as they did.
        features: at the projector, reduce what goes into the projector instead of what comes out of it.
        joint: one view holds all images of a sample (the frames of a clip), and `reduce` is asked for `keep` times
            their number.
    """

    place: Place
    keep: int
    layer: int | None = None
    reads: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    proportional: bool = False
    features: bool = False
    joint: bool = False


@dataclass(frozen=True)
class View:
    """What a compressor sees at one stage, for a batch of images whose token counts are equal.

    Attributes:
        tokens: [batch, n, dim] the visual tokens as they flow at this place. In the encoder the sequence holds the
            class token at `class_index`; at the projector it is appended as the last row if `class_token` is read.
        grid: rows and columns of the full grid (before any cut).
        sizes: [batch, n] how many original patches each token stands for (1 at the start).
        origin: [batch, n] where each token stood in the full raster of patches; -1 for a class token or a mixture.
        signals: what the stage's `reads` asked for, by the same name.
        generators: one per batch row, seeded by (seed, sample id, image); use `noise`.
        class_index: row of the class token in `tokens`, or None.
        image: [batch, n] number of the image, in its sample, that each token belongs to; None where a view holds one.
        shape: of the model, as `stages` was told.
        memo: shared by calls that differ in `keep` alone, as the budgets of a sweep do at the first cut behind the
            vision tower: what it holds must depend on nothing else, and must not have drawn noise.

    Signals, by place; L is a vision layer (negative counts from the end), t counts the text tokens behind the last
    image of the prompt, attention is after the softmax and keys are after rotary embedding:

    - encoder: `keys` [batch, heads, n, d] of the current layer.
    - projector: `class_token`; `class_attention@L` [batch, heads, patches] of the class token's row;
      `received_attention@L` [batch, heads, patches], the mean row of all queries, the class token's included; `keys@L`
      [batch, heads, n, d] of all tokens of the tower, a class token first; `class_query@L` [batch, heads, d];
      `features` [batch, patches, dim] as they go into the projector; `clip_patches` [batch, patches, d] and `clip_text`
      [batch, segments, d] in the space of a text encoder; `text_embeddings` [batch, t, dim] at the LLM's door;
      `evidence` [batch, patches], the share of each patch that the answer's evidence covers, for diagnostic methods.
    - decoder, of the layer before the cut: `last_attention` [batch, heads, n] of the last prompt token's row;
      `text_attention` [batch, heads, t, n]; `keys` [batch, heads, n, d] and `text_keys` [batch, heads, t, d]; `normed`
      [batch, n, dim] and `text_normed` [batch, t, dim], hidden states behind it through the model's final norm;
      `prompt_queries` and `prompt_keys` [batch, heads, length, d] of all tokens of the prompt that are left, after
      rotary embedding, and `places` [batch, n], where the view's tokens stand among them.
    - decoder, of the layer behind the cut as it would be without it: `next_last_attention` and `next_text_attention`,
      as above; `next_visual_attention` [batch, heads, n], the mean row of all visual queries; `next_keys`.
    - decoder, of the LLM's input: `entering` [batch, m, dim], the visual tokens; `text_embeddings` [batch, t, dim].

    Keys of an LLM have as many heads as it has key heads, fewer than queries in grouped-query attention. Where a view
    holds all images of a sample, what has a row per token or patch holds them one after another (each image's class
    token in front of its own keys), `class_query@L` is [batch, images, heads, d], and what belongs to the prompt is
    there once. Images share a view if the shapes of all that is read are equal.
    """

    tokens: torch.Tensor
    grid: tuple[int, int]
    place: Place
    layer: int | None = None
    sizes: torch.Tensor | None = None
    origin: torch.Tensor | None = None
    signals: Mapping[str, torch.Tensor] = field(default_factory=dict)
    generators: tuple[torch.Generator, ...] = ()
    class_index: int | None = None
    image: torch.Tensor | None = None
    shape: ModelShape | None = None
    memo: Memo = field(default_factory=Memo)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.signals[name]

    def noise(self, *shape: int) -> torch.Tensor:
        """Uniform draws in [0, 1), [batch, *shape]: each row depends on its seed and sample alone."""
        import torch

        rows = [torch.rand(shape, generator=g) for g in self.generators]
        return torch.stack(rows).to(self.tokens.device)


@runtime_checkable
class Compressor(Protocol):
    """A method with stages. A plain function `(view, keep, **parameters) -> Reduction` is one at a single place."""

    def stages(self, keep: int, shape: ModelShape) -> Sequence[Stage]:
        """The cuts for the authors' own argument `keep` (tokens of one image after the last cut).

        `keep` may be any integer from 0 to the full count; a method that cannot keep exactly that many returns the
        nearest count below. Raise `Refusal` for what it cannot do.
        """

    def reduce(self, view: View, keep: int) -> Reduction:
        """Choose or merge: `keep` rows of one image, of `view.tokens`, whose class token (if any) is not counted."""


@dataclass(frozen=True, eq=False)
class Reduction:
    """A sparse linear map from source tokens to kept tokens, for a batch: kept[b, row] += weight * tokens[b, source].

    A row with a single one is pruning, a row of weights is merging; rows may overlap and their number may differ
    between batch rows. Rows are in the order in which the tokens go on.

    Attributes:
        sources: number of source tokens of every batch row.
        counts: [batch] rows kept, on the CPU.
        batch, row, source: [nnz] integers; weight: [nnz] floats.
        position: `keep` (a row stands where its anchor stood), `renumber` (contiguous again) or [batch, max(counts)]
            explicit position ids.
        anchor: [batch, max(counts)] the source that gives a row its place; -1 behind the end of a shorter batch row.
    """

    sources: int
    counts: torch.Tensor
    batch: torch.Tensor
    row: torch.Tensor
    source: torch.Tensor
    weight: torch.Tensor
    anchor: torch.Tensor
    position: Literal["keep", "renumber"] | torch.Tensor = "keep"

    @classmethod
    def keep(
        cls,
        indices: torch.Tensor | Sequence[torch.Tensor],
        sources: int,
        *,
        position: Literal["keep", "renumber"] | torch.Tensor = "keep",
    ) -> Reduction:
        """Keep the tokens at `indices`, in that order: [batch, k], or one 1-D tensor per batch row."""
        import torch

        if not isinstance(indices, torch.Tensor) and len({len(r) for r in indices}) == 1:
            indices = torch.stack(list(indices))
        if isinstance(indices, torch.Tensor):
            size, k = indices.shape
            batch = torch.arange(size, device=indices.device)[:, None].expand(size, k).reshape(-1)
            row, anchor = torch.arange(k, device=indices.device).expand(size, k).reshape(-1), indices.long()
            weight = torch.ones(size * k, device=indices.device)
            return cls(sources, torch.full((size,), k), batch, row, anchor.reshape(-1), weight, anchor, position)
        rows = list(indices)
        counts = torch.tensor([len(r) for r in rows], dtype=torch.long)
        source = torch.cat(rows).long() if rows else torch.zeros(0, dtype=torch.long)
        device = source.device
        batch = torch.repeat_interleave(torch.arange(len(rows)), counts).to(device)
        row = torch.cat([torch.arange(int(c)) for c in counts]).to(device) if rows else source
        anchor = torch.full((len(rows), int(counts.max()) if rows else 0), -1, dtype=torch.long, device=device)
        anchor[batch, row] = source
        weight = torch.ones(len(source), device=device)
        return cls(sources, counts, batch, row, source, weight, anchor, position)

    @classmethod
    def merge(
        cls,
        groups: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        anchor: torch.Tensor | None = None,
        normalize: bool = True,
        position: Literal["keep", "renumber"] | torch.Tensor = "keep",
    ) -> Reduction:
        """Merge sources into groups.

        Args:
            groups: [batch, n] the row that each source goes into, -1 to drop it; every row up to the largest is used.
            weights: [batch, n], default 1; scaled to sum to one within a group unless `normalize` is off.
            anchor: [batch, k]; default the first source of each group.
        """
        import torch

        size, n = groups.shape
        counts = (groups.amax(1) + 1).cpu() if n else torch.zeros(size, dtype=torch.long)
        width = int(counts.max()) if size else 0
        batch, source = torch.nonzero(groups >= 0, as_tuple=True)
        row = groups[batch, source].long()
        given = torch.ones_like(groups, dtype=torch.float32) if weights is None else weights.float()
        weight = given[batch, source]
        flat = batch * width + row
        if normalize:
            weight = weight / torch.zeros(size * width, device=groups.device).index_add_(0, flat, weight)[flat]
        if anchor is None:
            first = torch.full((size * width,), n, dtype=torch.long, device=groups.device)
            first = first.scatter_reduce_(0, flat, source, "amin").view(size, width)
            anchor = torch.where(first == n, -1, first)
        return cls(n, counts, batch, row, source, weight, anchor, position)

    @classmethod
    def identity(cls, size: int, sources: int) -> Reduction:
        """Keep every token of `size` batch rows."""
        import torch

        return cls.keep(torch.arange(sources).expand(size, sources), sources)

    @property
    def is_selection(self) -> bool:
        """True where every kept token is one source token, unchanged."""
        return len(self.source) == int(self.counts.sum()) and bool((self.weight == 1).all())

    @property
    def valid(self) -> torch.Tensor:
        """[batch, max(counts)] True for rows that exist."""
        import torch

        width = self.anchor.shape[1]
        return (torch.arange(width)[None] < self.counts[:, None]).to(self.anchor.device)

    def apply(self, tokens: torch.Tensor) -> torch.Tensor:
        """[batch, n, dim] to [batch, max(counts), dim], zeros behind the end of a shorter batch row."""
        import torch

        size, n, dim = tokens.shape
        if n != self.sources:
            raise ValueError(f"a reduction of {self.sources} tokens was applied to {n}")
        width = self.anchor.shape[1]
        place = self.batch * width + self.row
        picked = tokens.reshape(size * n, dim).index_select(0, self.batch * n + self.source)
        if not self.is_selection:
            wide = torch.float64 if tokens.dtype == torch.float64 else torch.float32
            terms = picked.to(wide).mul_(self.weight.to(wide)[:, None])
            picked = terms.new_zeros(size * width, dim).index_add_(0, place, terms).to(tokens.dtype)
        elif not torch.equal(place, torch.arange(size * width, device=place.device)):
            picked = tokens.new_zeros(size * width, dim).index_copy_(0, place, picked)
        return picked.view(size, width, dim)

    def sizes(self, sizes: torch.Tensor) -> torch.Tensor:
        """How many original patches each kept token stands for: [batch, n] to [batch, max(counts)]."""
        out = sizes.new_zeros(self.anchor.shape)
        return out.index_put_((self.batch, self.row), sizes[self.batch, self.source], accumulate=True)

    def then(self, other: Reduction) -> Reduction:
        """This reduction followed by `other`, as one map from the first sources to the last rows.

        Position ids that either names explicitly are not carried over: the result has `other`'s rule.
        """
        import torch

        width, wide = self.anchor.shape[1], other.anchor.shape[1]
        if width != other.sources or len(self.counts) != len(other.counts):
            raise ValueError(f"a reduction to {width} tokens cannot be followed by one of {other.sources}")
        product = other.dense() @ self.dense()
        batch, row, source = product.nonzero(as_tuple=True)
        anchor = self.anchor.gather(1, other.anchor.clamp(min=0)) if wide else other.anchor
        return replace(
            other, sources=self.sources, batch=batch, row=row, source=source, weight=product[batch, row, source],
            anchor=torch.where(other.anchor < 0, -1, anchor),
        )  # fmt: skip

    def dense(self) -> torch.Tensor:
        """The map as a matrix, [batch, max(counts), sources]."""
        matrix = self.weight.new_zeros(*self.anchor.shape, self.sources)
        return matrix.index_put_((self.batch, self.row, self.source), self.weight, accumulate=True)

    def describe(self, index: int) -> list[int] | list[list[int]]:
        """What batch row `index` kept, for a record: source indices in order, or the sources of each merged row."""
        mine = self.batch == index
        rows, sources = self.row[mine].tolist(), self.source[mine].tolist()
        groups: list[list[int]] = [[] for _ in range(int(self.counts[index]))]
        for row, source in zip(rows, sources, strict=True):
            groups[row].append(source)
        return [g[0] for g in groups] if self.is_selection else [sorted(g) for g in groups]


# ----------------------------------------------------------------------------------------------------------- tokenizers


@dataclass(frozen=True)
class Codes:
    """An encoded picture: its bit stream and what it costs.

    `bits` counts everything that a decoder needs, headers included; `tokens` is None for codecs that have none;
    `infeasible` says that the budget could not be reached and the lowest rate was used instead; `setting` is what a
    search for the rate settled on.
    """

    stream: bytes
    suffix: str
    bits: int
    tokens: int | None = None
    infeasible: bool = False
    setting: int | None = None


@runtime_checkable
class Tokenizer(Protocol):
    """A picture to codes and back, within a budget; the class is decorated with `@tokenizer`."""

    def encode(self, image: Image, budget: Budget, memo: Memo) -> Codes:
        """The best codes of an RGB picture within `budget`. `memo` is shared by the cells of one picture."""

    def decode(self, codes: Codes) -> Image:
        """The RGB picture, of the size that was encoded."""


@runtime_checkable
class RateSearch(Protocol):
    """A tokenizer that tries several settings to meet a budget; its latency is that of the setting it settles on."""

    def repeat(self, image: Image, codes: Codes) -> Codes:
        """Encode again at `codes.setting`, without the search."""
