"""Names: found without imports, in our folders, in files and behind entry points."""

import subprocess
import sys

import pytest
from toksweep.harness.contracts import UserError
from toksweep.harness.registry import GROUPS, Registry, label, parse_call, registry, scan

METHOD = '''
from toksweep import Reduction, compressor

@compressor("{name}", places=("projector",))
def pick(view, keep, *, start=0):
    """Keep the first tokens."""
    import torch
    return Reduction.keep(torch.arange(start, start + keep).expand(len(view.tokens), keep), view.tokens.shape[1])
'''


@pytest.mark.parametrize("group", GROUPS)
def test_every_registered_name_loads_and_is_documented(group):
    found = list(registry(group))
    assert found
    assert registry(group).broken == []
    for entry in found:
        assert callable(entry.load())
        assert entry.summary.endswith((".", ":")), f"{entry.name} has no one-sentence summary"


def test_listing_names_imports_no_heavy_library():
    code = (
        "import sys; from toksweep.harness.listing import listing; "
        "[listing(w) for w in ('methods', 'tasks', 'metrics')];"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pandas', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_answered_with_near_names():
    with pytest.raises(UserError, match="near: fastv"):
        registry("methods").get("fast_v")


def test_a_file_is_a_method_like_any_other(tmp_path):
    (tmp_path / "mine.py").write_text(METHOD.format(name="mine"))
    entry = registry("methods").get(str(tmp_path / "mine.py"))
    assert (entry.name, entry.kind, entry.parameters()) == ("mine", "compressor", {"start": 0})
    assert registry("methods").get("mine") == entry


def test_an_unknown_parameter_is_answered_with_those_that_there_are(tmp_path):
    (tmp_path / "mine2.py").write_text(METHOD.format(name="mine2"))
    with pytest.raises(UserError, match=r"has no parameter 'begin'.*start=0"):
        registry("methods").get(str(tmp_path / "mine2.py")).check({"begin": 1})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:\n", "cannot be read"),
        ("x = 1\n", "registers: none"),
        ("from toksweep import compressor\n@compressor(name, places=())\ndef f(): ...\n", "must be literals"),
        (
            "from toksweep import compressor\n@compressor('a', places=('nowhere',))\ndef f(): ...\n",
            "unknown place 'nowhere'",
        ),
        ("from toksweep import compressor\n@compressor('a', plases=())\ndef f(): ...\n", "unexpected keyword|missing"),
    ],
)
def test_a_file_that_cannot_serve_says_why(tmp_path, text, says):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UserError, match=says):
        Registry("methods").add_file(tmp_path / "bad.py")


def test_two_methods_of_one_name_are_an_error_that_names_both_files(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.py").write_text(METHOD.format(name="twice"))
    found = Registry("methods")
    found.add_file(tmp_path / "a" / "m.py")
    with pytest.raises(UserError, match=r"a/m\.py.*b/m\.py"):
        found.add_file(tmp_path / "b" / "m.py")


def test_a_third_partys_package_plugs_in_by_entry_point_and_a_broken_one_is_shown(tmp_path):
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('listing must not import me')\n")
    (package / "method.py").write_text(METHOD.format(name="theirs"))
    (package / "wrong.py").write_text("def f(:\n@compressor(\n")
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[toksweep.methods]\ntheirs = their_package.method\nwrong = their_package.wrong\ngone = their_package.gone\n"
    )
    code = (
        "from toksweep.harness.registry import registry; r = registry('methods');"
        "print('theirs' in [e.name for e in r], sorted(b.source.split()[0] for b in r.broken))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True ['gone', 'their_package.wrong']"


def test_calls_are_parsed_and_shown_again():
    assert parse_call("fastv(layer=3, ratio=0.5)") == ("fastv", {"layer": 3, "ratio": 0.5})
    assert parse_call("fastv") == ("fastv", {})
    assert parse_call("a/b.py(x='y')") == ("a/b.py", {"x": "y"})
    assert label("fastv", {"ratio": 0.5, "layer": 3}) == "fastv(layer=3, ratio=0.5)"


@pytest.mark.parametrize("text", ["fastv(3)", "fastv(layer=)", "fastv(layer=x)", "fastv(layer=3", "fastv(**{'a': 1})"])
def test_a_call_that_is_not_keyword_literals_is_refused(text):
    with pytest.raises(UserError, match="write it like"):
        parse_call(text)


def test_scanning_reads_decorators_through_any_module_alias(tmp_path):
    (tmp_path / "m.py").write_text(
        "import toksweep as ts\n@ts.compressor('alias', places=('projector',))\ndef f(v, keep): ...\n"
    )
    assert [e.name for e in scan(tmp_path / "m.py", "m")] == ["alias"]
