"""A tiny LLaVA under both attention kernels that a CPU has."""

import pytest


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def llava(request, llava_folder, clip_folder):
    from toksweep.harness.models import open_model

    return open_model(str(llava_folder), attention=request.param, text_encoder=str(clip_folder))
