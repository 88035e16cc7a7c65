"""Multiple choice over clips that are drawn and written here, and tiny Qwens whose patches have the size of real ones.

lmms-eval's wrappers hand frames to qwen-vl-utils, which takes Qwen's own patch size for granted.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import families
import lmms_local
import tiny

SIZES = {"min_pixels": 784, "max_pixels": 4704}
"""One to six visual tokens of 28 x 28 pixels, where the wrappers' own limits would be thousands."""
CLIPS = (  # frames in a second, frames, size, and is the colour matrix stated?
    (Fraction(10), 9, (96, 64), False),
    (Fraction(30000, 1001), 90, (64, 112), True),
    (Fraction(24), 41, (120, 90), False),
    (Fraction(6), 40, (90, 48), False),
)
NUMBERS = tuple(str(n) for n in range(12))


def write_clip(path: Path, rate: Fraction, frames: int, size: tuple[int, int], *, stated: bool, seed: int = 0) -> Path:
    """H.264 of blocks whose colours change from frame to frame."""
    import av
    import numpy as np

    noise = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        if stated:
            stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1  # BT.709, limited
        for _ in range(frames):
            blocks = noise.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            drawn = blocks[np.arange(size[1])[:, None] * 4 // size[1], np.arange(size[0]) * 4 // size[0]]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="rgb24")))
        container.mux(stream.encode())
    return path


def save_tasks(folder: Path, tokens: int = 6) -> Path:
    """A task `local_video` of three questions about every clip, beside those of `lmms_local.save_tasks` if there are
    any; `local_long` on clips of 32 frames and more, which some wrappers insist on; and `local_films`, whose third clip
    is none."""
    from datasets import Dataset

    tasks, data = folder / "tasks", folder / "data"
    for made in (tasks, data):
        made.mkdir(parents=True, exist_ok=True)
    (tasks / "utils.py").write_text(lmms_local.UTILS)
    lines = []
    for n, (rate, frames, size, stated) in enumerate(CLIPS):
        file = write_clip(data / f"clip{n}.mp4", rate, frames, size, stated=stated, seed=n)
        colours = ["red", "two", "yes", "no"]
        for k, what in enumerate(("colour", "answer", "letter")):
            lines.append(
                {"id": f"{n}-{k}", "video": str(file), "question": f"What is the {what} ?",
                 "choices": colours[k:] + colours[:k], "letter": "ABAB"[(n + k) % 4]}
            )  # fmt: skip
    (data / "broken.mp4").write_bytes(b"no clip")
    films = [x | {"video": str(data / "broken.mp4")} if x["id"].startswith("2") else x for x in lines]
    for name, rows in (("local_video", lines), ("local_long", lines[3:]), ("local_films", films)):
        Dataset.from_list(rows).to_parquet(data / f"{name}.parquet")
        head = lmms_local.HEAD.format(data=data / f"{name}.parquet", name=name, tokens=tokens)
        (tasks / f"{name}.yaml").write_text(head + lmms_local.VIDEO)
    return tasks


def save_qwen(folder: Path, family: str = "qwen2_5_vl", seed: int = 6) -> Path:
    """A tiny Qwen with random weights, Qwen's patches, and words that are answers."""
    import transformers

    spoken = [w for w in lmms_local.WORDS if w not in tiny.SPECIAL]
    silent = (*tiny.SPECIAL[:4], *families.QWEN.values(), *(w for w in spoken if w not in lmms_local.ANSWERS))
    words = (*silent, *NUMBERS, "seconds", "<", ">", *lmms_local.ANSWERS)
    config = families.qwen_config() if family == "qwen2_5_vl" else families.qwen3_config()
    config.text_config.vocab_size = len(words)
    config.text_config.max_position_embeddings = 2048
    ids = {"image_token_id": "image_token", "video_token_id": "video_token",
           "vision_start_token_id": "vision_bos_token", "vision_end_token_id": "vision_eos_token"}  # fmt: skip
    for name, token in ids.items():
        setattr(config, name, words.index(families.QWEN[token]))
    patch = 14 if family == "qwen2_5_vl" else 16
    config.vision_config.patch_size = patch
    config.vision_config.window_size = 4 * patch
    name = "Qwen2_5_VL" if family == "qwen2_5_vl" else "Qwen3VL"
    architecture = getattr(transformers, f"{name}ForConditionalGeneration")
    tiny.random_model(architecture, config, seed, specials=len(words) - len(lmms_local.ANSWERS)).save_pretrained(folder)
    made = families.qwen_processor() if family == "qwen2_5_vl" else families.qwen3_processor()
    for part in (made.image_processor, made.video_processor):
        part.patch_size = patch
    processor = type(made)(
        made.image_processor, tiny.tokenizer(words, families.QWEN), made.video_processor,
        chat_template=made.chat_template.replace("USER", "{{ message.role | upper }}"),
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder
