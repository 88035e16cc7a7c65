"""The tokenizer `titok` keeps its budget to the bit, codes any picture size, and knows the published checkpoints."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from toksweep.cli import app
from toksweep.harness.checkpoints import known_to, published
from toksweep.harness.contracts import Budget, Codes, Memo, Network, Refusal, UserError
from toksweep.harness.registry import registry
from toksweep.methods.bitstream import pack, unpack
from toksweep.methods.titok import TiTok, TiTokConfig, ViTSize
from toksweep.methods.titok_checkpoints import CONFIGS, save
from toksweep.methods.tokenizers.titok import LoadedTiTok, TiTokTokenizer
from toksweep.results.store import ResultsFolder
from typer.testing import CliRunner

CONFIG = TiTokConfig(
    32, 8, 16, 5, ViTSize(32, 1, 4), ViTSize(48, 1, 4), "fsq", (8, 8, 8, 4, 2), nested=True, tiled=True
)
KINDS = {
    "nested": CONFIG,
    "fixed": replace(CONFIG, nested=False, tiled=False, quantizer="unit_vq", parts=(512,)),
    "continuous": replace(CONFIG, nested=False, quantizer="half", parts=()),
    "groups": replace(CONFIG, quantizer="bsq", parts=(2, 3), latents=12),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = {}
    for kind, config in KINDS.items():
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(kind)
        save(TiTok(config), folder)
        found[kind] = str(folder)
    return found


@pytest.fixture(scope="module")
def loaded(folders: dict[str, str]) -> dict[str, LoadedTiTok]:
    return {kind: TiTokTokenizer(folder).load("cpu", "float32") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(data.chelsea()).crop((100, 50, 170, 90))


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


@pytest.mark.parametrize(("kind", "budget", "tokens", "bits"), [
    ("nested", "5", 6 * 5, 4 + 6 * 5 * 12), ("nested", "50%", 6 * 8, 4 + 6 * 8 * 12), ("nested", "16", 96, 4 + 96 * 12),
    ("fixed", "100%", 16, 16 * 9), ("continuous", "100%", 96, 96 * 5 * 16), ("groups", "7", 42, 4 + 42 * 5),
])  # fmt: skip
def test_a_budget_of_tokens_is_kept_and_its_bits_are_those_of_the_stream(
    kind: str, budget: str, tokens: int, bits: int, loaded: dict[str, LoadedTiTok], photo: Image.Image
) -> None:
    codes = loaded[kind].encode(photo, Budget.parse(budget), Memo())
    assert (codes.tokens, codes.bits, codes.infeasible) == (tokens, bits, False)
    assert len(codes.stream) == math.ceil(bits / 8)
    assert codes.full_tokens == (tokens if budget in ("100%", "16") else 6 * KINDS[kind].latents)
    assert loaded[kind].decode(codes).size == photo.size


@pytest.mark.parametrize("budget", ["0.02bpp", "0.2bpp", "24bpp"])
def test_bits_per_pixel_buy_as_many_tokens_as_fit(
    budget: str, loaded: dict[str, LoadedTiTok], photo: Image.Image
) -> None:
    asked = Budget.parse(budget)
    codes = loaded["nested"].encode(photo, asked, Memo())
    limit, one_more = asked.value * 70 * 40, codes.bits + 6 * 12
    if codes.infeasible:
        assert codes.tokens == 6 and codes.bits > limit
    else:
        assert codes.bits <= limit
        assert one_more > limit or codes.tokens == 96
    assert codes.infeasible == (budget == "0.02bpp")


def test_the_stream_and_the_size_are_all_that_decoding_needs(
    loaded: dict[str, LoadedTiTok], photo: Image.Image
) -> None:
    for network in loaded.values():
        budget = Budget.parse("6" if network.config.nested else "100%")
        codes = network.encode(photo, budget, Memo())
        bare = Codes(codes.stream, codes.suffix, codes.bits, payload=photo.size)
        assert np.array_equal(levels(network.decode(bare)), levels(network.decode(codes)))
    with pytest.raises(ValueError, match="ends before bit"):
        network.decode(replace(codes, stream=codes.stream[:3]))


def test_a_prefix_is_what_the_network_draws_from_the_first_tokens(
    loaded: dict[str, LoadedTiTok], photo: Image.Image
) -> None:
    coder, tile = loaded["nested"], photo.crop((0, 0, 32, 32))
    memo = Memo()
    for length in (1, 4, 16):
        codes = coder.encode(tile, Budget.parse(length), memo)
        with torch.no_grad():
            x = torch.from_numpy(np.array(tile)).permute(2, 0, 1)[None] / 255
            drawn = coder.network.decode(coder.network.encode(x)[:, :length])
        want = (drawn[0] * 255).clamp(0, 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(levels(coder.decode(codes)), want)


def test_tiles_are_coded_one_by_one_and_joined(loaded: dict[str, LoadedTiTok], photo: Image.Image) -> None:
    coder, budget = loaded["nested"], Budget.parse(4)
    whole = levels(coder.decode(coder.encode(photo, budget, Memo())))
    alone = coder.decode(coder.encode(photo.crop((32, 0, 64, 32)), budget, Memo()))
    assert np.abs(whole[:32, 32:64] - levels(alone)).max() <= 1


def test_without_tiles_a_picture_is_scaled_to_fit_and_back(
    folders: dict[str, str], loaded: dict[str, LoadedTiTok], photo: Image.Image
) -> None:
    one = TiTokTokenizer(folders["nested"], tiles=False).load("cpu", "float32")
    codes = one.encode(photo, Budget.parse(16), Memo())
    assert (codes.tokens, codes.bits) == (16, 4 + 16 * 12)
    assert one.decode(codes).size == photo.size
    square = photo.crop((0, 0, 32, 32))
    assert one.encode(square, Budget.parse(16), Memo()) == loaded["nested"].encode(square, Budget.parse(16), Memo())
    lengths = [one.decode(one.encode(photo.resize(size), Budget.parse(2), Memo())).size for size in ((1, 1), (3, 90))]
    assert lengths == [(1, 1), (3, 90)]


def test_flops_are_counted_per_tile_and_fall_with_the_tokens(
    loaded: dict[str, LoadedTiTok], photo: Image.Image
) -> None:
    coder = loaded["nested"]
    tile = photo.crop((0, 0, 32, 32))
    spent = [
        coder.flops(p.size, coder.encode(p, Budget.parse(n), Memo())) for p, n in ((tile, 16), (photo, 16), (tile, 2))
    ]
    assert spent[1] == (6 * spent[0].encode, 6 * spent[0].decode)
    assert spent[2].encode == spent[0].encode and spent[2].decode < spent[0].decode

    def by_hand(width: int, tokens: int) -> int:
        """Two per multiply-add of a layer's four projections, perceptron and attention."""
        return 2 * tokens * 12 * width**2 + 4 * tokens**2 * width

    assert spent[0].encode == by_hand(32, 33) + 2 * 32 * 192 * 16 + 2 * 16 * 32 * 5
    assert spent[0].decode == by_hand(48, 33) + 2 * 16 * 5 * 48 + 2 * 16 * 48 * 192 + 2 * 32 * 32 * 3 * 3 * 9


