"""Embedders of faces on known boxes or key points: no detector is run, whose failure would count as a lost identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from ...harness.contracts import Output, Region, Sample, UserError
from . import FACES, OPENCV_MEND, BackendStatus, file_digest, installed_version, opencv_fault, package_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Vector = NDArray[np.float64]

T = TypeVar("T")
PACKS = {"insightface": ("antelopev2", "glintr100.onnx"), "insightface:buffalo_l": ("buffalo_l", "w600k_r50.onnx")}
"""InsightFace's model packs and their recognisers; the packs are for non-commercial research only."""
FARTHEST = {"dlib": 1.5, "insightface": 2.0, "insightface:buffalo_l": 2.0}
"""The distance that a failure scores and at which distances are cut, beyond any two faces: with dlib, the farthest of
117 real faces were 1.14 apart, and a black or noisy picture is at most 0.95 from any of them; unit vectors reach 2."""
SHAPE, NETWORK = "shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"
HELD = 4
"""Samples whose original faces are kept; cells are innermost, so that the last one is what is asked for."""


class Embedder(Protocol):
    """Embeds the faces of a picture, aligned by what was found once on the original."""

    def identity(self) -> str:
        """The version of the software and a digest of the weights."""

    def align(self, original: Image, region: Region) -> object:
        """Where the face lies; the same for the original and for every output."""

    def embed(self, image: Image, alignment: Sequence[object]) -> list[Vector]:
        """A vector for each face."""


@dataclass
class Faces:
    """An embedder with the faces of the last originals."""

    embedder: Embedder

    def __post_init__(self) -> None:
        self._originals: dict[tuple[str, str], tuple[list[object], list[Vector]]] = {}

    def pairs(self, output: Output, sample: Sample, regions: Sequence[Region]) -> list[tuple[Vector, Vector]]:
        """For each region, the vectors of the output's face and of the original's.

        Raises:
            ValueError: the output lacks a picture, or its size differs from the original's.
        """
        key = (sample.id, sample.fingerprint)
        if key not in self._originals:
            while len(self._originals) >= HELD:
                del self._originals[next(iter(self._originals))]
            self._originals[key] = self._found(sample, regions)
        alignment, vectors = self._originals[key]
        ours: list[Vector] = []
        for number, places in _by_picture(regions, alignment):
            ours += self.embedder.embed(output.picture(number).convert("RGB"), places)
        return list(zip(ours, vectors, strict=True))

    def _found(self, sample: Sample, regions: Sequence[Region]) -> tuple[list[object], list[Vector]]:
        """Where the faces of the originals lie, and their vectors."""
        alignment: list[object] = []
        vectors: list[Vector] = []
        for number, found in _by_picture(regions, regions):
            original = sample.images[number]().convert("RGB")
            places = [self.embedder.align(original, region) for region in found]
            alignment += places
            vectors += self.embedder.embed(original, places)
        return alignment, vectors


def _by_picture(regions: Sequence[Region], values: Sequence[T]) -> Iterator[tuple[int, list[T]]]:
    """What belongs to regions that follow each other in one picture or frame, with its number."""
    for number, run in groupby(zip(regions, values, strict=True), key=lambda pair: pair[0].image):
        yield number, [value for _, value in run]


@cache
def load(backend: str, accept_licence: tuple[str, ...] = ()) -> Faces:
    """The embedder of a name, loaded once per process.

    Args:
        accept_licence: names of model packs that may be downloaded.

    Raises:
        UserError: an unknown name, a package that is not installed, or weights that are not at hand.
    """
    check(backend, accept_licence)
    loader: Callable[[], Embedder] = _Dlib if backend == "dlib" else (lambda: _Insight(backend))
    return Faces(loader())


def check(backend: str, accept_licence: tuple[str, ...] = ()) -> None:
    """Look, without loading, whether a backend can run.

    Raises:
        UserError: an unknown name, a package that is not installed, weights that are not at hand and whose licence was
            not accepted, or OpenCV where the backend needs it and it cannot be imported.
    """
    if backend not in FACES:
        raise UserError(f"There is no face embedder {backend!r}: --faces takes {', '.join(FACES)}.")
    if not _package_ready(backend):
        raise UserError(f"The face embedder {backend} is not installed: {_how(backend)}.")
    if backend != "dlib" and _weights(backend)[0] is None and PACKS[backend][0] not in accept_licence:
        raise UserError(f"The weights of {backend} are missing: {_how(backend)}.")
    if fault := opencv_fault(backend):
        raise UserError(f"The face embedder {backend} cannot run, for {fault}: {OPENCV_MEND}.")


