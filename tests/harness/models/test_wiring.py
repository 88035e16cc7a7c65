"""Our cuts against the authors' patched models, run on tiny random weights."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import vlm
from toksweep.harness.contracts import Stage
from toksweep.harness.models.base import Batch
from toksweep.harness.models.calls import Calls, ImageName
from toksweep.harness.models.cutter import Cutter, whole_span
from toksweep.harness.models.llava import Llava
from toksweep.harness.registry import registry
from toksweep.harness.schedule import lay_out
from toksweep.methods.compressors.fastv import FastV

FOLDER = os.environ.get("TOKSWEEP_REFERENCE")
pytestmark = pytest.mark.skipif(not FOLDER, reason="TOKSWEEP_REFERENCE names no folder of reference arrays")


def cases(stem):
    """Arrays of a file by case, as `in/name` and `out/name`."""
    if not FOLDER:
        return {}
    found = {}
    with np.load(Path(FOLDER) / f"{stem}.npz") as file:
        for key in file.files:
            case, _, rest = key.partition("/")
            found.setdefault(case, {})[rest] = file[key]
    return found


def weights(case, prefix):
    return {
        k.removeprefix(f"in/{prefix}/"): torch.from_numpy(v) for k, v in case.items() if k.startswith(f"in/{prefix}/")
    }


def close(got, want):
    assert torch.allclose(got, torch.from_numpy(want), rtol=1e-4, atol=1e-4)


def in_every_layer(cutter, want):
    """Rotary positions of every layer, against rows padded with -1."""
    for span, row in zip(cutter.spans, want, strict=True):
        assert span.position[0].tolist() == [p for p in row.tolist() if p >= 0]


def llama(case, kernel="sdpa"):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**json.loads(str(case["in/config"])))
    config._attn_implementation = kernel
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(weights(case, "weights"), strict=False)
    return model


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(cases("wiring_fastv")))
def test_fastv_gives_the_logits_of_the_authors_model(name, kernel):
    from transformers import DynamicCache

    case = cases("wiring_fastv")[name]
    model = llama(case, kernel)
    embeds = torch.from_numpy(case["in/inputs_embeds"])
    start, end, keep = int(case["in/visual_start"]), int(case["in/visual_end"]), int(case["in/arg_k"])
    visual = torch.full(embeds.shape[:2], -1)
    visual[:, start:end] = 0
    span = whole_span(visual, torch.ones_like(visual, dtype=torch.bool))
    fastv = FastV(layer=int(case["in/arg_K"]))
    grid = (1, end - start)
    stage = Stage("decoder", keep, layer=fastv.layer, reads=("last_attention",))
    calls = Calls(fastv, [ImageName("s", 0)], grid, seed=0, kind="exact", device=torch.device("cpu"))
    cutter, cache = Cutter(model.model, [stage], calls, span), DynamicCache(config=model.config)

    def step(context, valid, position, **inputs):
        with context:
            out = model(attention_mask=valid.long(), position_ids=position, past_key_values=cache, **inputs)
        return out.logits[0, -1]

    logits = step(cutter.prefill(), span.valid, span.position, inputs_embeds=embeds)
    close(logits, case["out/logits_last"])
    ((kept),) = calls.kept([0])
    if "out/masked_visual" in case:
        assert sorted({*range(end - start)} - {*kept}) == case["out/masked_visual"].tolist()
        return
    assert kept == case["out/cut0/kept_visual"].tolist()
    assert [s.valid.shape[1] for s in cutter.spans] == case["out/layer_input_length"].tolist()
    in_every_layer(cutter, case["out/position_ids"])
    if "out/decode_logits" not in case:  # this code has no cache: it selects again at every step
        return
    assert [layer.keys.shape[-2] for layer in cache.layers] == case["out/kv_lengths"].tolist()
    valid, position = span.valid, span.position[:, -1:]
    for number, token in enumerate(case["out/decode_tokens"].tolist()):
        close(logits, case["out/decode_logits"][number])
        assert int(logits.argmax()) == token
        if number == 3:
            break
        valid, position = torch.cat([valid, valid[:, :1]], 1), position + 1
        assert case["out/decode_position_ids"][number].tolist() == [int(position)] * len(cutter.spans)
        logits = step(cutter.decoding(), valid, position, input_ids=torch.tensor([[token]]))
    assert [layer.keys.shape[-2] for layer in cache.layers] == case["out/kv_lengths_after_decode"].tolist()


def llava(case):
    """The case's weights in one LLaVA; a row is added to the vocabulary for the placeholder."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(**json.loads(str(case["in/config"])))
    vision = CLIPVisionConfig(**json.loads(str(case["in/vision_config"])))
    words = text.vocab_size
    text.vocab_size = words + 1
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=words, vision_feature_layer=-2)
    state = {}
    for name, tensor in weights(case, "weights").items():
        rest = name.removeprefix("model.")
        grown = torch.cat([tensor, torch.zeros_like(tensor[:1])]) if len(tensor) == words else tensor
        state[name if rest == name else f"model.language_model.{rest}"] = grown
    for name, tensor in weights(case, "vision_weights").items():
        state[f"model.vision_tower.{name.removeprefix('vision_model.')}"] = tensor
    for name, tensor in weights(case, "projector_weights").items():
        layer, kind = name.split(".")
        state[f"model.multi_modal_projector.linear_{1 if layer == '0' else 2}.{kind}"] = tensor
    model = LlavaForConditionalGeneration(config).eval()
    model.load_state_dict(state, strict=False)
    return Llava(model, tiny.processor(), *Llava.describe(config), "reference")


@torch.no_grad()
@pytest.mark.parametrize("name", list(cases("wiring_divprune")))
def test_divprune_gives_the_logits_of_the_authors_model(name):
    case = cases("wiring_divprune")[name]
    model = llava(case)
    ids, n = case["in/text_input_ids"].tolist(), model.shape.tokens
    place = ids.index(-200)
    prompt = torch.tensor([[*ids[:place], *[model.placeholder] * n, *ids[place + 1 :]]])
    batch = Batch(
        ("s",), (None,), (0,), prompt, torch.ones_like(prompt), torch.from_numpy(case["in/pixel_values"]), None
    )
    words = model.placeholder
    whole = model.prefill(batch, None, None, lay_out((), model.shape), seed=0)
    close(whole.logits[0, :words], case["out/baseline_logits_last"])

    divprune, _, _ = vlm.cell(model, "divprune", n)
    schedule = lay_out((Stage("projector", int(case["in/arg_k"])),), model.shape)
    state = model.prefill(batch, None, divprune, schedule, seed=0)
    assert state.calls.kept([0]) == (case["out/kept_visual"].tolist(),)
    assert [s.valid.shape[1] for s in state.cutter.spans] == case["out/layer_input_length"].tolist()
    in_every_layer(state.cutter, case["out/position_ids"])
    for number, token in enumerate(case["out/decode_tokens"].tolist()):
        close(state.logits[0, :words], case["out/decode_logits"][number])
        assert int(state.logits[0, :words].argmax()) == token
        if number < 3:
            assert int(state.position) + 1 == case["out/decode_position_ids"][number, 0]
            state = model.decode_step(state, torch.tensor([token]))


def test_the_methods_that_claim_wiring_are_those_held_here():
    claimed = {e.name for e in registry("methods") if e.meta.get("verified") == "wiring"}
    assert claimed == {"divprune", "fastv"}
