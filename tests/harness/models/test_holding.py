"""Tokens at several places at once, against attention layers that are run on tables written out by hand."""

import families
import pytest
import torch
import vlm
from toksweep.harness.contracts import Budget, Refusal, UserError
from toksweep.harness.digest import code_digest
from toksweep.harness.models import open_model
from toksweep.harness.models.holding import held_places, turns
from toksweep.harness.registry import registry
from toksweep.harness.schedule import resolve
from toksweep.harness.spec import MethodChoice

PLAIN = torch.no_grad()


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return open_model(str(families.save(tmp_path_factory.mktemp("qwen") / "model", "qwen2_5_vl")))


def test_a_token_holds_places_of_its_members_from_the_last_to_the_first_and_round_again():
    assert held_places([[0, 1, 3, 4], [5, 2]], 3).tolist() == [[4, 3, 1], [5, 2, 5]]
    assert held_places([[7]], 2).tolist() == [[7, 7]]
    assert held_places([], 2).shape == (0, 2)


def angles(tokens, position_ids):
    """A rotary embedding whose tables are the positions themselves, of four frequencies."""
    table = (position_ids if position_ids.ndim == 2 else position_ids[1])[..., None] * torch.tensor([1000, 100, 10, 1])
    return table.repeat(1, 1, 2), -table.repeat(1, 1, 2)


@pytest.mark.parametrize(
    ("held", "rope", "expected"),
    [
        ([[[3]], [[7]]], {}, [3000, 300, 70, 7]),  # one number: two bands of its four channels
        ([[[3]], [[7]], [[5]]], {}, [3000, 700, 50, 3]),  # three places of four channels: by turns
        ([[[[1]], [[3]], [[5]]], [[[2]], [[4]], [[6]]]], {"mrope_section": [2, 2, 0]}, [1000, 200, 30, 4]),
        ([[[[1]], [[3]], [[5]]], [[[2]], [[4]], [[6]]]], {"mrope_section": [1, 2, 1]}, [1000, 200, 30, 4]),
    ],
)
def test_every_place_turns_its_share_of_the_channels(held, rope, expected):
    cosines, sines = turns(angles, torch.zeros(1, 1, 8), torch.tensor(held), rope)
    assert cosines.tolist() == [[expected * 2]]
    assert sines.tolist() == [[[-x for x in expected * 2]]]


def test_interleaved_channels_have_no_shares():
    with pytest.raises(Refusal, match="interleaves"):
        turns(angles, torch.zeros(1, 1, 8), torch.zeros(2, 3, 1, 1), {"mrope_interleaved": True})