def test_16_bit_weights_code_as_well(folders: dict[str, str], photo: Image.Image) -> None:
    coder = TiTokTokenizer(folders["fixed"]).load("cpu", "bf16")
    assert coder.decode(coder.encode(photo, Budget.parse("100%"), Memo())).size == photo.size


def test_published_checkpoints_are_known_by_name_with_their_rates() -> None:
    assert known_to("titok") == [*CONFIGS, "toksweep-mini-tok"]
    for name, config in CONFIGS.items():
        said = published()[name]
        built = registry("methods").get("titok").build({"checkpoint": name})
        assert isinstance(built, Network)
        assert built.variable == config.nested == name.startswith("one_d_piece")
        assert said.tokens == config.latents
        bits = 16 * config.token_size if config.quantizer == "half" else math.log2(config.parts[0])
        assert said.codes == (None if config.quantizer == "half" else config.parts[0])
        assert said.bits_per_pixel == pytest.approx(config.latents * bits / 256**2, rel=5e-3)


@pytest.mark.parametrize(("name", "budget", "says"), [
    ("one_d_piece_l", "300", "above the full count of 256"), ("one_d_piece_l", "0.1%", "less than one token"),
    ("titok_l32", "16", "fixed rate"),
])  # fmt: skip
def test_budgets_that_no_picture_can_be_coded_at_are_refused(name: str, budget: str, says: str) -> None:
    with pytest.raises(Refusal, match=says):
        TiTokTokenizer(name).check(Budget.parse(budget))


