"""Recognisers of a single word or line, cut out of a picture."""

from __future__ import annotations

import os
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ...harness.contracts import UserError
from . import OCR, OPENCV_MEND, BackendStatus, file_digest, installed_version, opencv_fault, package_folder
from .parseq import WEIGHTS, Parseq

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Pixels = NDArray[np.float32]

Rule = Literal["alnum-lower", "exact"]
"""How transcripts compare: letters and digits of ASCII without case, or every sign as it is."""

HOW = {
    "rapidocr": "pip install 'rapidocr>=3.10' onnxruntime (the weights come with the package)",
    "easyocr": "pip install easyocr; its weights (english_g2, 15 MB) download at the first use",
    "doctr": "pip install python-doctr; the PARSeq weights (95 MB) download at the first use",
    "tesseract": "apt install tesseract-ocr",
}


class Reader(Protocol):
    """Reads crops, each on its own, so that a reading does not depend on its neighbours."""

    rule: Rule

    def identity(self) -> str:
        """The version of the software and a digest of the weights."""

    def read(self, crops: Sequence[Image]) -> list[str]:
        """The transcript of each RGB crop; an empty string where nothing was read."""


def fold(text: str, rule: Rule) -> str:
    """A transcript as it is compared."""
    if rule == "exact":
        return text
    plain = unicodedata.normalize("NFKC", text)
    return "".join(c for c in plain if c.isascii() and c.isalnum()).lower()


def rule_of(backend: str) -> Rule:
    """The rule of a backend: TokBench's own recogniser is compared as TokBench does, case and punctuation counted."""
    return "exact" if backend == "doctr" else "alnum-lower"


def parseq() -> Parseq:
    """TokBench's own recogniser, which may be told of its words.

    Raises:
        UserError: docTR is not installed, or its weights cannot be had.
    """
    found = reader("doctr")
    assert isinstance(found, Parseq)
    return found


@cache
def reader(backend: str) -> Reader:
    """The recogniser of a name, loaded once per process.

    Raises:
        UserError: an unknown name, a package that is not installed, or weights that cannot be had.
    """
    check(backend)
    loaders: dict[str, Callable[[], Reader]] = {
        "rapidocr": _Rapid, "easyocr": _Easy, "doctr": _Doctr, "tesseract": _Tesseract,
    }  # fmt: skip
    try:
        return loaders[backend]()
    except OSError as error:
        raise UserError(f"The weights of {backend} cannot be had ({error}): {HOW[backend]}.") from error


def check(backend: str) -> None:
    """Look, without loading, whether a backend can run.

    Raises:
        UserError: an unknown name, a package that is not installed, or OpenCV where the backend needs it and it cannot
            be imported.
    """
    if backend not in OCR:
        raise UserError(f"There is no text recogniser {backend!r}: --ocr takes {', '.join(OCR)}.")
    if not _package_ready(backend):
        raise UserError(f"The text recogniser {backend} is not installed: {HOW[backend]}.")
    if fault := opencv_fault(backend):
        raise UserError(f"The text recogniser {backend} cannot run, for {fault}: {OPENCV_MEND}.")


def survey() -> list[BackendStatus]:
    """The recognisers, in the order of `OCR`."""
    found = []
    for name in OCR:
        ready, detail, how = _package_ready(name), "not installed", HOW[name]
        if ready:
            weights = _weights(name)
            ready = weights is not None
            detail = f"{_version(name)}, weights at hand" if ready else f"{_version(name)}, weights missing"
            if fault := opencv_fault(name):
                ready, detail, how = False, fault, OPENCV_MEND
        found.append(BackendStatus(name, "ocr", ready, detail, how))
    return found


def _package_ready(name: str) -> bool:
    modules = {"rapidocr": ("rapidocr", "onnxruntime"), "easyocr": ("easyocr",), "doctr": ("doctr",)}
    if name == "tesseract":
        return shutil.which("tesseract") is not None
    return all(package_folder(m) for m in modules[name])


def _version(name: str) -> str:
    if name == "tesseract":
        return _tesseract("--version").split()[1]
    return installed_version({"doctr": "python-doctr"}.get(name, name)) or "unknown version"


def _weights(name: str) -> Path | None:
    """The recognition weights where they lie already."""
    if name == "rapidocr":
        package = package_folder("rapidocr")
        places = [(package or Path()) / "models", "*_rec_small.onnx"]
    elif name == "easyocr":
        places = [Path.home() / ".EasyOCR" / "model", "english_g2.pth"]
    elif name == "doctr":
        places = [Path(os.environ.get("DOCTR_CACHE_DIR", Path.home() / ".cache" / "doctr"), "models"), f"{WEIGHTS}*.pt"]
    else:
        folder = _tesseract("--list-langs").partition('"')[2].partition('"')[0]
        places = [Path(folder), "eng.traineddata"]
    folder_path, pattern = places
    assert isinstance(folder_path, Path) and isinstance(pattern, str)
    return next(iter(sorted(folder_path.glob(pattern))), None)


def _found(name: str) -> Path:
    weights = _weights(name)
    if weights is None:
        raise UserError(f"The weights of {name} are missing: {HOW[name]}.")
    return weights


def _identity(name: str, how: str = "") -> str:
    return f"{name}={_version(name)};{how}weights={file_digest(_found(name))}"