def written_out(model, embedded, places):
    """The LLM on [1, tokens, dim]; `places` lists the positions of every token, numbers or threes."""
    llm, n = model.text_model, embedded.shape[1]
    rope, count = llm.config.rope_parameters, len(places[0])
    half = llm.layers[0].self_attn.head_dim // 2
    sections = rope.get("mrope_section", [half])
    table = torch.zeros(n, half)
    for token, held in enumerate(places):
        for channel in range(half):
            number = next(s for s in range(len(sections)) if channel < sum(sections[: s + 1]))
            share = sections[number] // count
            place = held[(channel - sum(sections[:number])) // share]
            place = place[number] if len(sections) > 1 else place
            table[token, channel] = place * rope["rope_theta"] ** (-channel / half)
    table = table.repeat(1, 2)[None]
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
    for layer in llm.layers:
        seen = layer.input_layernorm(embedded)
        out = layer.self_attn(seen, position_embeddings=(table.cos(), table.sin()), attention_mask=mask)[0]
        embedded = embedded + out
        embedded = embedded + layer.mlp(layer.post_attention_layernorm(embedded))
    return model.model.lm_head(llm.norm(embedded))[0, -1]


@PLAIN
@pytest.mark.parametrize("parameters", [{"k": 1}, {"k": 4}, {"k": 8, "of": "tome"}, {"k": 2, "of": "m3"}])
def test_merged_tokens_attend_from_all_their_places(llava, parameters):
    check(llava, vlm.batch(llava), parameters)


@PLAIN
def test_places_of_three_numbers_turn_the_channels_of_each(qwen):
    sections = qwen.text_model.config.rope_parameters["mrope_section"]
    qwen.text_model.config.rope_parameters["mrope_section"] = qwen.text_model.rotary_emb.mrope_section = [2, 4, 2]
    try:
        check(qwen, vlm.batch(qwen), {"k": 2})
    finally:
        qwen.text_model.config.rope_parameters["mrope_section"] = qwen.text_model.rotary_emb.mrope_section = sections


def check(model, batch, parameters):
    choice = MethodChoice("ppe", parameters)
    entry, method = choice.entry, choice.entry.build(parameters)
    schedule = resolve(method, Budget.parse("40%"), "mean", model.shape, merges=True)
    for row in range(2):
        one, _ = model.single(batch, None, row)
        entered = []
        hook = model.text_model.layers[0].register_forward_pre_hook(lambda _, args, seen=entered: seen.append(args[0]))
        state = model.prefill(one, None, method, schedule, seed=0, budget_kind=entry.meta["budget_kind"])
        hook.remove()
        where = model.positions(one.input_ids, one.attention_mask.bool(), one.crops)
        spots = where[..., 0, :].movedim(-1, 0).tolist()  # numbers, or threes
        visual = (one.input_ids[0] == model.placeholder).nonzero()[:, 0].tolist()
        tokens = [own if isinstance(own, list) else [own] for own in state.calls.kept(one.images_of(0))[-1]]
        assert any(len(own) > 1 for own in tokens)
        places, waiting = [], [[visual[m] for m in sorted(own, reverse=True)] for own in tokens]
        for slot in range(len(spots)):
            if slot not in visual:
                while waiting and max(waiting[0]) < slot:  # the tokens of the picture in front of this word
                    places.append(waiting.pop(0))
                places.append([slot])
        held = [[spots[own[i % len(own)]] for i in range(parameters["k"])] for own in places]
        want = written_out(model, entered[0], held)
        assert torch.allclose(state.logits[0], want, rtol=0, atol=1e-5)


@PLAIN
def test_how_many_places_there_are_makes_a_difference_and_decoding_goes_on_from_them(llava):
    batch, found = vlm.batch(llava), []
    for places in (1, 2):
        method, schedule, kind = vlm.cell(llava, "ppe", "40%", k=places)
        state = llava.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
        found.append(state.logits)
        token = state.logits.argmax(-1)
        again = llava.prefill(vlm.longer(batch, token[:, None]), None, method, schedule, seed=0, budget_kind=kind)
        assert torch.allclose(llava.decode_step(state, token).logits, again.logits, rtol=0, atol=1e-5)
    assert not torch.allclose(*found, atol=1e-3)


def test_an_operator_is_what_the_method_under_it_is():
    ppe, tome = registry("methods").get("ppe"), registry("methods").get("tome")
    both = MethodChoice("ppe", {"of": "tome(inflect=-1)"}).entry
    assert both.meta["places"] == tome.meta["places"]
    assert (both.name, both.meta["paper"], both.meta["verified"]) == ("ppe", ppe.meta["paper"], "paper")
    assert len({code_digest(ppe), code_digest(tome), code_digest(both)}) == 3
    assert MethodChoice("ppe", {"k": 2}).entry == ppe


@pytest.mark.parametrize(
    ("of", "error", "message"),
    [
        ("tom", UserError, "Unknown method 'tom'; near: tome"),
        ("divprune", UserError, "ppe works on top of a method that merges, and divprune is none"),
        ("tome(r=3)", UserError, "tome has no parameter 'r'"),
        ("visionzip", Refusal, "visionzip keeps a class token"),
        ("visiondrop", Refusal, "class token"),
        ("holitom", Refusal, "that is for the last cut, in front of the LLM"),
    ],
)
def test_what_cannot_work_on_top_of_another_is_said(of, error, message):
    shape, _ = families.info("llava")
    with pytest.raises(error, match=message):
        method = MethodChoice.parse({"name": "ppe", "of": of}).entry.build({"of": of})
        resolve(method, Budget.parse("40%"), "mean", shape, merges=True)
