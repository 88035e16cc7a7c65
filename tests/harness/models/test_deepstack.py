"""Features that run along with the tokens of a Qwen3-VL, against models and layers that are run by hand."""

from dataclasses import dataclass, replace

import families
import pytest
import torch
import vlm
from toksweep.harness.contracts import Reduction, Stage, UserError
from toksweep.harness.models import describe
from toksweep.harness.schedule import lay_out, untouched

PLAIN = torch.no_grad()
LISTS = 3


def close(a, b, atol=5e-6):
    assert a.shape == b.shape
    assert torch.allclose(a, b, rtol=0, atol=atol), float((a - b).abs().max())


@pytest.fixture(params=["sdpa", "eager"])
def model(request, opened):
    return opened("qwen3_vl", request.param)


@dataclass
class Cutting:
    """Keeps tokens from the end, or merges neighbours by unequal weights."""

    merges: bool

    def reduce(self, view, keep):
        size, n, _ = view.tokens.shape
        if not self.merges:
            return Reduction.keep(torch.arange(n - keep, n).expand(size, keep), n)
        groups, weights = torch.arange(n) * keep // n, 1 + torch.arange(n) % 3
        return Reduction.merge(groups.expand(size, n), weights.expand(size, n))


def matrices(recorder):
    """Of every call for one image, what it made of the tokens, [kept, tokens], and the places of the kept ones."""
    return [(made.dense()[0], made.anchor[0]) for made in recorder.made]


def own_features(model, batch):
    """Visual tokens of every image, and the lists that run along, from the model's own features function."""
    given = {name: value for name, value in vlm.native(model, batch).items() if name != "mm_token_type_ids"}
    out = model.model.get_image_features(**given)
    return out.pooler_output, out.deepstack_features


def answered(model, ids, position, tokens, lists):
    """Last logits of the untouched class for one prompt with `tokens` [n, dim] and `lists`, 3 x [n, dim]."""
    output = type(model.container(tokens))(pooler_output=[tokens], deepstack_features=[[own] for own in lists])
    given = {"input_ids": ids, "position_ids": position, "mm_encoder_outputs": {"image": output}}
    return model.model(**given, logits_to_keep=1).logits[:, -1]


def without(model, one, anchors):
    """Ids and positions of a prompt with one picture, of whose tokens those at `anchors` are left."""
    on = one.input_ids[0] == model.placeholder
    left = (~on).clone()
    left[on.nonzero()[anchors, 0]] = True
    position = model.positions(one.input_ids, one.attention_mask.bool(), one.crops)
    return one.input_ids[:, left], position[..., left]


@PLAIN
def test_an_uncut_prompt_has_the_logits_of_the_models_own_additions_bit_for_bit(model):
    one = vlm.batch(model).of(0)
    encoded = model.encode(one)
    lists = encoded.along[0].chunk(LISTS, -1)
    assert all(map(torch.equal, lists, [own[0] for own in own_features(model, one)[1]]))
    ids, position = without(model, one, list(range(16)))
    want = answered(model, ids, position, encoded.tokens[0], lists)
    assert torch.equal(model.prefill(one, encoded, None, untouched(model.shape), seed=0).logits, want)
    assert not torch.allclose(want, answered(model, ids, position, encoded.tokens[0], [torch.zeros(16, 64)] * LISTS))


@PLAIN
@pytest.mark.parametrize("features", [False, True], ids=["behind the projector", "before the projector"])
@pytest.mark.parametrize("merges", [False, True], ids=["kept", "merged"])
def test_a_cut_at_the_projector_cuts_all_lists_by_the_same_weights(model, merges, features):
    one = vlm.batch(model).of(0)
    recorder = vlm.Recorder(Cutting(merges))
    schedule = lay_out((Stage("projector", 6, features=features),), model.shape)
    encoded = model.encode(one)
    state = model.prefill(one, encoded, recorder, schedule, seed=0)
    ((matrix, anchors),) = matrices(recorder)
    tokens, lists = own_features(model, one)
    kept = model.project(matrix @ encoded.features[0]) if features else matrix @ tokens[0]
    want = answered(model, *without(model, one, anchors), kept, [matrix @ own[0] for own in lists])
    close(state.logits, want)


