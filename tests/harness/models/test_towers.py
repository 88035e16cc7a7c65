"""Merging inside whole vision towers against the authors' own, on weights that a recipe draws by name."""

import os
import zlib
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from toksweep.harness.contracts import ModelShape
from toksweep.harness.models.calls import Calls, ImageName
from toksweep.harness.models.encoder import Block, Merger
from toksweep.harness.registry import registry
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

FOLDER = os.environ.get("TOKSWEEP_REFERENCE")
pytestmark = pytest.mark.skipif(not FOLDER, reason="TOKSWEEP_REFERENCE names no folder of reference arrays")


def case(method, name):
    with np.load(Path(FOLDER) / f"{method}.npz") as file:
        return {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{name}/")}


def tower(given, make, config, layers, **options):
    """A tower with weights that are drawn by name."""
    names = ("hidden_size", "intermediate_size", "image_size", "patch_size")
    sizes = {name: int(given[f"in/{name}"]) for name in names}
    heads = int(given["in/num_heads"])
    model = make(config(**sizes, num_hidden_layers=layers, num_attention_heads=heads, **options)).eval()
    total = 0.0
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(drawn(f"vision_model.{name}", tensor.shape, int(given["in/fill_seed"])))
                total += float(tensor.double().abs().sum())
    assert total == pytest.approx(float(given["in/fill_abs_sum"]))
    return model


def drawn(name, shape, seed):
    generator = np.random.RandomState((zlib.crc32(name.encode()) + 7919 * seed) % 2**32)
    values = torch.from_numpy(generator.standard_normal(shape).astype(np.float32))
    if name.endswith(".weight"):
        return 1 + 0.1 * values if len(shape) == 1 else values / prod(shape[1:]) ** 0.5
    return (0.1 if name.endswith(".bias") else 0.5) * values


def merged(model, name, image, keep, shape):
    """Hidden states of every layer, and the patches that each row stands for behind the last merging one."""
    method = registry("methods").get(name).build()
    calls = Calls(
        method, [ImageName(str(i), 0) for i in range(len(image))], [shape.grid] * len(image), seed=0, kind="exact",
        device=torch.device("cpu"), shape=shape,
    )  # fmt: skip
    blocks = [Block(x, x.self_attn, x.layer_norm2, x.mlp) for x in model.encoder.layers]
    class_index = 0 if shape.class_token else None
    merger = Merger(blocks, method.stages(keep, shape), calls, class_index, range(len(image)))
    with torch.no_grad(), merger.attached():
        states = model(torch.from_numpy(image), output_hidden_states=True).hidden_states
    return states, [calls.kept([i])[-1] for i in range(len(image))]


@pytest.mark.parametrize("name", ["clip_keep0.5", "clip_keep0.3"])
def test_the_tower_of_auroracap_gives_the_projector_what_the_authors_gives(name):
    given = case("auroracap", name)
    layers, side = int(given["in/layers"]), int(given["in/image_size"]) // int(given["in/patch_size"])
    model = tower(given, CLIPVisionModel, CLIPVisionConfig, layers)
    shape = ModelShape("llava", side * side, (side, side), layers, 1, True, feature_layers=layers - 1)
    keep = int(given["out/tokens_per_layer"][-2]) - 1
    states, kept = merged(model, "auroracap", given["in/image"], keep, shape)
    assert [s.shape[1] for s in states[1:-1]] == given["out/tokens_per_layer"][:-1].tolist()
    assert np.allclose(states[-2][:, 1:].numpy(), given["out/selected"], rtol=1e-3, atol=1e-4)
    sizes = [[1, *(len(members) for members in rows)] for rows in kept]
    assert sizes == given["out/size_before_last"][..., 0].tolist()


def test_the_tower_of_tinychart_merges_as_the_authors_does():
    given = case("tinychart", "siglip_r6")
    layers, side = int(given["in/layers_kept"]), int(given["in/image_size"]) // int(given["in/patch_size"])
    model = tower(given, SiglipVisionModel, SiglipVisionConfig, layers, vision_use_head=False)
    shape = ModelShape("llava", side * side, (side, side), layers, 1, False)
    states, kept = merged(model, "tinychart", given["in/image"], int(given["out/tokens_per_layer"][-1]), shape)
    assert [s.shape[1] for s in states[1:]] == given["out/tokens_per_layer"].tolist()
    assert np.allclose(states[-1].numpy(), given["out/hidden_last"], rtol=1e-3, atol=1e-4)
    for rows, source in zip(kept, given["out/source"], strict=True):
        assert all(set(np.flatnonzero(source == row)) == set(members) for row, members in enumerate(rows))