def test_bad_checkpoints_and_parameters_are_refused_in_a_sentence(tmp_path: Path, folders: dict[str, str]) -> None:
    build = registry("methods").get("titok").build
    with pytest.raises(UserError, match="tiles must be True or False"):
        build({"checkpoint": "titok_l32", "tiles": 3})
    with pytest.raises(UserError, match="neither a folder"):
        build({"checkpoint": "titok_l31"})
    with pytest.raises(UserError, match="cannot be read"):
        _ = TiTokTokenizer(str(tmp_path)).variable
    (tmp_path / "config.json").write_text(json.dumps(KINDS["fixed"].to_dict()))
    (tmp_path / "model.safetensors").write_bytes(Path(folders["nested"], "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="not those of this network"):
        TiTokTokenizer(str(tmp_path)).load("cpu", "float32")
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read as a tokenizer"):
        TiTokTokenizer(str(tmp_path)).load("cpu", "float32")


def test_a_sweep_draws_a_curve_of_prefixes_and_one_cell_of_a_fixed_rate(
    tmp_path: Path, folders: dict[str, str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(data.chelsea()[:40, :50]).save(pictures / "cat.png")
    Image.fromarray(data.chelsea()[:20, :20, 0]).save(pictures / "grey.png")
    methods = (f"titok(checkpoint={folders['nested']!r})", f"titok(checkpoint={folders['fixed']!r})")
    chosen = [flag for method in methods for flag in ("--method", method)]
    told = CliRunner().invoke(app, [
        "sweep", "--task", "photos", "--data", f"photos={pictures}", "--budget", "2", "--budget", "50%", "--budget",
        "1bpp", "--no-latency", "--json", "--out", str(tmp_path / "out"), *chosen,
    ])  # fmt: skip
    assert told.exit_code == 0, told.stdout + told.stderr
    out = ResultsFolder(tmp_path / "out")
    cells = {(c.label, c.budget): list(out.records(c.work_id).values()) for c in out.cells() if c.method == "titok"}
    assert {(folders["nested"] in label, budget) for label, budget in cells} == {
        (True, "2"), (True, "50%"), (True, "1bpp"), (False, None),
    }  # fmt: skip
    for records in cells.values():
        assert len(records) == 2
        for record in records:
            assert record.error is None
            assert record.flops and record.bits and record.tokens


@pytest.mark.parametrize("sizes", [(2,), (4096, 3), (1, 5), (64000,), (2**36, 2)])
def test_packed_numbers_come_back(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    fields = [(rng.integers(size, size=n), size) for n, size in zip((7, 3), sizes, strict=False)]
    fields.append((np.array([size - 1 for size in sizes]), max(sizes)))
    stream = pack(fields)
    bits = sum(len(numbers) * math.ceil(math.log2(size)) for numbers, size in fields)
    assert len(stream) == math.ceil(bits / 8)
    for got, (numbers, _) in zip(unpack(stream, [(len(n), s) for n, s in fields]), fields, strict=True):
        assert np.array_equal(got, numbers)