def layer_by_layer(model, one, cuts):
    """Last logits of one prompt with one picture, computed with the LLM's layers alone.

    `cuts` are matrices [kept, tokens] and places of the kept tokens, by layer.
    """
    text = model.text_model
    on = one.input_ids[0] == model.placeholder
    (x,), lists = own_features(model, one)
    tokens, lists = x, [own[0] for own in lists]
    states = model.model.get_input_embeddings()(one.input_ids)
    states[0, on] = tokens
    position = model.positions(one.input_ids, one.attention_mask.bool(), one.crops)
    for number, layer in enumerate(text.layers):
        if number in cuts:
            matrix, anchors = cuts[number]
            places = on.nonzero()[:, 0]
            left = (~on).clone()
            left[places[anchors]] = True
            states[0, places[anchors]] = matrix @ states[0, on]
            states, position, on = states[:, left], position[..., left], on[left]
            lists = [matrix @ own for own in lists]
        length = states.shape[1]
        ahead = torch.full((1, 1, length, length), torch.finfo(states.dtype).min).triu(1)
        turns = text.rotary_emb(states, position)
        states = layer(states, position_embeddings=turns, attention_mask=ahead)
        if number < LISTS:
            states[0, on] += lists[number]
    return model.model.lm_head(text.norm(states))[:, -1]


PLACES = [(1,), (2,), (3,), (4,), (1, 2), (1, 3, 5), (2, 3, 4)]


@PLAIN
@pytest.mark.parametrize("layers", PLACES, ids=str)
@pytest.mark.parametrize("merges", [False, True], ids=["kept", "merged"])
def test_a_cut_inside_the_llm_cuts_what_later_layers_are_still_to_add(model, merges, layers):
    one = vlm.batch(model).of(0)
    stages = tuple(Stage("decoder", 11 - 4 * i, layer=layer) for i, layer in enumerate(layers))
    recorder = vlm.Recorder(Cutting(merges))
    state = model.prefill(one, None, recorder, lay_out(stages, model.shape), seed=0)
    close(state.logits, layer_by_layer(model, one, dict(zip(layers, matrices(recorder), strict=True))))


@PLAIN
def test_layers_run_by_hand_are_the_model(model):
    one = vlm.batch(model).of(0)
    want = model.model(input_ids=one.input_ids, **vlm.native(model, one)).logits[:, -1]
    close(layer_by_layer(model, one, {}), want)


@PLAIN
def test_tokens_that_are_masked_between_layers_are_still_added_to(model):
    batch = vlm.batch(model)
    cuts = (Stage("decoder", 9, layer=1), Stage("decoder", 4, layer=2), Stage("decoder", 2, layer=4))
    removed, masked = (lay_out(tuple(replace(cut, masks=hide) for cut in cuts), model.shape) for hide in (False, True))
    states = [model.prefill(batch, None, Cutting(merges=False), schedule, seed=0) for schedule in (removed, masked)]
    close(states[0].logits, states[1].logits, 1e-5)
    assert [span.counts().tolist() for span in states[1].cutter.spans] == [[16, 30]] * 6


@PLAIN
def test_a_smaller_picture_has_the_lists_of_its_own_grid(model):
    one = vlm.batch(model).of(0)
    state = model.prefill(
        one, None, Cutting(merges=False), lay_out((Stage("pixel", 4, grid=(2, 2)),), model.shape), seed=0
    )
    ids, _ = without(model, one, list(range(4)))
    pixels = model.shrink(one.crops[0], (2, 2))
    grid, kinds = torch.tensor([[1, 4, 4]]), (ids == model.placeholder).int()
    want = model.model(input_ids=ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=kinds)
    close(state.logits, want.logits[:, -1])


def test_a_model_that_adds_more_lists_than_it_has_layers_between_is_refused():
    config = families.qwen3_config()
    config.text_config.num_hidden_layers = LISTS
    with pytest.raises(UserError, match="3 lists of them for 3 layers"):
        describe(config)
