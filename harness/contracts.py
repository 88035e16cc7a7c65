"""The nouns that methods, tasks, metrics and the engine share."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from .reduction import Reduction as Reduction

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

T = TypeVar("T")

Place = Literal["pixel", "encoder", "projector", "decoder", "attention"]
PLACES: tuple[Place, ...] = ("pixel", "encoder", "projector", "decoder", "attention")
Convention = Literal["mean", "entering", "after_cut"]
CONVENTIONS: tuple[Convention, ...] = ("mean", "entering", "after_cut")
Unit = Literal["tokens", "percent", "bpp", "clip"]


class UserError(Exception):
    """A mistake that the user can mend: one sentence, shown without a traceback, exit code 2."""


class Refusal(Exception):
    """Why a combination of method, budget, model and task cannot run; the plan lists it and goes on."""


# --------------------------------------------------------------------------------------------------------------- budget


@dataclass(frozen=True)
class Budget:
    """What a method may spend: `64` tokens per image (per frame for video), `25%` of the full count, `0.5bpp`, or
    `512/clip`, tokens of all frames of a clip together."""

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
            raise UserError(f"Budget {typed!r} is not a number: write 64 (tokens), 512/clip, 25% or 0.5bpp.")
        if value <= 0:
            raise UserError(f"Budget {typed!r} is not above 0: write 64 (tokens), 25% or 0.5bpp.")
        if unit in ("tokens", "clip") and value != int(value):
            raise UserError(f"Budget {typed!r} is a fraction of a token: write a whole number, 25% or 0.5bpp.")
        if unit == "percent" and value > 100:
            raise UserError(f"Budget {typed!r} is above the full count: write at most 100%.")
        if unit == "bpp" and value > 24:
            raise UserError(f"Budget {typed!r} is above the 24 bits of an uncompressed pixel: write less.")
        return cls(value, unit, typed)

    def share(self, number: int, images: int) -> Budget:
        """What image `number` of a clip gets of its budget: equal shares, the first images a token more.

        Any other budget is each image's own.

        Raises:
            Refusal: there are more images than tokens.
        """
        if self.unit != "clip":
            return self
        count, rest = divmod(int(self.value), images)
        if count < 1:
            raise Refusal(
                f"budget {self.text} is less than one token for each of {images} images: the smallest is {images}/clip"
            )
        return Budget(count + (number < rest), "tokens", self.text)

    def tokens(self, full: int, *, capped: bool = False) -> int:
        """The number of tokens that this budget means where `full` are at hand.

        Args:
            capped: a count above the full one means all of it.

        Raises:
            Refusal: bits per pixel, above the full count, or a share that rounds to no token at all.
        """
        if self.unit == "bpp":
            raise Refusal(
                f"budget {self.text} counts bits per pixel, and a compressor counts tokens: write {full} or 25%"
            )
        if self.unit == "clip":
            raise Refusal(f"budget {self.text} is for all frames of a clip: write {full} or 25%")
        count = int(self.value) if self.unit == "tokens" else round(full * self.value / 100)
        if count > full and capped:
            return full
        if count > full:
            raise Refusal(f"budget {self.text} is above the full count of {full} tokens")
        if count < 1:
            raise Refusal(f"budget {self.text} of {full} tokens is less than one token")
        return count


def _split_unit(typed: str) -> tuple[str, Unit]:
    lowered = typed.lower()
    if lowered.endswith("bpp"):
        return lowered[:-3], "bpp"
    if lowered.endswith("/clip"):
        return lowered[:-5], "clip"
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
    question answering a region is evidence: a box that holds what the answer rests on. `longest` is the length of the
    longest transcript in the batch that a recogniser is told the word's with, 0 where that batch is left out.
    """

    box: tuple[float, float, float, float]
    text: str | None = None
    points: tuple[tuple[float, float], ...] = ()
    slices: Mapping[str, str] = field(default_factory=dict)
    image: int = 0
    longest: int | None = None


class Framing(Protocol):
    """How a tokenizer is shown a picture where not as it is, and how what comes back becomes what is scored."""

    def show(self, image: Image) -> Image:
        """What the tokenizer is given of an RGB picture."""

    def restore(self, shown: Image, image: Image) -> Image:
        """What is scored, of the size of `image`, from what the tokenizer made of `show(image)`."""


