"""Which patches hold a region of a picture, against what really changes behind the processor when it is painted."""

import pytest
import tiny
import torch
from PIL import Image, ImageDraw
from toksweep.harness.contracts import Region, Sample
from toksweep.harness.models import open_model
from transformers import CLIPImageProcessor, SiglipImageProcessor
from transformers.models.llava.image_processing_llava import LlavaImageProcessor

SQUARE = {"height": 32, "width": 32}
PROCESSORS = {
    "cropped": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
    "cropped out of a larger one": CLIPImageProcessor(size={"shortest_edge": 44}, crop_size=SQUARE),
    "cropped with a margin around it": CLIPImageProcessor(size={"shortest_edge": 20}, crop_size=SQUARE),
    "cropped as it is": CLIPImageProcessor(do_resize=False, crop_size=SQUARE),
    "squeezed and cropped": CLIPImageProcessor(size={"height": 40, "width": 48}, crop_size=SQUARE),
    "squeezed": SiglipImageProcessor(size=SQUARE),
    "made a square by a margin": LlavaImageProcessor(do_pad=True, size={"shortest_edge": 32}, crop_size=SQUARE),
}


@pytest.fixture(scope="module")
def model(llava_folder):
    return open_model(str(llava_folder))


@pytest.mark.parametrize("size", [(96, 64), (50, 120), (64, 64)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_footprint_is_what_changes_when_the_region_is_painted(model, monkeypatch, name, size):
    processor = PROCESSORS[name]
    monkeypatch.setattr(model.processor, "image_processor", processor)
    box = tuple(round(share * side) for share, side in zip((0.2, 0.3, 0.55, 0.6), 2 * size, strict=True))
    plain, painted = Image.new("RGB", size), Image.new("RGB", size)
    ImageDraw.Draw(painted).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="white")
    sample = Sample("s", "s", (), "s", question="what?", regions=(Region(box),))
    before, after = (model.prepare([sample], [[picture]]) for picture in (plain, painted))
    deviation = torch.tensor(processor.image_std).view(3, 1, 1)
    change = ((after.crops[0].pixels - before.crops[0].pixels) * deviation).mean(0)
    shares = torch.nn.functional.avg_pool2d(change[None], 8).flatten()
    assert shares.sum() > 0.3
    # the processor rounds to whole pixels, of which a patch has eight
    assert torch.allclose(after.evidence[0], shares, atol=0.1)


def test_evidence_that_is_cropped_away_lies_in_no_patch(model):
    sample = Sample("s", "s", (), "s", question="what?", regions=(Region((0, 0, 20, 64)),))
    assert model.prepare([sample], [[tiny.picture(0, (128, 64))]]).evidence[0].sum() == 0