def survey() -> list[BackendStatus]:
    """The embedders, in the order of `FACES`."""
    found = []
    for name in FACES:
        ready, detail, how = _package_ready(name), "not installed", _how(name)
        if ready:
            ready = all(_weights(name))
            detail = f"{_version(name)}, weights {'at hand' if ready else 'missing'}"
            if fault := opencv_fault(name):
                ready, detail, how = False, fault, OPENCV_MEND
        found.append(BackendStatus(name, "faces", ready, detail, how))
    return found


def _how(backend: str) -> str:
    if backend == "dlib":
        return "pip install dlib-bin face_recognition_models (the weights come with the package)"
    pack = PACKS[backend][0]
    return (
        f"pip install insightface, and put the pack {pack} (research use only) in ~/.insightface/models/{pack} or "
        f"let it be downloaded with --accept-licence {pack}; or use --faces dlib"
    )


def _package_ready(name: str) -> bool:
    modules = ("dlib", "face_recognition_models") if name == "dlib" else ("insightface", "onnxruntime")
    return all(package_folder(m) for m in modules)


def _version(name: str) -> str:
    distributions = ("dlib-bin", "dlib") if name == "dlib" else ("insightface",)
    return next((v for d in distributions if (v := installed_version(d))), "unknown version")


def _weights(name: str) -> list[Path | None]:
    """The weights files; None for one that is not there."""
    if name == "dlib":
        # Importing face_recognition_models needs pkg_resources, which later versions of setuptools lack.
        folder = (package_folder("face_recognition_models") or Path()) / "models"
        return [path if (path := folder / file).is_file() else None for file in (SHAPE, NETWORK)]
    pack, file = PACKS[name]
    folder = Path.home() / ".insightface" / "models" / pack
    # Some archives hold a folder of the pack's name, which unpacking puts inside the pack's folder.
    return [next((path for path in (folder / file, folder / pack / file) if path.is_file()), None)]


def _found(name: str) -> list[Path]:
    paths = [path for path in _weights(name) if path is not None]
    if len(paths) < len(_weights(name)):
        raise UserError(f"The weights of {name} are missing: {_how(name)}.")
    return paths


def _identity(name: str) -> str:
    digests = "+".join(file_digest(path) for path in _found(name))
    return f"{name}={_version(name)};weights={digests}"


class _Dlib:
    """dlib's 128-number ResNet embedding, aligned by the five-point predictor in the known box of the original.

    Same and different persons part at a distance of about 0.6.
    """

    def __init__(self) -> None:
        import dlib

        shape, network = _found("dlib")
        self._rectangle = dlib.rectangle
        self._shape = dlib.shape_predictor(str(shape))
        self._network = dlib.face_recognition_model_v1(str(network))

    def identity(self) -> str:
        return _identity("dlib")

    def align(self, original: Image, region: Region) -> object:
        import numpy as np

        x0, y0, x1, y1 = (round(edge) for edge in region.box)
        return self._shape(np.array(original), self._rectangle(x0, y0, x1 - 1, y1 - 1))

    def embed(self, image: Image, alignment: Sequence[object]) -> list[Vector]:
        import numpy as np

        pixels = np.array(image)
        return [np.array(self._network.compute_face_descriptor(pixels, shape)) for shape in alignment]


class _Insight:
    """InsightFace's ArcFace recogniser of a model pack, aligned by five given key points: eyes, nose, mouth corners.

    As in TokBench, the same points align the original and the output. Vectors are scaled to length 1, so that no two
    are farther apart than 2.
    """

    def __init__(self, backend: str) -> None:
        from insightface.model_zoo import get_model
        from insightface.utils import ensure_available

        self.backend = backend
        if _weights(backend)[0] is None:
            ensure_available("models", PACKS[backend][0])
        self._model = get_model(str(_found(backend)[0]), providers=["CPUExecutionProvider"])

    def identity(self) -> str:
        return _identity(self.backend)

    def align(self, original: Image, region: Region) -> object:
        import numpy as np

        if len(region.points) != 5:
            raise UserError(
                f"{self.backend} aligns faces by five key points, and a face has {len(region.points)}: "
                "give a folder in TokBench's format, or use --faces dlib."
            )
        return np.array(region.points)

    def embed(self, image: Image, alignment: Sequence[object]) -> list[Vector]:
        import numpy as np
        from insightface.utils.face_align import norm_crop

        bgr = np.ascontiguousarray(np.array(image)[:, :, ::-1])
        vectors = []
        for points in alignment:
            vector = self._model.get_feat(norm_crop(bgr, points, self._model.input_size[0])).ravel().astype(np.float64)
            vectors.append(vector / np.linalg.norm(vector))
        return vectors