@dataclass(frozen=True)
class Turn:
    """One message of a prompt: of `content`, a text is itself and None stands for the sample's next picture, or for its
    clip."""

    role: str
    content: tuple[str | None, ...]


@dataclass(frozen=True)
class Generation:
    """How an answer is written, where a task prescribes it: greedily, with at most `max_new_tokens`.

    With `tokenizer_end` it ends at the tokenizer's end token alone, whatever others the checkpoint's settings name.
    """

    max_new_tokens: int
    tokenizer_end: bool = False


@dataclass(frozen=True)
class Footage:
    """What the frames of a clip were taken from.

    Attributes:
        numbers: of the frames, in the file.
        count: how many frames they were chosen from.
        rate: frames of the file in a second.
        fitted: they have the size that the model is to see, and no processor resizes them.
    """

    numbers: tuple[int, ...]
    count: int
    rate: float
    fitted: bool = False


@dataclass(frozen=True)
class Sample:
    """One item of a task.

    Attributes:
        id: unique in its task, stable between runs.
        cluster_id: shared by samples that come from one picture or clip; intervals resample clusters.
        images: loaders of the pictures (RGB). A loader that raises makes the sample a bad input, in every cell alike.
        clip: the images are the frames of one clip, in order and of one size.
        footage: where those frames stand in a file; None where nothing is known of their time.
        fingerprint: digest of everything that determines the sample; a stored record counts only while it is equal.
        question, answers: for question answering; any of the answers is right.
        regions: words or faces that a metric looks at.
        slices: groups that the whole sample counts in.
        stratum: the group that a stratified subset balances.
        turns: the whole prompt, where it is not the pictures in front of the question.
        generation: how the answer is written; None leaves it to the sweep.
        framing: how a tokenizer is shown the picture, where not as it is.
        protocol: what the data bring to the protocol of every metric: revision, framing, bins; the same in all samples.
        opens: makes the same sample with its pictures and prompt, where finding them means decoding; called once, and
            what it raises makes the sample a bad input.
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
    turns: tuple[Turn, ...] = ()
    generation: Generation | None = None
    framing: Framing | None = None
    protocol: str = ""
    opens: Callable[[], Sample] | None = None
    clip: bool = False
    footage: Footage | None = None


class Task(Protocol):
    """A function, decorated with `@task`, that lists the samples of its own data or of a user's folder."""

    def __call__(self, folder: Path | None) -> Iterable[Sample]: ...


@dataclass(frozen=True)
class Listed:
    """A sample of a borrowed task as far as a subset is chosen by it."""

    id: str
    stratum: str = ""


@runtime_checkable
class BorrowedTask(Protocol):
    """A task of another harness, opened for one family of models, with that harness's prompts and scores.

    `revision` is JSON-ready and says everything about the task that determines a prediction; `pixels` are limits of a
    picture's size, the user's or those that the other harness sets for families that see pictures at their own
    resolution.
    """

    metrics: tuple[BorrowedMetric, ...]
    revision: object
    pixels: tuple[int, int] | None

    def listed(self) -> Sequence[Listed]:
        """All samples, in that harness's order."""

    def samples(self, ids: Iterable[str]) -> tuple[Sample, ...]:
        """The samples of these ids."""


def picture_limits(least: int | None, most: int | None, theirs: tuple[int, int] | None) -> tuple[int, int] | None:
    """Limits of a picture's size: the user's, else those of the harness that a task comes from.

    Raises:
        UserError: limits that leave no size.
    """
    if least is None and most is None:
        return theirs
    lower, upper = theirs or (1, 1 << 40)
    least, most = least or lower, most or upper
    if least > most:
        raise UserError(f"--min-pixels {least} is above --max-pixels {most}.")
    return least, most


@dataclass(frozen=True)
class GroupFigure:
    """The figure of a group: the mean, `weighted` by its tasks' sizes or not, of metrics whose name holds `metric`."""

    name: str
    members: tuple[str, ...]
    metric: str
    weighted: bool


