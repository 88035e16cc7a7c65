"""FLOPs of vision towers and projectors from a configuration, as `closed_form.py` counts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..contracts import Refusal, Stage
from ..schedule import Schedule

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CLASS_TOKENS = {
    "clip_vision_model": 1, "siglip_vision_model": 0, "internvl_vision": 1, "qwen2_5_vl_vision": 0,
    "qwen3_vl_vision": 0,
}  # fmt: skip
"""Vision towers that the formulas cover, and their tokens beside the patches."""
TILED = frozenset({"llava_next", "llava_next_video", "llava_onevision"})
"""Models, by `model_type`, whose crops have margins that are encoded and then cut away."""
POOLED = {"llava_next_video": False, "llava_onevision": True}
"""Models that pool 2 x 2 patches of a clip's frame to one visual token, and whether behind the projector; pooling is no
matrix product."""
_QWEN = frozenset({"qwen2_5_vl_vision", "qwen3_vl_vision"})


@dataclass(frozen=True)
class Tower:
    """The dimensions of a vision tower, read once, since attributes of a configuration are slow.

    Attributes:
        patch: numbers that a patch is embedded from.
        merge: patches along a side of a visual token.
        extra: tokens beside the patches.
        matrices: of the MLP, three where it is gated.
        window: side, in visual tokens, of the windows that layers but `whole` attend in; 0 where all are whole.
        raster: rows and columns of patches that every crop is encoded at, margins included; None where they are those
            of its grid.
        pools: SigLIP's pooling head is there, of no use to a VLM, but the model computes it.
        frame: patches along a side of a clip's visual token, which are pooled behind the projector if `late`.
        enters: the class token of a clip's frame goes through the projector as well, unless tokens have been taken.
        beside: widths that mergers beside the projector put out, for Qwen3-VL's deepstack; each joins the patches of
            all visual tokens, whatever is cut behind the tower.
    """

    depth: int
    width: int
    heads: int
    mlp: int
    patch: int
    merge: int
    extra: int
    matrices: int = 2
    window: int = 0
    whole: frozenset[int] = frozenset()
    raster: tuple[int, int] | None = None
    pools: bool = False
    beside: tuple[int, ...] = ()
    frame: int = 1
    late: bool = False
    enters: bool = False

    @classmethod
    def of(cls, config: PretrainedConfig) -> Tower:
        """Raises Refusal for a vision tower that the formulas do not cover."""
        vision = config.vision_config
        if (kind := vision.model_type) not in CLASS_TOKENS:
            raise Refusal(f"the cost of a vision tower of type {kind} cannot be counted yet")
        sizes = (vision.num_hidden_layers, vision.hidden_size, vision.num_attention_heads, vision.intermediate_size)
        if kind in _QWEN:
            merge = vision.spatial_merge_size
            qwen = (vision.in_channels * vision.temporal_patch_size * vision.patch_size**2, merge, CLASS_TOKENS[kind])
            if kind == "qwen3_vl_vision":
                return cls(*sizes, *qwen, beside=(vision.out_hidden_size,) * len(vision.deepstack_visual_indexes))
            window = vision.window_size // merge // vision.patch_size
            return cls(*sizes, *qwen, 3, window, frozenset(vision.fullatt_block_indexes))
        sides = vision.patch_size if isinstance(vision.patch_size, list | tuple) else [vision.patch_size] * 2
        merge = round(1 / config.downsample_ratio) if kind == "internvl_vision" else 1
        side = vision.image_size // sides[0] if config.model_type in TILED else 0
        return cls(
            *sizes, vision.num_channels * sides[0] * sides[1], merge, CLASS_TOKENS[kind],
            raster=(side, side) if side else None, pools=bool(getattr(vision, "vision_use_head", False)),
            frame=2 if config.model_type in POOLED else 1, late=POOLED.get(config.model_type, False),
            enters=config.model_type == "video_llava",
        )  # fmt: skip

    def grid(self, schedule: Schedule) -> tuple[int, int]:
        """Rows and columns of patches that are encoded of one image."""
        if self.raster and not any(stage.place == "pixel" for stage in schedule.stages):
            return self.raster
        side = self.merge * (self.frame if schedule.shape.clip else 1)
        return schedule.seen[0] * side, schedule.seen[1] * side

    def tokens(self, schedule: Schedule) -> list[tuple[int, int]]:
        """Tokens of one image that every layer's attention and MLP compute on, extra ones included: a cut lies between
        them."""
        rows, columns = self.grid(schedule)
        tokens, cuts, found = rows * columns + self.extra, encoder_stages(schedule), []
        for layer in range(self.depth):
            left = cuts[layer].keep + self.extra if layer in cuts else tokens
            found.append((tokens, left))
            tokens = left
        return found

    def handed_on(self, schedule: Schedule) -> int:
        """Rows of one image that pass the projector, where no cut comes before it."""
        if self.raster and (self.late or not schedule.shape.clip):
            rows, columns = self.grid(schedule)
            return rows * columns
        return features(schedule)

    def segments(self, schedule: Schedule, layer: int) -> list[int]:
        """Tokens that see each other in a layer's attention: all of one image, or those of each window."""
        if not self.window or layer % self.depth in self.whole:
            return [self.tokens(schedule)[layer][0]]
        rows, columns = (_windows(side, self.window) for side in schedule.seen)
        return [high * wide * self.merge**2 for high in rows for wide in columns]

    def layers(self, schedule: Schedule) -> list[int]:
        """FLOPs for one image: of the patch embedding, every layer, and the pooling head or the mergers beside."""
        rows, columns = self.grid(schedule)
        counts = self.tokens(schedule)
        found = [2 * rows * columns * self.patch * self.width]
        for layer, (tokens, left) in enumerate(counts):
            pairs = sum(n * n for n in self.segments(schedule, layer))
            attention = 8 * tokens * self.width**2 + 4 * pairs * self.width
            found.append(attention + 2 * self.matrices * left * self.width * self.mlp)
        if self.pools:  # one query attends to all tokens, then an MLP on the result
            tokens = counts[-1][1]
            found.append(4 * (tokens + 1) * self.width**2 + 4 * tokens * self.width + 4 * self.width * self.mlp)
        units, joined = rows * columns // self.merge**2, self.width * self.merge**2
        return found + [2 * units * joined * (joined + out) for out in self.beside]

    def attention(self, schedule: Schedule, layer: int, *, every: bool) -> int:
        """FLOPs of attention weights of one image: every row, or that of the class token."""
        return 2 * self.width * sum(n * n if every else n for n in self.segments(schedule, layer))


def _windows(side: int, window: int) -> list[int]:
    return [window] * (side // window) + [side % window] * (side % window > 0)


def encoder_stages(schedule: Schedule) -> dict[int, Stage]:
    """The cuts inside the vision tower, by layer."""
    return {stage.layer: stage for stage in schedule.stages if stage.place == "encoder" and stage.layer is not None}


def features(schedule: Schedule) -> int:
    """Visual tokens of one image that the vision tower hands on."""
    before = [s.keep for s in schedule.stages if s.place in ("pixel", "encoder")]
    return before[-1] if before else schedule.full


def feature_width(config: PretrainedConfig) -> int:
    """Width of what goes into the projector for one visual token."""
    tower = Tower.of(config)
    chosen = getattr(config, "vision_feature_layer", -1)
    return tower.width * tower.merge**2 * (1 if isinstance(chosen, int) else len(chosen))


def projector_flops(config: PretrainedConfig, tokens: int) -> int:
    """The two-layer projector on that many rows; Qwen's inner layer is as wide as its input."""
    width, out = feature_width(config), int(config.get_text_config().hidden_size)
    inner = width if config.vision_config.model_type in _QWEN else out
    return 2 * tokens * (width * inner + inner * out)
