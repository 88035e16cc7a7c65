"""The default recogniser runs without OpenCV, reads each crop by itself, and reads what its package reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toksweep
from pictures import jpeg, real
from PIL import Image
from toksweep.harness.contracts import Sample
from toksweep.harness.registry import registry
from toksweep.metrics.backends import ocr

PACKAGE_PARENT = Path(toksweep.__path__[0]).parent


def words(samples: list[Sample], most: int, quality: int | None = None) -> list[tuple[Image.Image, str]]:
    """Crops with their folded transcripts, at most so many of a picture."""
    found = []
    for sample in samples:
        image = sample.images[0]().convert("RGB")
        image = image if quality is None else jpeg(image, quality)
        scored = [r for r in sample.regions if r.slices and ocr.fold(r.text or "", "alnum-lower")]
        for region in scored[:most]:
            crop = image.crop(tuple(int(edge) for edge in region.box))
            found.append((crop, ocr.fold(region.text or "", "alnum-lower")))
    return found


def own_words(most: int = 3) -> list[tuple[Image.Image, str]]:
    return words(registry("tasks").get("text").load()(None), most)


def real_words(quality: int | None) -> list[tuple[Image.Image, str]]:
    samples = registry("tasks").get("text").load()(real("text"))
    return words([s for s in samples if "crop_" in s.id or "icdar" in s.id or "funsd" in s.id], 8, quality)


def without_opencv(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process where OpenCV cannot be imported."""
    blocked = "import sys\nsys.modules['cv2'] = None\n" + code
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
    return subprocess.run(
        [sys.executable, "-c", blocked, *arguments], capture_output=True, text=True, env=environment, timeout=300
    )


def packages_own_readings(crops: list[Image.Image]) -> list[str]:
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        pytest.skip(f"the package's own pipeline cannot be imported here: {error}")
    engine = RapidOCR(params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": 1})
    found = [engine(np.array(c)[:, :, ::-1], use_det=False, use_cls=False, use_rec=True).txts for c in crops]
    return [ocr.fold(texts[0], "alnum-lower") if texts else "" for texts in found]


def our_readings(crops: list[Image.Image]) -> list[str]:
    return [ocr.fold(text, "alnum-lower") for text in ocr.reader("rapidocr").read(crops)]


def test_words_are_read_where_opencv_cannot_be_imported(tmp_path: Path) -> None:
    found = own_words(1)
    for number, (crop, _) in enumerate(found):
        crop.save(tmp_path / f"{number}.png")
    code = (
        "from PIL import Image\nfrom toksweep.metrics.backends import ocr\n"
        "files = sys.argv[1:]\n"
        "print(*ocr.reader('rapidocr').read([Image.open(f).convert('RGB') for f in files]), sep='\\n')\n"
    )
    done = without_opencv(code, *(str(tmp_path / f"{n}.png") for n in range(len(found))))
    assert done.returncode == 0, done.stderr
    assert [ocr.fold(line, "alnum-lower") for line in done.stdout.splitlines()] == [text for _, text in found]


def test_a_backend_that_needs_opencv_names_the_mend_where_it_cannot_be_imported() -> None:
    code = (
        "from toksweep.harness.contracts import UserError\nfrom toksweep.metrics.backends import faces, ocr, survey\n"
        "for check, *given in ((ocr.check, 'easyocr'), (faces.check, 'insightface', ('antelopev2',))):\n"
        "    try:\n        check(*given)\n    except UserError as error:\n        print(error)\n"
        "print(*(f'{s.name} {s.ready} {s.how_to_get}' for s in survey()), sep='\\n')\n"
    )
    done = without_opencv(code)
    assert done.returncode == 0, done.stderr
    easyocr, insightface, *doctor = done.stdout.splitlines()
    for line, name in ((easyocr, "easyocr"), (insightface, "insightface")):
        assert name in line
        assert line.endswith("apt-get install libgl1 libglib2.0-0.")
        assert f"{name} False apt-get install libgl1 libglib2.0-0" in doctor
    assert any(line.startswith("rapidocr True") for line in doctor)
    assert any(line.startswith("dlib True") for line in doctor)


def test_a_reading_does_not_depend_on_its_neighbours() -> None:
    # At quality 10 many words stand on the edge between two readings.
    crops = [jpeg(crop, 10) for crop, _ in own_words(2)]
    wide = Image.new("RGB", (900, 40), "white")
    reader = ocr.reader("rapidocr")
    alone = [reader.read([crop])[0] for crop in crops]
    assert reader.read([wide, *crops])[1:] == alone
    assert reader.read(crops[::-1])[::-1] == alone


@pytest.mark.parametrize(("quality", "least"), [(None, 0.98), (10, 0.95)])
def test_readings_agree_with_the_packages_own_pipeline(quality: int | None, least: float) -> None:
    # Words that JPEG has all but erased turn on the last bit of a resize: of 500, 98.0% agreed, and 97.8% between
    # the package with OpenCV's usual linear filter and the package with its exact one.
    found = real_words(quality)
    crops, truths = [c for c, _ in found], [t for _, t in found]
    ours, theirs = our_readings(crops), packages_own_readings(crops)
    agreement = np.mean([a == b for a, b in zip(ours, theirs, strict=True)])
    ours_right, theirs_right = (sum(r == t for r, t in zip(x, truths, strict=True)) for x in (ours, theirs))
    assert len(found) >= 50
    assert agreement >= least
    assert abs(ours_right - theirs_right) <= 0.02 * len(found)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (400, 3), (900, 31), (29, 44)])
def test_any_size_of_crop_is_read(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert isinstance(ocr.reader("rapidocr").read([Image.fromarray(noise)])[0], str)


@pytest.mark.parametrize("size", [(48, 100), (7, 5), (20, 33)])
def test_resizing_is_linear_between_pixel_centres(size: tuple[int, int]) -> None:
    import torch

    pixels = np.random.default_rng(1).uniform(0, 255, (20, 33, 3)).astype(np.float32)
    given = torch.from_numpy(pixels.transpose(2, 0, 1))[None]
    expected = torch.nn.functional.interpolate(given, size, mode="bilinear", align_corners=False)[0]
    assert np.abs(ocr._linear(pixels, *size) - expected.numpy().transpose(1, 2, 0)).max() < 1e-2