class TaskCollection(Protocol):
    """Tasks of another harness, named `collection:task`; a class decorated with `@collection`, built anew per sweep."""

    def expand(self, name: str, include: Sequence[str], *, copied: bool) -> tuple[str, ...]:
        """The tasks that a name stands for: itself, or those of a group. Loads nothing heavy.

        Args:
            include: folders with tasks of the user's own.
            copied: the user gives the data.

        Raises:
            UserError: an unknown name, a task that is not ours to run (with the reason), or one whose data cannot be
                fetched as things are.
        """

    def figures(self, name: str, include: Sequence[str]) -> tuple[GroupFigure, ...]:
        """What a name has as a group; names of tasks are those of the collection."""

    def family(self, name: str, include: Sequence[str]) -> str:
        """`vqa` or `video_qa`, without loading anything heavy."""

    def open(
        self, name: str, *, family: str, include: Sequence[str], folder: Path | None,
        pixels: tuple[int | None, int | None] = (None, None),
    ) -> BorrowedTask:  # fmt: skip
        """Load a task as models of a family are asked it.

        Args:
            folder: a local copy of its data.
            pixels: the user's limits of a picture's size; None leaves one to that harness.

        Raises:
            UserError: its data cannot be had, it is not ours to run, or the limits leave no size.
        """

    def rows(self) -> Iterable[Mapping[str, object]]:
        """What `toksweep list tasks` shows, a row per name."""


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
    """What a cell produced for a sample: a picture, the frames of a clip, or an answer with what was left of the
    evidence for it."""

    image: Image | None = None
    frames: tuple[Image, ...] = ()
    text: str | None = None
    evidence: tuple[Survival, ...] = ()

    def picture(self, number: int) -> Image:
        """The picture, or of a clip the frame of that number.

        Raises:
            ValueError: there is none.
        """
        shown = self.frames or (self.image,)
        found = shown[number] if number < len(shown) else None
        if found is None:
            raise ValueError(f"there is no picture {number}")
        return found


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


@runtime_checkable
class BorrowedMetric(Metric, Protocol):
    """A metric of another harness: per-sample scores, and its own figure of a set of them.

    Attributes:
        aggregation: how the figure of a set is made of what `values` gave; None where it is the mean of the items. Read
            by `results.aggregation`.
        whole_set: the figure is defined on the whole set only (a sum, a fixed denominator).
        code: digest of everything that determines a score.
    """

    aggregation: str | None
    whole_set: bool
    code: str

    def values(self, text: str | None, sample: Sample, memo: Memo) -> tuple[object, ...]:
        """What the aggregation takes of one answer, JSON-ready; none where the metric does not apply. A `text` of None
        is the answer of a sample whose method failed."""

    def failed(self, sample: Sample, memo: Memo) -> list[Item]:
        """The items of a sample whose method failed: `worst` each."""


@runtime_checkable
class SetMetric(Metric, Protocol):
    """A metric that has one figure of a set of pictures, and no items: it takes features of each.

    Attributes:
        aggregation: `set NAME`, how the figure is made of the features of outputs and originals (see `results.sets`).
        space: names the features and all that determines them; what metrics of one space share is kept once.
    """

    aggregation: str
    space: str

    def features(self, output: Output, sample: Sample, memo: Memo) -> NDArray[np.float32]:
        """[pictures, numbers] of an output's picture, or of its frames."""


# ---------------------------------------------------------------------------------------------------------- compressors


