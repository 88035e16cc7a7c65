"""Runs tokenizers on pictures and clips: encode within the budget, decode, hand the outcome to the metrics."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from ..results.records import SampleRecord, Status
from .bench import Bench, Observation, Opened, failure, record_of
from .contracts import (
    Budget,
    ClipRateSearch,
    ClipTokenizer,
    Codes,
    LoadedNetwork,
    Memo,
    Network,
    Output,
    RateSearch,
    Tokenizer,
    UserError,
)
from .plan import PlannedCell

if TYPE_CHECKING:
    from PIL.Image import Image

    from .cost.latency import Case, Stopwatch

N = TypeVar("N", int, float)
RAW_BITS = 24
"""Bits per pixel of the untouched 8-bit RGB picture."""
WHOLE = Budget.parse("100%")
"""What a tokenizer of a fixed rate is asked for."""

Coder = Tokenizer | ClipTokenizer
Coded = tuple[tuple[Codes, ...], tuple["Image", ...]]
"""The codes, one of a clip or one per picture, and the pictures or frames that they decode to."""


class ReconstructionBench(Bench):
    """Needs no model of its own: each tokenizer brings what it needs; networks are loaded when first asked."""

    batch_size = 1

    def __init__(self, device: str, dtype: str) -> None:
        self.device, self.dtype = device, dtype
        self._loaded: dict[Network, LoadedNetwork] = {}

    def __exit__(self, *exception: object) -> None:
        self._loaded.clear()

    def observe(
        self, opened: Sequence[Opened], cells: Sequence[PlannedCell]
    ) -> Iterator[tuple[PlannedCell, Opened, Observation]]:
        for item in opened:
            memo = Memo()
            for cell in cells:
                yield cell, item, self._observe(cell, item, memo)

    def restore(self, cell: PlannedCell, opened: Opened, record: SampleRecord, outputs: Path) -> Output | None:
        if cell.entry.kind == "untouched":
            return _output(opened, _shown(opened))
        if record.prediction is None or not (path := outputs / record.prediction).is_file():
            return None
        if _keeps_stream(cell, opened):
            codes = Codes(path.read_bytes(), path.suffix, record.bits or 0)
            return _output(opened, _decoded(self._coder(cell), (codes,), opened))
        return _output(opened, _cut_up(path, len(_shown(opened))))

    def timed(self, opened: Opened, cells: Sequence[PlannedCell]) -> Mapping[str, Case]:
        memo = Memo()

        def encode_and_decode(cell: PlannedCell) -> Callable[[], object]:
            coder, budget = self._coder(cell), cell.budget or WHOLE
            if isinstance(coder, RateSearch) and isinstance(coder, Tokenizer) and not opened.sample.clip:
                codes = coder.encode(opened.images[0], budget, memo)
                return lambda: coder.decode(coder.repeat(opened.images[0], codes))
            if isinstance(coder, ClipRateSearch) and isinstance(coder, ClipTokenizer) and opened.sample.clip:
                clip = coder.encode_clip(opened.images, budget, memo)
                return lambda: coder.decode_clip(coder.repeat_clip(opened.images, clip))
            return lambda: _code(coder, opened, budget, Memo())

        def case(work: Callable[[], object], watch: Stopwatch) -> None:
            with watch.phase("latency"):
                work()

        return {c.cell.work_id: partial(case, encode_and_decode(c)) for c in cells if c.entry.kind == "tokenizer"}

    def _coder(self, cell: PlannedCell) -> Coder:
        method: object = cell.method
        if isinstance(method, Network):
            method = self._loaded.get(method) or self._load(cell, method)
        assert isinstance(method, Tokenizer | ClipTokenizer)
        return method

    def _load(self, cell: PlannedCell, network: Network) -> LoadedNetwork:
        try:
            self._loaded[network] = network.load(self.device, self.dtype)
        except UserError:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"{cell.cell.label} cannot be loaded ({told}): check its checkpoint.") from error
        return self._loaded[network]

    def _observe(self, cell: PlannedCell, opened: Opened, memo: Memo) -> Observation:
        frames = _shown(opened)
        width, height = frames[0].size
        record = replace(record_of(opened.sample, "ok"), pixels=width * height * len(frames))
        if cell.entry.kind == "untouched":
            return Observation(replace(record, bits=RAW_BITS * (record.pixels or 0)), _output(opened, frames))
        coder = self._coder(cell)
        try:
            codes, pictures = _code(coder, opened, cell.budget or WHOLE, memo)
            sizes = [(frame.width, frame.height) for frame in frames]
            if (decoded := [(p.width, p.height) for p in pictures]) != sizes:
                raise ValueError(f"decoded {_sizes(decoded)} pixels of {_sizes(sizes)}")
            record = _with_costs(record, coder, frames[0].size, codes)
        except Exception as error:
            return Observation(failure(opened.sample, error))
        status: Status = "infeasible" if any(c.infeasible for c in codes) else "ok"
        kept = (codes[0].stream, codes[0].suffix) if _keeps_stream(cell, opened) else (_strip(pictures), ".png")
        return Observation(replace(record, status=status), _output(opened, pictures), kept)


def _shown(opened: Opened) -> tuple[Image, ...]:
    """The picture of a sample, or all frames of its clip."""
    return opened.images if opened.sample.clip else opened.images[:1]


def _code(coder: Coder, opened: Opened, budget: Budget, memo: Memo) -> Coded:
    frames = _shown(opened)
    codes: tuple[Codes, ...]
    if opened.sample.clip and isinstance(coder, ClipTokenizer):
        codes = (coder.encode_clip(frames, budget, memo),)
    else:
        assert isinstance(coder, Tokenizer)
        memos = memo.once("frames", lambda: [Memo() for _ in frames])
        codes = tuple(coder.encode(f, budget, m) for f, m in zip(frames, memos, strict=True))
    return codes, _decoded(coder, codes, opened)


def _decoded(coder: Coder, codes: Sequence[Codes], opened: Opened) -> tuple[Image, ...]:
    if opened.sample.clip and isinstance(coder, ClipTokenizer):
        return coder.decode_clip(codes[0])
    assert isinstance(coder, Tokenizer)
    return tuple(coder.decode(c) for c in codes)


def _with_costs(record: SampleRecord, coder: Coder, size: tuple[int, int], codes: Sequence[Codes]) -> SampleRecord:
    spent = [coder.flops(size, c) for c in codes] if isinstance(coder, LoadedNetwork) else []
    return replace(
        record,
        bits=sum(c.bits for c in codes),
        tokens=_total(c.tokens for c in codes),
        tokens_full=_total(c.tokens if c.full_tokens is None else c.full_tokens for c in codes),
        flops=_total(s and s.encode + s.decode for s in spent) if spent else None,
        flops_decode=_total(s and s.decode for s in spent) if spent else None,
    )


def _total(counts: Iterable[N | None]) -> N | None:
    """The sum, None where one is not known."""
    found = list(counts)
    known = [n for n in found if n is not None]
    return cast(N, sum(known)) if len(known) == len(found) else None


def _output(opened: Opened, pictures: Sequence[Image]) -> Output:
    """What is scored of pictures that were decoded, or of those that were shown."""
    if framing := opened.sample.framing:
        pictures = [framing.restore(p, load()) for p, load in zip(pictures, opened.sample.images, strict=False)]
    return Output(frames=tuple(pictures)) if opened.sample.clip else Output(image=pictures[0])


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    width, height = sizes[0] if sizes else (0, 0)
    return f"{len(sizes)} frames of {width}x{height}" if len(sizes) != 1 else f"{width}x{height}"


def _keeps_stream(cell: PlannedCell, opened: Opened) -> bool:
    """Does `outputs/` hold the bit stream? The decoded picture otherwise, so that scoring again needs no network."""
    return cell.entry.meta["outputs"] == "stream" and (not opened.sample.clip or bool(cell.entry.meta["clips"]))


def _strip(pictures: Sequence[Image]) -> bytes:
    """A PNG of the picture, or of all frames one below the other: animated files drop a frame that equals the last."""
    import numpy as np
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(np.concatenate([np.asarray(p.convert("RGB")) for p in pictures])).save(
        buffer, "PNG", compress_level=1
    )
    return buffer.getvalue()


def _cut_up(path: Path, frames: int) -> tuple[Image, ...]:
    """What `_strip` wrote."""
    from PIL import Image as Pillow

    with Pillow.open(path) as opened:
        strip = opened.convert("RGB")
    height = strip.height // frames
    return tuple(strip.crop((0, i * height, strip.width, (i + 1) * height)) for i in range(frames))
