"""YAML and flags: validated, in one sentence."""

from pathlib import Path

import pytest
from toksweep.harness.contracts import UserError
from toksweep.harness.spec import load_spec


def spec(**flags):
    return load_spec(None, flags)


def labels(section):
    return [m.label for m in section.methods]


def test_no_argument_is_the_default_sweep_each_family_with_its_own_methods():
    default = spec()
    assert default.tasks == ("photos", "text", "faces", "synth_vqa", "synth_video_qa")
    assert labels(default.sections["reconstruction"])[:4] == ["jpeg", "webp", "avif", "lowres"]
    assert default.out == Path("toksweep-out")


def test_quick_is_smaller_and_the_users_own_limit_stands():
    assert load_spec(None, {}, quick=True).sections["vqa"].limit == 32
    assert load_spec(None, {"limit": 2}, quick=True).sections["vqa"].limit == 2
    assert load_spec(None, {"tasks": ["photos"]}, quick=True).sections["reconstruction"].limit == 4


def test_who_names_a_task_gets_all_of_it():
    assert spec(tasks=["synth_vqa"]).sections["vqa"].limit is None


def test_flags_replace_the_keys_of_a_file_and_defaults_fill_the_rest(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("tasks: [photos]\nmethods: [jpeg, webp]\nbudgets: [1bpp]\nlimit: 3\n")
    merged = load_spec(file, {"methods": ["avif"], "limit": None})
    section = merged.sections["reconstruction"]
    assert (merged.tasks, labels(section), section.limit) == (("photos",), ["avif"], 3)


def test_a_file_may_speak_of_each_family_on_its_own(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("tasks: [photos, synth_vqa]\nmethods: {vqa: [random]}\nbudgets: {vqa: [20%]}\nlimit: {vqa: 5}\n")
    merged = load_spec(file, {})
    assert labels(merged.sections["vqa"]) == ["random"]
    assert merged.sections["vqa"].limit == 5
    assert labels(merged.sections["reconstruction"])[0] == "jpeg"


def test_a_task_alone_brings_the_methods_and_budgets_of_its_family():
    section = spec(tasks=["images_qa"], models=["x"]).sections["vqa"]
    assert "divprune" in labels(section)
    assert all(b.unit == "percent" for b in section.budgets)


def test_a_method_may_be_a_mapping_with_parameters(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("tasks: [images_qa]\nmethods: [{name: fastv, layer: 3}]\nbudgets: [64]\nmodels: [m]\n")
    assert labels(load_spec(file, {}).sections["vqa"]) == ["fastv(layer=3)"]


def test_what_is_asked_twice_is_run_once():
    twice = spec(tasks=["photos", "photos"], methods=["jpeg", "jpeg"], budgets=["1bpp", "1.0bpp"])
    (section,) = twice.sections.values()
    assert (len(twice.tasks), len(section.methods), len(section.budgets)) == (1, 1, 1)


def test_a_spec_says_how_to_repeat_itself(tmp_path):
    import yaml

    for flags in ({"tasks": ["photos"], "methods": ["jpeg"], "budgets": ["1bpp"], "limit": 2, "seeds": [4]}, {}):
        first = load_spec(None, flags)
        (tmp_path / "again.yaml").write_text(yaml.safe_dump(first.to_json()))
        assert load_spec(tmp_path / "again.yaml", {}) == first


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"tasks": ["fotos"]}, "Unknown task 'fotos'.*near: photos"),
        ({"methods": ["jpg"]}, "Unknown method 'jpg'.*near: jpeg"),
        ({"methods": ["fastv(depth=3)"], "tasks": ["photos"]}, "no parameter 'depth'"),
        ({"budgets": ["0"]}, "not above 0"),
        ({"budgets": ["many"]}, "not a number"),
        ({"limit": 0}, "limit in the command must be a whole number of at least 1"),
        ({"dtype": "int8"}, "dtype in the command must be one of"),
        ({"data": {"photos": "/no/such/folder"}, "tasks": ["photos"]}, "there is no such folder"),
        ({"data": {"text": "."}, "tasks": ["photos"]}, "add --task text"),
        ({"seeds": [-1]}, "seeds"),
    ],
)
def test_bad_flags_are_one_sentence(flags, says):
    with pytest.raises(UserError, match=says) as error:
        spec(**flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tasks: [photos\n", "is not valid YAML in line"),
        ("- photos\n", "must hold keys"),
        ("taskz: [photos]\n", "unknown key 'taskz'; near: tasks"),
        ("tasks: [photos]\nlimit: many\n", "limit in .* must be a whole number"),
        ("tasks: [photos]\nbudgets: [[1]]\n", r"Budget \[1\] is not a number"),
        ("tasks: [photos]\nmethods: [3]\n", "A method is a name"),
        ("tasks: [images_qa]\nmethods: [{fastv: {layer: 3}}]\n", r"fastv\(layer=3\) or .*, not \{'fastv'"),
        ("tasks: [images_qa]\nmethods: {fastv: {layer: 3}}\n", r"methods in .* family 'fastv'.* fastv\(layer=3\)"),
        ("methods: {vqaa: [random]}\n", r"methods in .*bad\.yaml has the unknown family 'vqaa'; near: vqa"),
        ("budgets: {pictures: [1bpp]}\n", "budgets in .* family 'pictures'; there are reconstruction, video_qa, vqa"),
        ("limit: {1: 3}\n", "limit in .* unknown family 1"),
        ("budgets: {name: 1bpp}\n", "budgets in .* unknown family 'name'"),
        ("tasks: photos\nlatency: maybe\n", "latency in .* must be true or false"),
        ("tasks: !!python/object/apply:os.system [ls]\n", "is not valid YAML"),
    ],
)
def test_a_malformed_file_is_one_sentence_that_names_it(tmp_path, text, says):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=says) as error:
        load_spec(file, {})
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_sentence():
    with pytest.raises(UserError, match=r"none\.yaml cannot be read"):
        load_spec(Path("none.yaml"), {})