@dataclass(frozen=True)
class ModelShape:
    """What a method may know about a model before it has seen a picture.

    `grid` is rows and columns of visual tokens of one image at the LLM's door, `tokens` their number;
    `feature_layers` counts the vision layers that the LLM's features have passed (None: all of them), since merging in
    a later one changes nothing. With `crops` a picture is several images to the model: the whole first, then its parts,
    row by row. Where `varies`, every picture has a grid of its own, methods are told the shape with that grid, and the
    model's own shape has a nominal one. `frame` is the grid of one image of a clip, a frame or as many as the model
    joins, None where it shows the frames of a clip as separate pictures; with `clip` the shape is that of clips.
    `signals` are names of what the family lets methods read, `keys@` for one of single vision layers; None means all.
    """

    family: str
    tokens: int
    grid: tuple[int, int]
    vision_layers: int
    llm_layers: int
    class_token: bool
    feature_layers: int | None = None
    crops: bool = False
    varies: bool = False
    frame: tuple[int, int] | None = None
    clip: bool = False
    signals: frozenset[str] | None = None

    def served(self, need: str) -> str | None:
        """Of alternatives such as `class_attention@-2|received_attention@-1` the first that can be read, if any.

        A `?` behind them says that the method can do without.
        """
        for option in need.removesuffix("?").split("|"):
            name, layered, _ = option.partition("@")
            if self.signals is None or name + layered in self.signals:
                return option
        return None

    def of_clips(self) -> ModelShape:
        """The same for clips, which are shown without crops: frames vary where pictures do without being cut up."""
        if self.frame is None:
            return self
        return replace(self.at(self.frame), crops=False, varies=self.varies and not self.crops, clip=True)

    def at(self, grid: tuple[int, int]) -> ModelShape:
        """The same for an image of another grid."""
        return self if grid == self.grid else replace(self, grid=grid, tokens=grid[0] * grid[1])

    def scale(self, layer: int, of: int, *, vision: bool = False) -> int:
        """A paper's layer number, given for `of` layers, at this model's depth: max(1, round(l * L / L_ref))."""
        return max(1, round(layer * (self.vision_layers if vision else self.llm_layers) / of))


@dataclass(frozen=True)
class Stage:
    """One cut of a compressor: where, after how many layers, and how many visual tokens of one image are left.

    Attributes:
        place: `pixel` (the picture is encoded at a grid of `keep` tokens; nothing is reduced), `encoder` (inside
            vision layer `layer`, between attention and MLP), `projector` (between projector and LLM), `decoder`
            (before LLM layer `layer`, which is the first to compute on fewer tokens), `attention` (of every LLM layer,
            behind merging in front of it; nothing is reduced: tokens attend, and are attended to, as if each stood at
            the places of all patches that were merged into it, which is DyMU's virtual unmerging).
        keep: tokens of one image that are left after this cut, the class token not counted.
        layer: 0-based.
        reads: signals that `reduce` will look up in its view; see `View`.
        grid: of the smaller picture, at the place `pixel`.
        proportional: in the encoder, later layers add log(size) of every key to their attention logits, so that a token
            that stands for several patches draws as much attention as they did.
        features: at the projector, reduce what goes into the projector instead of what comes out of it.
        joint: one view holds all images of a sample (the frames of a clip, the crops of a picture), and `reduce` is
            asked for what is to be left of all of them together.
        masks: inside the LLM, tokens that are not kept flow on and are counted, but no layer attends to them any more.
        held: of the last cut in front of the LLM: every token stands at so many places of the full prompt at once, of
            patches that were merged into it, whatever position rule the reductions name (PPE).
    """

    place: Place
    keep: int
    layer: int | None = None
    reads: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None
    proportional: bool = False
    features: bool = False
    joint: bool = False
    masks: bool = False
    held: int | None = None


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
        shape: of the model with the grid of these images, as `stages` was told.
        memo: shared by calls that differ in `keep` alone, as the budgets of a sweep do at the first cut behind the
            vision tower: what it holds must depend on nothing else, and must not have drawn noise.

    Signals, by place; L is a vision layer (negative counts from the end), t counts the text tokens behind the last
    image of the prompt, attention is after the softmax and keys are after rotary embedding:

    - encoder: `keys` [batch, heads, n, d] of the current layer.
    - projector: `class_token`; `class_attention@L` [batch, heads, patches] of the class token's row;
      `received_attention@L` [batch, heads, patches], the mean row of all queries, the class token's included; `keys@L`
      [batch, heads, n, d] of all tokens of the tower, a class token first, or where the tower joins patches, of every
      visual token the mean over its patches; `class_query@L` [batch, heads, d];
      `features` [batch, patches, dim] as they go into the projector; `clip_patches` [batch, patches, d] and `clip_text`
      [batch, segments, d] in the space of a text encoder; `text_embeddings` [batch, t, dim] at the LLM's door;
      `evidence` [batch, patches], the share of each patch that the answer's evidence covers, for diagnostic methods.
    - decoder, of the layer before the cut: `last_attention` [batch, heads, n] of the last prompt token's row;
      `text_attention` [batch, heads, t, n]; `keys` [batch, heads, n, d] and `text_keys` [batch, heads, t, d]; `normed`
      [batch, n, dim] and `text_normed` [batch, t, dim], hidden states behind it through the model's final norm;
      `prompt_queries` and `prompt_keys` [batch, heads, length, d] of all tokens of the prompt that are left, after
      rotary embedding; `places` [batch, n], where the view's tokens stand among them, and `visible` [batch, length],
      whether an earlier cut left them to be attended to.
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
        """A signal by name, or the one of several alternatives (`a|b`) that is there."""
        for option in name.split("|"):
            if option in self.signals:
                return self.signals[option]
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


