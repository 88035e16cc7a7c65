"""Code digests: what a line changes, and what it does not."""

import shutil
import subprocess
import sys

import pytest
from toksweep.harness import digest
from toksweep.harness.registry import ROOT, registry


def test_comments_layout_and_docstrings_change_no_digest(tmp_path):
    a, b, c = (tmp_path / n for n in ("a.py", "b.py", "c.py"))
    a.write_text('"""Old."""\ndef f(x):\n    """Doc."""\n    return x + 1\n')
    b.write_text('"""New."""\n# why\ndef f(x):\n\n    return (x + 1)  # here\n')
    c.write_text("def f(x):\n    return x + 2\n")
    assert digest.tree_digest(a) == digest.tree_digest(b) != digest.tree_digest(c)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """Digests of all methods and metrics in a copy of the package, after an edit of one file."""
    home = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT,
        home / "toksweep",
        ignore=shutil.ignore_patterns(".*", "tests", "build", "*.egg-info", "__pycache__", "toksweep-out", "runs"),
    )

    def after(file="py.typed", line=""):
        path = home / "toksweep" / file
        before = path.read_text()
        path.write_text(before + line)
        code = (
            "from toksweep.harness import digest as d; from toksweep.harness.registry import registry;"
            "print({e.name: d.code_digest(e) for g in ('methods', 'metrics') for e in registry(g)})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=home,
            env={"PYTHONPATH": str(home)},
        )
        path.write_text(before)
        return eval(done.stdout)

    return after


def test_a_line_of_a_method_changes_that_method_alone(digests):
    before, after = digests(), digests("methods/compressors/divprune.py", "X = 1\n")
    assert {n for n in before if before[n] != after[n]} == {"divprune"}


def test_a_line_of_ops_changes_what_imports_it_and_nothing_else(digests):
    before, after = digests(), digests("methods/ops.py", "X = 1\n")
    users = {e.name for e in registry("methods") if "ops import" in e.path.read_text()}
    assert users
    assert {n for n in before if before[n] != after[n]} == users
