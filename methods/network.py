"""What tokenizers with weights share: pictures to tensors and back, padding, tiles, FLOPs, bits, and checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ..harness.checkpoints import Checkpoint, checkpoint, known_to, published
from ..harness.contracts import Budget, Refusal, UserError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import nn

M = TypeVar("M", bound="nn.Module")
Size = tuple[int, int]
"""Width and height in pixels, as Pillow has them."""


# ------------------------------------------------------------------------------------------------------------- pictures


def pixels(image: Image, low: float, device: str, dtype: torch.dtype) -> torch.Tensor:
    """[1, 3, height, width] of a picture, in [low, 1]: networks take -1 or 0 for black."""
    import numpy as np
    import torch

    levels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].to(device)
    return (levels.float() / 255 * (1 - low) + low).to(dtype)


def picture(values: torch.Tensor, low: float) -> Image:
    """The RGB picture of [1, 3, height, width] in [low, 1]: clamped, then rounded to 8 bits.

    Raises:
        ValueError: a value that is no number.
    """
    import torch
    from PIL import Image as Pillow

    levels = (values[0].float() - low) / (1 - low) * 255
    if not torch.isfinite(levels).all():
        raise ValueError("the network's picture has values that are no numbers: try another dtype")
    return Pillow.fromarray(levels.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def padded(values: torch.Tensor, unit: Size) -> torch.Tensor:
    """[..., height, width] grown to the right and downwards to whole units by repeating the last column and row.

    Networks drop what is no whole unit without a word.
    """
    for axis, side in ((-1, unit[0]), (-2, unit[1])):
        short = -values.shape[axis] % side
        if short:
            import torch

            last = values.narrow(axis, values.shape[axis] - 1, 1)
            values = torch.cat([values, last.repeat_interleave(short, dim=axis)], dim=axis)
    return values


def cropped(values: torch.Tensor, size: Size) -> torch.Tensor:
    """[..., height, width] cut back to what it was before it was padded.

    Raises:
        ValueError: it is smaller than that.
    """
    width, height = size
    if values.shape[-1] < width or values.shape[-2] < height:
        raise ValueError(f"decoded {values.shape[-1]}x{values.shape[-2]} pixels of {width}x{height}")
    return values[..., :height, :width]


def tiles(values: torch.Tensor, side: int) -> torch.Tensor:
    """[1, 3, height, width] of whole sides as [n, 3, side, side], row by row: for networks of one picture size."""
    _, channels, height, width = values.shape
    parted = values.reshape(channels, height // side, side, width // side, side)
    return parted.permute(1, 3, 0, 2, 4).reshape(-1, channels, side, side).contiguous()


def joined(parts: torch.Tensor, columns: int) -> torch.Tensor:
    """What `tiles` parted, with so many columns of tiles."""
    count, channels, side, _ = parts.shape
    grid = parts.reshape(count // columns, columns, channels, side, side).permute(2, 0, 3, 1, 4)
    return grid.reshape(1, channels, count // columns * side, columns * side)


# ---------------------------------------------------------------------------------------------------------------- costs


def code_bits(tokens: int, codes: int | float) -> int:
    """Whole bits that `tokens` codes of a book of so many take: tokens x log2(codes).

    The picture's size is not counted, as nobody counts it.
    """
    return math.ceil(round(tokens * math.log2(codes), 6))


def on_meta(module: M) -> M:
    """A copy without weights, for shapes and FLOPs; the module itself is never held twice."""
    import torch
    from torch import nn

    known: dict[int, object] = {}
    for parameter in module.parameters():
        known[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in module.buffers():
        known[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, known)


def counted(work: Callable[[], object]) -> float:
    """FLOPs of what `work` does with tensors on the meta device, two per multiply-add, as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


# ---------------------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class Checkpointed:
    """A tokenizer whose weights are a choice: `name` is what it is registered as.

    Attributes:
        checkpoint: a published name (`toksweep list methods`), the name of one that comes with us, a folder, or a hub
            id like `org/name`, or `org/name@COMMIT`.
        subfolder: of a folder or hub id, where the tokenizer is a part of a larger model; a name knows its own.
    """

    name: ClassVar[str]
    checkpoint: str = ""
    subfolder: str = ""

    def __post_init__(self) -> None:
        if not self.checkpoint:
            known = known_to(self.name)
            example = f"{self.name}(checkpoint={known[0] if known else 'org/name'!r})"
            raise UserError(
                f"{self.name} needs a checkpoint, such as {example}, a folder or a hub id; it knows: "
                f"{', '.join(known) or 'none by name'}."
            )
        self.source()

    @property
    def variable(self) -> bool:
        """Whether a budget changes its codes."""
        return False

    def check(self, budget: Budget) -> None:
        """See `Network`."""
        if not self.variable and (budget.unit, budget.value) != ("percent", 100):
            raise Refusal(f"{self.name} has a fixed rate: it codes at 100% alone, not at {budget.text}")

    def source(self) -> Checkpoint:
        """Where the weights are.

        Raises:
            UserError: a name, folder or hub id that is none, or a name of another tokenizer's checkpoint.
        """
        known = published().get(self.checkpoint)
        if known is None:
            return checkpoint(self.checkpoint, self.subfolder)
        if known.method != self.name:
            raise UserError(
                f"{self.checkpoint} is no checkpoint of {self.name}: write "
                f"{known.method}(checkpoint={self.checkpoint!r})."
            )
        return checkpoint(known.hub, known.subfolder)

    def revision(self) -> str:
        """See `Network`."""
        return self.source().revision()