# ----------------------------------------------------------------------------------------------------------- tokenizers


@dataclass(frozen=True)
class Codes:
    """An encoded picture or clip: its bit stream and what it costs.

    Attributes:
        bits: everything that a decoder needs, headers included, in whole bits; of continuous latents at the precision
            that the tokenizer declares.
        tokens: None for codecs, which have none.
        full_tokens: how many there are where the budget is none; None where that is `tokens`.
        infeasible: the budget could not be reached and the lowest rate was used instead.
        setting: what a search for the rate settled on.
        payload: of a network, what its decoder takes beside the stream, or in its place: indices or latents with their
            shapes, the picture's size.
    """

    stream: bytes
    suffix: str
    bits: int
    tokens: int | None = None
    full_tokens: int | None = None
    infeasible: bool = False
    setting: int | None = None
    payload: object = None


@runtime_checkable
class Tokenizer(Protocol):
    """A picture to codes and back, within a budget; the class is decorated with `@tokenizer`."""

    def encode(self, image: Image, budget: Budget, memo: Memo) -> Codes:
        """The best codes of an RGB picture within `budget`. `memo` is shared by the cells of one picture."""

    def decode(self, codes: Codes) -> Image:
        """The RGB picture, of the size that was encoded."""


@runtime_checkable
class ClipTokenizer(Protocol):
    """A tokenizer of whole clips. Of one that is none, a clip is coded frame by frame, `Tokenizer` by name."""

    def encode_clip(self, frames: Sequence[Image], budget: Budget, memo: Memo) -> Codes:
        """The best codes of RGB frames of one size; tokens of a budget are per frame, bits per pixel of all frames."""

    def decode_clip(self, codes: Codes) -> tuple[Image, ...]:
        """As many RGB frames as were encoded, of their size."""


@runtime_checkable
class RateSearch(Protocol):
    """A tokenizer that tries several settings to meet a budget; its latency is that of the setting it settles on."""

    def repeat(self, image: Image, codes: Codes) -> Codes:
        """Encode again at `codes.setting`, without the search."""


@runtime_checkable
class ClipRateSearch(Protocol):
    """The same of a tokenizer of clips."""

    def repeat_clip(self, frames: Sequence[Image], codes: Codes) -> Codes:
        """Encode again at `codes.setting`, without the search."""


class Spent(NamedTuple):
    """FLOPs of one picture or clip, two per multiply-add."""

    encode: float
    decode: float


@runtime_checkable
class LoadedNetwork(Protocol):
    """A tokenizer whose weights are on a device: a `Tokenizer`, a `ClipTokenizer`, or both."""

    def flops(self, size: tuple[int, int], codes: Codes) -> Spent | None:
        """What coding a picture, or every frame of a clip, of this width and height took; None where nobody can count
        it."""


@runtime_checkable
class Network(Protocol):
    """A tokenizer with weights, as the plan knows it: the class is decorated with `@tokenizer(network=True)`, its
    instances are hashable, and building one reads a configuration at most.

    Attributes:
        variable: a budget changes its codes. One of a fixed rate is one cell, whatever the budgets, and is asked for
            100%.
    """

    @property
    def variable(self) -> bool: ...

    def check(self, budget: Budget) -> None:
        """Raises `Refusal` for a budget that it cannot code any picture at."""

    def revision(self) -> str:
        """What its weights are: a digest of local files, or the hub's commit.

        Raises:
            UserError: neither can be had.
        """

    def load(self, device: str, dtype: str) -> LoadedNetwork:
        """The same with its weights on a device.

        Raises:
            UserError: weights that are missing, damaged or of another class.
        """