@dataclass
class _Rapid:
    """The recognition model that comes with RapidOCR (PP-OCRv6 small, github.com/RapidAI/RapidOCR), by ONNX Runtime.

    The package itself is not imported: it needs OpenCV, whose wheel needs libraries of the system that a server lacks.
    Sizes and scales are those of `RapidOCR()(crop, use_det=False, use_cls=False)`, and so are nearly all readings; what
    is left comes from OpenCV's rounding. A crop is run alone: a batch saves no time, and changes the last digits. One
    thread is twice as fast as two on a crop.
    """

    rule: Rule = "alnum-lower"

    def __post_init__(self) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = InferenceSession(str(_found("rapidocr")), options, providers=["CPUExecutionProvider"])
        self._input, (output,) = self._session.get_inputs()[0], self._session.get_outputs()
        # Class 0 is CTC's blank, and the space comes last; neither is in the list that the file carries.
        listed = self._session.get_modelmeta().custom_metadata_map.get("character", "").split("\n")
        self._signs = ["", *listed, " "]
        if len(self._signs) != output.shape[-1]:
            raise UserError(
                f"The model of rapidocr {_version('rapidocr')} lists other signs than it reads: {HOW['rapidocr']}."
            )

    def identity(self) -> str:
        return _identity("rapidocr", "onnxruntime-alone,linear-resize;")

    def read(self, crops: Sequence[Image]) -> list[str]:
        return [self._decode(self._session.run(None, {self._input.name: self._prepare(crop)})[0][0]) for crop in crops]

    def _prepare(self, crop: Image) -> Pixels:
        """[1, 3, height, width], blue first, in [-1, 1]: at the model's height, zeros on the right up to 320 wide."""
        import numpy as np

        pixels = np.asarray(crop, dtype=np.float32)[:, :, ::-1]
        if min(crop.size) < 30:
            # The package's first step for small pictures: a shorter side of 30, then both to whole multiples of 32.
            factor = 30 / min(crop.size)
            rows, columns = (round(int(side * factor) / 32) * 32 for side in pixels.shape[:2])
            pixels = np.floor(_linear(pixels, rows, columns) + 0.5)
        height, shape = self._input.shape[2], pixels.shape[1] / pixels.shape[0]
        canvas = np.zeros((1, 3, height, max(320, int(height * shape))), dtype=np.float32)
        columns = min(canvas.shape[3], ceil(height * shape))
        canvas[0, :, :, :columns] = _linear(pixels, height, columns).transpose(2, 0, 1) / 127.5 - 1
        return canvas

    def _decode(self, scores: Pixels) -> str:
        """The likeliest class of each column, [columns, classes], repeats merged and blanks dropped (greedy CTC)."""
        best = scores.argmax(axis=1)
        return "".join(self._signs[sign] for i, sign in enumerate(best) if i == 0 or sign != best[i - 1])


def _linear(pixels: Pixels, rows: int, columns: int) -> Pixels:
    """[height, width, 3] at another size, by linear interpolation between pixel centres, without antialiasing.

    Pillow's filters widen when a picture shrinks; the recogniser is run without that.
    """
    import numpy as np

    for axis, size in enumerate((rows, columns)):
        length = pixels.shape[axis]
        places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1).astype(np.float32)
        low = places.astype(int)
        share = np.expand_dims(places - low, (1 - axis, 2))
        pixels = (1 - share) * pixels.take(low, axis) + share * pixels.take(np.minimum(low + 1, length - 1), axis)
    return pixels


@dataclass
class _Easy:
    """EasyOCR's English recogniser on the whole crop."""

    rule: Rule = "alnum-lower"

    def __post_init__(self) -> None:
        import easyocr

        self._engine = easyocr.Reader(["en"], gpu=False, detector=False, verbose=False)

    def identity(self) -> str:
        return _identity("easyocr")

    def read(self, crops: Sequence[Image]) -> list[str]:
        import numpy as np

        readings = []
        for crop in crops:
            grey = np.array(crop.convert("L"))
            box = [0, crop.width, 0, crop.height]
            found = self._engine.recognize(grey, horizontal_list=[box], free_list=[], detail=0)
            readings.append(" ".join(found))
        return readings


class _Doctr(Parseq):
    """docTR's PARSeq, TokBench's own recogniser."""

    rule: Rule = "exact"

    def identity(self) -> str:
        return _identity("doctr")


@dataclass
class _Tesseract:
    """The program `tesseract` on a single line, a process for each crop."""

    rule: Rule = "alnum-lower"

    def identity(self) -> str:
        return _identity("tesseract")

    def read(self, crops: Sequence[Image]) -> list[str]:
        readings = []
        for crop in crops:
            file = BytesIO()
            crop.save(file, "PNG")
            readings.append(_tesseract("-", "-", "-l", "eng", "--psm", "7", given=file.getvalue()).strip())
        return readings


def _tesseract(*arguments: str, given: bytes = b"") -> str:
    program = shutil.which("tesseract")
    if program is None:
        raise UserError(f"The text recogniser tesseract is not installed: {HOW['tesseract']}.")
    done = subprocess.run([program, *arguments], input=given, capture_output=True, check=True)
    return done.stdout.decode()
