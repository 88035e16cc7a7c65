"""One torch thread per process (spinning threads starve small models), and the folders that tests may find."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory):
    """A tiny LLaVA with random weights, saved as a whole checkpoint."""
    import tiny

    return tiny.save_llava(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with random weights, whose tower has the shape of that LLaVA's."""
    import tiny

    return tiny.save_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture
def here(capsys, monkeypatch):
    """Run a command in this process, which saves the imports: its exit code, standard output and standard error."""
    import sys

    from toksweep.cli import main

    def run(*args, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["toksweep", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code, *capsys.readouterr())

    return run
