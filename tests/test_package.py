"""What users install: the wheel and the sdist hold what they should, and the wheel works without the checkout."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
TOP = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
    "__init__.py",
    "py.typed",
    "cli.py",
    "harness",
    "methods",
    "tasks",
    "metrics",
    "results",
    "reports",
    "tests",
)

pytestmark = pytest.mark.skipif(not (CHECKOUT / "pyproject.toml").exists(), reason="needs the checkout")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist of a copy of the checkout, since building writes beside the sources."""
    source, out = tmp_path_factory.mktemp("source") / "toksweep", tmp_path_factory.mktemp("dist")
    source.mkdir()
    for name in TOP:
        path = CHECKOUT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(source)], check=True, capture_output=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_the_wheel_puts_one_package_into_site_packages_with_all_its_data(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    assert {n.split("/")[0] for n in names} == {"toksweep", next(n.split("/")[0] for n in names if "dist-info" in n)}
    inside = {n.removeprefix("toksweep/") for n in names if n.startswith("toksweep/")}
    folders = ("harness", "methods", "tasks", "metrics", "results", "reports")
    expected = {
        str(p.relative_to(CHECKOUT))
        for f in folders
        for p in (CHECKOUT / f).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert inside == expected | {"__init__.py", "cli.py", "py.typed"}


def test_the_sdist_holds_the_sources_the_tests_and_the_licence(built):
    with tarfile.open(built[1]) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    for name in (
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "cli.py",
        "tests/conftest.py",
        "reports/templates",
        "harness/sweeps/default.yaml",
    ):
        assert name in names, name
    assert not [n for n in names if "__pycache__" in n or n.startswith(("build", "toksweep-out"))]


def test_the_wheel_works_from_anywhere(built, tmp_path):
    """The command runs from the wheel's own contents, unpacked away from the checkout."""
    site = tmp_path / "site"
    zipfile.ZipFile(built[0]).extractall(site)
    run = [
        sys.executable,
        "-c",
        "import sys; from toksweep.cli import main; sys.argv = ['toksweep', *sys.argv[1:]]; main()",
    ]
    env = {"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    flags = ["sweep", "--task", "photos", "--method", "jpeg", "--budget", "1bpp", "--limit", "1", "--no-latency"]
    done = subprocess.run([*run, *flags], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "toksweep-out" / "report" / "index.html").is_file()


def test_the_readme_opens_with_exactly_two_commands():
    blocks = re.findall(r"```bash\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert blocks[0] == "python3 -m venv .venv && . .venv/bin/activate && pip install . && toksweep sweep\n"
    assert blocks[1] == "python3 -m venv .venv && . .venv/bin/activate && pip install '.[test]' && pytest\n"


def test_the_users_packages_are_dependencies():
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=\[ ]", d)[0] for d in declared["dependencies"]}
    assert names >= {
        "lmms-eval",
        "datasets",
        "pandas",
        "easyocr",
        "insightface",
        "torch-fidelity",
        "matplotlib",
        "typer",
    }
    assert declared["requires-python"] == ">=3.11,<3.14"
