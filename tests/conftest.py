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
