"""The picture codecs keep their budget to the bit, use all of it, and give back what they were given."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage import data
from toksweep.harness.contracts import Budget, Codes, Memo, Refusal, Tokenizer, UserError
from toksweep.harness.registry import registry
from toksweep.methods.codec import highest_within

CODECS = ("jpeg", "jpeg2000", "webp", "avif", "lowres")


def build(name: str, **parameters: object) -> Tokenizer:
    built = registry("methods").get(name).build(parameters)
    assert isinstance(built, Tokenizer)
    return built


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(data.chelsea()).crop((100, 50, 293, 180))


@pytest.mark.parametrize("budget", ["0.5bpp", "1bpp", "2.5bpp"])
@pytest.mark.parametrize("name", CODECS)
def test_a_file_keeps_its_budget_and_no_higher_setting_would(name: str, budget: str, photo: Image.Image) -> None:
    codec, asked = build(name), Budget.parse(budget)
    codes = codec.encode(photo, asked, Memo())
    limit = asked.value * photo.width * photo.height
    assert codes.bits == 8 * len(codes.stream)
    assert codes.bits <= limit
    assert not codes.infeasible
    sizes = {s: 8 * len(codec.write(photo, s)) for s in codec.settings(photo)}  # type: ignore[attr-defined]
    best = max(s for s, bits in sizes.items() if bits <= limit)
    assert codes.stream == codec.write(photo, best)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CODECS)
def test_a_budget_below_reach_gives_the_smallest_file_and_says_so(name: str, photo: Image.Image) -> None:
    codec = build(name)
    codes = codec.encode(photo, Budget.parse("0.01bpp"), Memo())
    assert codes.infeasible
    assert codes.bits == 8 * len(codes.stream) > 0.01 * photo.width * photo.height
    smallest = min(8 * len(codec.write(photo, s)) for s in codec.settings(photo))  # type: ignore[attr-defined]
    assert codes.bits == smallest


@pytest.mark.parametrize("size", [(17, 9), (1, 1), (33, 64)])
@pytest.mark.parametrize("name", CODECS)
def test_decoding_gives_the_encoded_size_in_rgb(name: str, size: tuple[int, int], photo: Image.Image) -> None:
    codec = build(name)
    for budget in ("0.2bpp", "24bpp"):
        decoded = codec.decode(codec.encode(photo.resize(size), Budget.parse(budget), Memo()))
        assert (decoded.size, decoded.mode) == (size, "RGB")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
@pytest.mark.parametrize("name", CODECS)
def test_other_pixel_formats_are_coded_as_rgb(name: str, mode: str, photo: Image.Image) -> None:
    codec, small = build(name), photo.resize((40, 30))
    converted = codec.encode(small.convert(mode), Budget.parse("4bpp"), Memo())
    assert converted == codec.encode(small.convert(mode).convert("RGB"), Budget.parse("4bpp"), Memo())


@pytest.mark.parametrize("name", CODECS)
def test_metadata_of_the_original_costs_nothing_and_is_not_kept(name: str, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a long description " * 40
    file = BytesIO()
    photo.save(file, "PNG", exif=exif, icc_profile=b"profile " * 100, dpi=(300, 300))
    codec, budget = build(name), Budget.parse("1bpp")
    tagged = Image.open(file)
    assert codec.encode(tagged, budget, Memo()).stream == codec.encode(photo, budget, Memo()).stream


@pytest.mark.parametrize("name", CODECS)
def test_budgets_share_files_and_do_not_change_each_other(name: str, photo: Image.Image) -> None:
    codec, memo = build(name), Memo()
    shared = [codec.encode(photo, Budget.parse(b), memo) for b in ("2bpp", "0.5bpp", "1bpp")]
    alone = [codec.encode(photo, Budget.parse(b), Memo()) for b in ("2bpp", "0.5bpp", "1bpp")]
    assert shared == alone


def test_settings_of_one_codec_do_not_share_files(photo: Image.Image) -> None:
    memo, budget = Memo(), Budget.parse("1bpp")
    fine = build("jpeg", subsampling="4:4:4").encode(photo, budget, memo)
    coarse = build("jpeg").encode(photo, budget, memo)
    assert fine.stream != coarse.stream


@pytest.mark.parametrize("name", CODECS)
def test_a_picture_comes_back_recognisable_and_better_with_more_bits(name: str, photo: Image.Image) -> None:
    codec, original = build(name), np.asarray(photo, dtype=float)
    errors = []
    for budget in ("0.75bpp", "3bpp"):
        decoded = codec.decode(codec.encode(photo, Budget.parse(budget), Memo()))
        errors.append(((np.asarray(decoded, dtype=float) - original) ** 2).mean())
    assert errors[1] < errors[0] < 500


def test_lowres_gives_the_picture_itself_where_the_budget_allows(photo: Image.Image) -> None:
    codec = build("lowres")
    decoded = codec.decode(codec.encode(photo, Budget.parse("24bpp"), Memo()))
    assert (np.asarray(decoded) == np.asarray(photo)).all()


def test_a_lowres_stream_without_its_size_is_refused(photo: Image.Image) -> None:
    file = BytesIO()
    photo.save(file, "PNG")
    with pytest.raises(ValueError, match="full size"):
        build("lowres").decode(Codes(file.getvalue(), ".png", 8))


@pytest.mark.parametrize("name", CODECS)
def test_a_budget_in_tokens_is_refused(name: str, photo: Image.Image) -> None:
    with pytest.raises(Refusal, match="bpp"):
        build(name).encode(photo, Budget.parse("64"), Memo())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("jpeg", {"subsampling": "4:1"}), ("webp", {"method": 9}), ("avif", {"speed": 11}), ("avif", {"subsampling": 1})],
)
def test_a_wrong_setting_is_a_mistake_of_the_user(name: str, parameters: dict[str, object]) -> None:
    with pytest.raises(UserError, match=name):
        build(name, **parameters)


def test_the_search_climbs_over_a_dent() -> None:
    sizes = [10, 20, 30, 41, 39, 38, 50]
    assert highest_within(sizes.__getitem__, range(7), 40) == (5, True)


def test_the_search_names_the_smallest_file_where_none_fits() -> None:
    sizes = [12, 14, 11, 15]
    assert highest_within(sizes.__getitem__, range(4), 5) == (2, False)


@pytest.mark.parametrize("name", CODECS)
def test_what_the_search_found_can_be_encoded_again_without_it(name: str) -> None:
    image = Image.fromarray(data.coffee()[:96, :128])
    codec = build(name)
    codes = codec.encode(image, Budget.parse("1bpp"), Memo())
    assert codec.repeat(image, codes) == codes
