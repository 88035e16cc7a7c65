"""What methods may read and where they may act, by family: known without torch, so that a list is there at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

CLIP = frozenset({"clip_patches", "clip_text"})
"""Signals of a text encoder, a checkpoint of its own."""

CLASS = frozenset({"class_attention", "class_query", "class_token"})
"""Signals of towers with a class token."""

TOWER = frozenset({"class_attention", "class_query", "keys", "received_attention"})
"""Signals of single vision layers, named `signal@layer`."""

LAST_LAYER = frozenset({"last_attention", "text_attention", "keys", "text_keys", "prompt_queries", "prompt_keys"})
"""Signals of the LLM layer before a cut that its attention has to be tapped for."""

NEXT_LAYER = frozenset({"next_last_attention", "next_text_attention", "next_visual_attention", "next_keys"})
"""Signals of the LLM layer behind a cut, which is asked before the cut."""

READABLE: Mapping[str, frozenset[str]] = {
    "pixel": frozenset(),
    "encoder": frozenset({"keys"}),
    "projector": TOWER | CLASS | CLIP | {"features", "text_embeddings", "evidence"},
    "decoder": LAST_LAYER | NEXT_LAYER | {"normed", "text_normed", "entering", "text_embeddings", "places", "visible"},
}
"""Signals that are at hand at each place, without the `@layer` behind them."""

TOKEN_AXIS: Mapping[str, int | None] = {
    "class_attention": -1, "received_attention": -1, "evidence": -1, "keys": -2, "features": -2, "clip_patches": -2,
    "class_query": None, "last_attention": -1, "text_attention": -1, "normed": -2, "next_last_attention": -1,
    "next_text_attention": -1, "next_visual_attention": -1, "next_keys": -2, "entering": -2, "text_keys": None,
    "text_normed": None, "text_embeddings": None, "clip_text": None, "prompt_queries": None, "prompt_keys": None,
    "places": -1, "visible": None,
}  # fmt: skip
"""Along which axis a signal of several images of a sample is joined; None where it has no entry per token."""


def kind(name: str) -> str:
    """A signal's name without its layer."""
    return name.partition("@")[0]


@dataclass(frozen=True)
class FamilyInfo:
    """What a family serves for one configuration: known without weights.

    Attributes:
        signals: names without the `@layer` behind them; `tower`: those of them that single vision layers have.
        uneven: a picture is shown in crops of different sizes.
        clips: what is served on clips, where they are shown as such; None where their frames are shown as pictures.
        several_places: a token may stand at several places of the prompt at once (PPE).
    """

    name: str
    places: frozenset[str]
    signals: frozenset[str]
    tower: frozenset[str]
    uneven: bool = False
    clips: FamilyInfo | None = None
    several_places: bool = True

    def on(self, clip: bool) -> FamilyInfo:
        """What is served on clips, or on pictures."""
        return self.clips if clip and self.clips else self

    def serves(self, meta: Mapping[str, Any]) -> bool:
        """Is a compressor, whose decorator says `meta`, served? Those of frames need images of one size."""
        fits = not (meta["frames"] and self.uneven) and (self.several_places or not meta["operator"])
        return fits and not self.lacking(meta["places"], meta["needs"])

    def lacking(self, places: Sequence[str], needs: Sequence[str]) -> list[str]:
        """Those of a method's places and signals that the family does not serve."""
        missing = [f"the place {place}" for place in places if place not in self.places]
        for need in needs:
            options = need.split("|")
            if not need.endswith("?") and not any(self._reads(option) for option in options):
                missing.append(f"the signal {options[0]}")
        return missing

    def _reads(self, option: str) -> bool:
        name, _, layer = option.partition("@")
        return name in (self.tower if layer else self.signals)

    @property
    def readable(self) -> frozenset[str]:
        """Signals as `ModelShape.signals` has them."""
        return self.signals | {f"{name}@" for name in self.tower}


def reading_tower(
    name: str, *, class_token: bool = True, clip: bool = True, merging: bool = True, llm: bool = True
) -> FamilyInfo:
    """A family whose patches are its visual tokens, so that all that its tower knows of them can be read.

    Args:
        clip: the tower is CLIP's, and its projection takes the features that the LLM gets.
        merging: fewer tokens may come out of the tower.
        llm: its layers can be cut between.
    """
    places, signals = {"pixel", "projector"}, READABLE["encoder"] | READABLE["projector"]
    if merging:
        places.add("encoder")
    if llm:
        places |= {"decoder", "attention"}
        signals |= READABLE["decoder"]
    signals -= (frozenset() if class_token else CLASS) | (frozenset() if clip else CLIP)
    return FamilyInfo(name, frozenset(places), signals, signals & TOWER)


def joining_patches(name: str, *tower: str, llm: bool = True) -> FamilyInfo:
    """A family whose tower joins several patches into one visual token: of it the signals `tower` alone can be read, as
    means over a token's patches."""
    places, signals = {"pixel", "projector"}, (READABLE["projector"] - TOWER - CLASS - CLIP) | {*tower}
    if llm:
        places.add("decoder")
        signals |= READABLE["decoder"]
    return FamilyInfo(name, frozenset(places), frozenset(signals), frozenset(tower))


def in_crops(info: FamilyInfo) -> FamilyInfo:
    """The same for a family that joins crops of different sizes, which must come out of the tower whole."""
    return replace(info, places=info.places - {"encoder", "attention"}, uneven=True)


def single_crops(info: FamilyInfo) -> FamilyInfo:
    """The same for what such a family shows in one crop, a frame of a clip."""
    return replace(info, uneven=False)


def with_clips(info: FamilyInfo, clips: FamilyInfo | None = None) -> FamilyInfo:
    """The same for a family that shows clips as such, and serves the same on them unless said otherwise."""
    return replace(info, clips=clips or info)


def two_towers(info: FamilyInfo) -> FamilyInfo:
    """The same for Video-LLaVA, whose towers come from no CLIP, and among whose visual tokens of a clip stand others
    that show no patch, so that none is unmerged to places."""
    pictures = replace(info, signals=info.signals - CLIP)
    return with_clips(pictures, replace(pictures, places=pictures.places - {"attention"}))


def interleaved(info: FamilyInfo) -> FamilyInfo:
    """The same for an LLM whose rotary channels of rows and columns alternate, so that they form no bands."""
    return replace(info, several_places=False, clips=info.clips and interleaved(info.clips))


def _cropped(name: str, *, class_token: bool = True, clip: bool = True) -> FamilyInfo:
    pictures = in_crops(reading_tower(name, class_token=class_token, clip=clip))
    return with_clips(pictures, single_crops(pictures))


ORDINARY: Mapping[str, FamilyInfo] = {
    "internvl": with_clips(joining_patches("internvl", "class_attention", "keys", "received_attention")),
    "llava": reading_tower("llava"),
    "llava_next": in_crops(reading_tower("llava_next")),
    "llava_next_video": _cropped("llava_next_video"),
    "llava_onevision": _cropped("llava_onevision", class_token=False, clip=False),
    "qwen2_5_vl": with_clips(joining_patches("qwen2_5_vl", "keys", "received_attention")),
    "qwen3_vl": interleaved(with_clips(joining_patches("qwen3_vl", "keys", "received_attention"))),
    "video_llava": two_towers(reading_tower("video_llava")),
}
"""What the published checkpoints of every family serve; a test holds it against their configurations."""
