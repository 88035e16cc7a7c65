"""Runs tokenizers on pictures: encode within the budget, decode, hand the picture to the metrics."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..results.records import SampleRecord, Status
from .bench import Bench, Observation, Opened, failure, record_of
from .contracts import Codes, Memo, Output, RateSearch, Tokenizer
from .plan import PlannedCell

if TYPE_CHECKING:
    from PIL.Image import Image

    from .cost.latency import Case, Stopwatch

RAW_BITS = 24
"""Bits per pixel of the untouched 8-bit RGB picture."""


class ReconstructionBench(Bench):
    """Needs no model of its own: each tokenizer brings what it needs."""

    batch_size = 1

    def __exit__(self, *exception: object) -> None:
        return None

    def observe(
        self, opened: Sequence[Opened], cells: Sequence[PlannedCell]
    ) -> Iterator[tuple[PlannedCell, Opened, Observation]]:
        for item in opened:
            memo = Memo()
            for cell in cells:
                yield cell, item, _observe(cell, item, memo)

    def restore(self, cell: PlannedCell, opened: Opened, record: SampleRecord, outputs: Path) -> Output | None:
        from PIL import Image

        if cell.entry.kind == "untouched":
            return _output(opened, _shown(opened))
        if record.prediction is None or not (path := outputs / record.prediction).is_file():
            return None
        if cell.entry.meta["outputs"] == "picture":
            return _output(opened, Image.open(path).convert("RGB"))
        codes = Codes(path.read_bytes(), path.suffix, record.bits or 0)
        return _output(opened, _tokenizer(cell).decode(codes))

    def timed(self, opened: Opened, cells: Sequence[PlannedCell]) -> Mapping[str, Case]:
        memo, image = Memo(), _shown(opened)

        def encode_and_decode(cell: PlannedCell) -> Callable[[], object]:
            tokenizer, budget = _tokenizer(cell), cell.budget
            assert budget
            if isinstance(tokenizer, RateSearch):
                codes = tokenizer.encode(image, budget, memo)
                return lambda: tokenizer.decode(tokenizer.repeat(image, codes))
            return lambda: tokenizer.decode(tokenizer.encode(image, budget, Memo()))

        def case(work: Callable[[], object], watch: Stopwatch) -> None:
            with watch.phase("latency"):
                work()

        return {c.cell.work_id: partial(case, encode_and_decode(c)) for c in cells if c.entry.kind == "tokenizer"}


def _tokenizer(cell: PlannedCell) -> Tokenizer:
    assert isinstance(cell.method, Tokenizer)
    return cell.method


def _shown(opened: Opened) -> Image:
    """What a tokenizer is given."""
    framing, image = opened.sample.framing, opened.images[0]
    return framing.show(image) if framing else image


def _output(opened: Opened, picture: Image) -> Output:
    """What is scored of a tokenizer's picture."""
    framing = opened.sample.framing
    return Output(image=framing.restore(picture, opened.images[0]) if framing else picture)


def _observe(cell: PlannedCell, opened: Opened, memo: Memo) -> Observation:
    image = memo.once("shown", lambda: _shown(opened))
    pixels = image.width * image.height
    record = replace(record_of(opened.sample, "ok"), pixels=pixels)
    if cell.entry.kind == "untouched":
        return Observation(replace(record, bits=RAW_BITS * pixels), _output(opened, image))
    assert cell.budget
    tokenizer = _tokenizer(cell)
    try:
        codes = tokenizer.encode(image, cell.budget, memo)
        picture = tokenizer.decode(codes)
        if picture.size != image.size:
            raise ValueError(f"decoded {picture.size[0]}x{picture.size[1]} pixels of {image.width}x{image.height}")
    except Exception as error:
        return Observation(failure(opened.sample, error))
    status: Status = "infeasible" if codes.infeasible else "ok"
    record = replace(record, status=status, tokens_full=codes.tokens, bits=codes.bits)
    return Observation(record, _output(opened, picture), _kept(cell, codes, picture))


def _kept(cell: PlannedCell, codes: Codes, picture: Image) -> tuple[bytes, str]:
    """What `outputs/` holds, so that the picture can be scored again without a model."""
    if cell.entry.meta["outputs"] == "stream":
        return codes.stream, codes.suffix
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), ".png"
