"""Recognisers of a single word or line, cut out of a picture."""

from __future__ import annotations

import logging
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ...harness.contracts import UserError
from . import OCR, BackendStatus, file_digest, installed_version, package_folder

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

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
        UserError: an unknown name, or a package that is not installed.
    """
    if backend not in OCR:
        raise UserError(f"There is no text recogniser {backend!r}: --ocr takes {', '.join(OCR)}.")
    if not _package_ready(backend):
        raise UserError(f"The text recogniser {backend} is not installed: {HOW[backend]}.")


def survey() -> list[BackendStatus]:
    """The recognisers, in the order of `OCR`."""
    found = []
    for name in OCR:
        ready, detail = _package_ready(name), "not installed"
        if ready:
            weights = _weights(name)
            ready = weights is not None
            detail = f"{_version(name)}, weights at hand" if ready else f"{_version(name)}, weights missing"
        found.append(BackendStatus(name, "ocr", ready, detail, HOW[name]))
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
        places = [Path.home() / ".cache" / "doctr" / "models", "parseq-*.pt"]
    else:
        folder = _tesseract("--list-langs").partition('"')[2].partition('"')[0]
        places = [Path(folder), "eng.traineddata"]
    folder_path, pattern = places
    assert isinstance(folder_path, Path) and isinstance(pattern, str)
    return next(iter(sorted(folder_path.glob(pattern))), None)


def _identity(name: str) -> str:
    weights = _weights(name)
    if weights is None:
        raise UserError(f"The weights of {name} are missing: {HOW[name]}.")
    return f"{name}={_version(name)};weights={file_digest(weights)}"


@dataclass
class _Rapid:
    """RapidOCR's recognition model alone: no detector, no rotation. One thread is twice as fast as two on a crop."""

    rule: Rule = "alnum-lower"

    def __post_init__(self) -> None:
        from rapidocr import RapidOCR

        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
        self._engine = RapidOCR(params={"Global.log_level": "critical", **threads})

    def identity(self) -> str:
        return _identity("rapidocr")

    def read(self, crops: Sequence[Image]) -> list[str]:
        import numpy as np

        readings = []
        for crop in crops:
            bgr = np.array(crop)[:, :, ::-1]
            # The engine keeps the flags of its last call: all are given every time.
            result = self._engine(bgr, use_det=False, use_cls=False, use_rec=True)
            texts = getattr(result, "txts", None)
            readings.append(texts[0] if texts else "")
        return readings


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


@dataclass
class _Doctr:
    """docTR's PARSeq, as TokBench runs it, but crop by crop and without the labels, whose length TokBench leaks."""

    rule: Rule = "exact"

    def __post_init__(self) -> None:
        from doctr.models import recognition

        self._model = recognition.parseq(pretrained=True).eval()

    def identity(self) -> str:
        return _identity("doctr")

    def read(self, crops: Sequence[Image]) -> list[str]:
        import torch
        from torchvision.transforms.functional import normalize

        config, readings = self._model.cfg, []
        with torch.inference_mode():
            for crop in crops:
                canvas = normalize(_fit(crop, *config["input_shape"][-2:]), config["mean"], config["std"])
                readings.append(self._model(canvas[None], return_preds=True)["preds"][0][0])
        return readings


def _fit(crop: Image, height: int, width: int) -> torch.Tensor:
    """A crop within [3, height, width], shape kept, antialiased bilinear, zeros to the right and below."""
    import torch
    from torchvision.transforms.functional import InterpolationMode, pil_to_tensor, resize

    scale = min(height / crop.height, width / crop.width)
    size = [max(1, int(crop.height * scale)), max(1, int(crop.width * scale))]
    small = resize(pil_to_tensor(crop).float() / 255, size, InterpolationMode.BILINEAR, antialias=True)
    canvas = torch.zeros(3, height, width)
    canvas[:, : size[0], : size[1]] = small
    return canvas


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
