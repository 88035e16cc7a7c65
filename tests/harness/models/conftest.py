"""A tiny LLaVA under both attention kernels that a CPU has, and tiny models of every family."""

from functools import cache

import pytest


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def llava(request, llava_folder, clip_folder):
    from toksweep.harness.models import open_model

    return open_model(str(llava_folder), attention=request.param, text_encoder=str(clip_folder))


@pytest.fixture(scope="session")
def opened(llava_folder, clip_folder, tmp_path_factory):
    """A model by family and attention kernel, each loaded once; `family-clip` is shown clips by `vlm`."""
    import families
    from toksweep.harness.models import open_model

    @cache
    def load(family, kernel):
        encoder = str(clip_folder) if family in families.WITH_ENCODER else None
        folder = llava_folder if family == "llava" else tmp_path_factory.mktemp("models") / family
        if family != "llava":
            families.save(folder, family)
        model = open_model(str(folder), attention=kernel, text_encoder=encoder)
        model.tested_on_clips = family.endswith("-clip")
        return model

    return load


@pytest.fixture
def model(request, opened):
    """Of the family and under the attention kernel that a test names."""
    return opened(*request.param)
