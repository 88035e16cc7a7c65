"""What a budget means for one compressor on one model: its cuts, and the visual tokens at every LLM layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from math import ceil

from .contracts import PLACES, Budget, Compressor, Convention, ModelShape, Refusal, Stage

Place = tuple[int, int]
"""The number of an image, and how many its sample has."""


@dataclass(frozen=True)
class Schedule:
    """The cuts of one cell and the counts that they promise for one image; the ledger says what was executed.

    Attributes:
        stages: cuts in the order in which tokens meet them; empty where nothing is cut.
        layers: visual tokens of one image at the input of every LLM layer.
        shape: of the model, with the image's grid.
        anew: makes the same cell's schedule for another shape, and another number of so many images.
        shared: the budget is one of all images of a clip, and this is a nominal image's share.
    """

    stages: tuple[Stage, ...]
    layers: tuple[int, ...]
    shape: ModelShape
    anew: Callable[[ModelShape, Place | None], Schedule] = field(compare=False, repr=False)
    shared: bool = False

    def over(self, grids: Sequence[tuple[int, int]], *, clip: bool | None = None) -> list[Schedule]:
        """The same cell's schedules for all images of one sample, of these grids.

        Args:
            clip: whether they are shown as a clip; default as the schedule's own shape has it.

        Raises:
            Refusal: such images cannot be cut that way.
        """
        shape = self.shape.of_clips() if clip and not self.shape.clip else self.shape
        return [self._on(shape.at(grid), (i, len(grids))) for i, grid in enumerate(grids)]

    def _on(self, shape: ModelShape, place: Place) -> Schedule:
        if self.shared:
            return self._anew(shape, place)
        same = (shape.grid, shape.clip) == (self.shape.grid, self.shape.clip)
        return self if same else self._anew(shape, None)

    @cached_property
    def _anew(self) -> Callable[[ModelShape, Place | None], Schedule]:
        return cache(self.anew)

    @property
    def full(self) -> int:
        """Visual tokens of one image without a method."""
        return self.shape.tokens

    @property
    def seen(self) -> tuple[int, int]:
        """Rows and columns of visual tokens at which the image is encoded."""
        return next((s.grid for s in self.stages if s.grid), self.shape.grid)

    @property
    def entering(self) -> int:
        """Visual tokens that enter the LLM."""
        return self.layers[0]

    @property
    def mean(self) -> float:
        """Visual tokens averaged over LLM layer inputs."""
        return sum(self.layers) / len(self.layers)

    @property
    def unmerges(self) -> bool:
        """Does the LLM attend as if its tokens stood at the places of all patches?"""
        return any(stage.place == "attention" for stage in self.stages)

    @property
    def after_cut(self) -> int:
        """Visual tokens after the last cut, which is what most papers print."""
        return self.layers[-1]

    def count(self, convention: Convention) -> float:
        """The count that a budget of this convention speaks of."""
        return {"mean": self.mean, "entering": float(self.entering), "after_cut": float(self.after_cut)}[convention]


def untouched(shape: ModelShape, _: Place | None = None) -> Schedule:
    """Every token at every layer."""
    return Schedule((), (shape.tokens,) * shape.llm_layers, shape, untouched)


def lay_out(stages: tuple[Stage, ...], shape: ModelShape, _: Place | None = None) -> Schedule:
    """The counts that stages promise.

    Raises:
        Refusal: a cut that adds tokens, lies at a layer that the model lacks, or stands in front of an earlier one.
    """
    count, layers = shape.tokens, [shape.tokens] * shape.llm_layers
    projected, met = False, (-1, -1)
    for stage in stages:
        if stage.features and projected:
            raise Refusal("cuts what goes into the projector after what has come out of it")
        projected = projected or (stage.place == "projector" and not stage.features)
        depth = {"encoder": shape.feature_layers or shape.vision_layers, "decoder": shape.llm_layers}.get(
            stage.place, 1
        )
        layer = stage.layer or 0
        if not 0 <= layer < depth or (stage.place == "decoder" and layer == 0):
            first = 1 if stage.place == "decoder" else 0
            raise Refusal(f"cuts at {stage.place} layer {layer}; this model has layers {first} to {depth - 1} for that")
        here = (PLACES.index(stage.place), layer)
        if here < met or (here == met and stage.layer is not None):
            raise Refusal(
                f"cuts at {stage.place} layer {layer} twice, or out of the order in which tokens meet the cuts"
            )
        met = here
        if stage.keep > count:
            raise Refusal(f"asks for {stage.keep} of {count} tokens at {stage.place} layer {layer}")
        if stage.place == "attention" and (stage.keep != count or {"pixel", "decoder"} & {s.place for s in stages}):
            raise Refusal(
                f"unmerges {stage.keep} of {count} tokens; it must be all of them, with no cut at the places pixel and "
                "decoder"
            )
        if stage.masks and stage.place != "decoder":
            raise Refusal(f"masks tokens at {stage.place}; that is for cuts inside the LLM")
        if stage.held and (stage != stages[-1] or "pixel" in {s.place for s in stages} or stage.place == "decoder"):
            raise Refusal("stands tokens at several places at once; that is for the last cut, in front of the LLM")
        count = stage.keep
        start = layer if stage.place == "decoder" else 0
        if not stage.masks:
            layers[start:] = [count] * (shape.llm_layers - start)
    if layers[0] < 1:
        raise Refusal("would let no visual token into the LLM")
    return Schedule(stages, tuple(layers), shape, partial(lay_out, stages))


def resolve(
    method: Compressor, budget: Budget, convention: Convention, shape: ModelShape, place: Place | None = None, *,
    merges: bool,
) -> Schedule:  # fmt: skip
    """The schedule that spends as much of the budget as the method can, and not more.

    A merging method is bypassed at the full budget. Where counts vary, one that an image does not have means all of it.
    Of a clip's budget, an image of unknown clips is given half of its tokens at most, so that its cuts are known.
    `method.stages` is asked for counts of the authors' own kind (`after_cut`); the other conventions are solved for by
    bisection, counts being monotone.

    Raises:
        Refusal: the budget is below what the method can reach, with the smallest reachable; the convention counts what
            the method does not change; or the method's own.
    """
    shared = budget.unit == "clip"
    number, images = place or (0, min(int(budget.value), ceil(2 * budget.value / shape.tokens)))
    wanted = budget.share(number, images).tokens(shape.tokens, capped=shape.varies or shared)
    anew = partial(resolve, method, budget, convention, merges=merges)
    if merges and wanted == shape.tokens:
        return replace(untouched(shape), anew=anew, shared=shared)

    def at(keep: int) -> Schedule:
        return lay_out(tuple(method.stages(keep, shape)), shape)

    low = 0
    try:
        smallest = at(0)
    except Refusal:
        low, smallest = 1, at(1)
    if smallest.count(convention) > wanted:
        least = smallest.count(convention)
        raise Refusal(
            f"budget {budget.text} ({wanted} of {shape.tokens} tokens) cannot be reached under the convention "
            f"{convention}; the smallest reachable is {least:g} ({100 * least / shape.tokens:.4g}%)"
        )
    if smallest.count(convention) == at(shape.tokens).count(convention) != wanted:
        raise Refusal(
            f"whatever is kept, {smallest.count(convention):g} tokens are counted under the convention {convention}; "
            f"take another --budget-convention, such as mean"
        )
    high = shape.tokens
    best = smallest
    while low <= high:
        keep = (low + high) // 2
        tried = at(keep)
        if tried.count(convention) <= wanted:
            best, low = tried, keep + 1
        else:
            high = keep - 1
    return replace(best, anew=anew, shared=shared)


@dataclass(frozen=True)
class Cut:
    """One cut of a batch, by image; an image that it has no stage for passes it by.

    The stages have the same place, layer and reads, and differ in `keep` and `grid`.
    """

    stages: Mapping[int, Stage]

    @property
    def stage(self) -> Stage:
        """One of the stages, for what they have in common."""
        return next(iter(self.stages.values()))


def cuts(schedules: Sequence[Schedule]) -> list[Cut]:
    """What the schedules of a batch's images have in common, in the order in which tokens meet the cuts.

    Raises:
        Refusal: at one place, the method reads other signals of one image than of another.
    """
    found: dict[tuple[int, int, bool, int], dict[int, Stage]] = {}
    for image, schedule in enumerate(schedules):
        for stage in schedule.stages:
            place = (PLACES.index(stage.place), stage.layer or 0, not stage.features)
            number = 0
            while image in found.setdefault((*place, number), {}):
                number += 1
            found[(*place, number)][image] = stage
    made = [Cut(found[key]) for key in sorted(found)]
    for cut in made:
        if len({replace(stage, keep=0, grid=None) for stage in cut.stages.values()}) > 1:
            raise Refusal("reads other signals of one picture than of another")
    return made
