"""What `toksweep-mini` is: the configuration, the tokenizer and the processor of a small LLaVA-1.5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....tasks.synth import clips, drawing, questions

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPVisionConfig, LlavaConfig, LlavaProcessor, PreTrainedTokenizerFast

NAME = "toksweep-mini"
SPECIAL = ("<pad>", "<s>", "<unk>", "</s>", "<image>")
WIDTH = 160
"""Of the tower and of the language model; heads are 32 wide."""
FRAMES = 16
"""The most pictures of one prompt that the model has positions for."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""The prompt of LLaVA-1.5: all pictures first, then the text."""


def vocabulary() -> list[str]:
    """Every token: special ones, the words of the questions and answers, and letters that spell printed words."""
    words = {"USER", "ASSISTANT", "the", "a", "an", "of", "and", "object", "small", "\n", *":?,.", *"0123456789"}
    for text in (*questions.TEMPLATES, *clips.TEMPLATES):
        words |= set(text.replace("?", " ?").replace(",", " ,").split())
    words |= {*drawing.SHAPES, *map(questions.plural, drawing.SHAPES), *drawing.COLOURS}
    words |= {*questions.SIDES, *clips.WAYS}
    letters = [*drawing.LETTERS, *("##" + letter for letter in drawing.LETTERS)]
    return [*SPECIAL, *sorted(words - set(letters)), *letters]


def tokenizer(*, close: bool = False) -> PreTrainedTokenizerFast:
    """Whole words, and capital letters for printed words: `What word is printed?` is five tokens, `FOX` three.

    With `close`, texts end in `</s>`, as a CLIP text encoder wants them.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {token: number for number, token in enumerate(vocabulary())}
    made = Tokenizer(models.WordPiece(vocab, unk_token=SPECIAL[2], continuing_subword_prefix="##"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(Regex(" +"), "removed"),
            pre_tokenizers.Punctuation(),
        ]
    )
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if close else "<s> $A", special_tokens=[(t, vocab[t]) for t in ("<s>", "</s>")]
    )
    made.add_special_tokens(list(SPECIAL))
    names = ("pad_token", "bos_token", "unk_token", "eos_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        **dict(zip(names, SPECIAL, strict=False)),
        extra_special_tokens={"image_token": "<image>"},
        padding_side="right" if close else "left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def processor() -> LlavaProcessor:
    """Pictures of any size to 96 x 96, text and picture placeholders to ids."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"shortest_edge": drawing.SIZE}, crop_size={"height": drawing.SIZE, "width": drawing.SIZE},
        image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5],
    )  # fmt: skip
    return LlavaProcessor(
        images, tokenizer(), patch_size=drawing.PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def vision_config() -> CLIPVisionConfig:
    """The tower: six layers, a class token and 144 patches."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=6, num_attention_heads=WIDTH // 32,
        image_size=drawing.SIZE, patch_size=drawing.PATCH, projection_dim=96, hidden_act="gelu",
    )  # fmt: skip


def config() -> LlavaConfig:
    """The model: the tower and a Llama of the same width, features from the tower's last layer but one."""
    from transformers import LlamaConfig, LlavaConfig

    text = LlamaConfig(
        vocab_size=len(vocabulary()), hidden_size=WIDTH, intermediate_size=448, num_hidden_layers=6,
        num_attention_heads=WIDTH // 32, num_key_value_heads=WIDTH // 32, tie_word_embeddings=False,
        max_position_embeddings=FRAMES * (drawing.GRID**2 + 1) + 128,
        pad_token_id=0, bos_token_id=1, eos_token_id=SPECIAL.index("</s>"),
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision_config(), text_config=text, image_token_index=SPECIAL.index("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=drawing.GRID**2,
        tie_word_embeddings=False,
    )  # fmt: skip


def clip_config() -> CLIPConfig:
    """The tower with a small text encoder over the same vocabulary, in one embedding space."""
    from transformers import CLIPConfig, CLIPTextConfig

    text = CLIPTextConfig(
        vocab_size=len(vocabulary()), hidden_size=96, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=3, max_position_embeddings=77, projection_dim=96, hidden_act="gelu",
        pad_token_id=0, bos_token_id=1, eos_token_id=SPECIAL.index("</s>"),
    )  # fmt: skip
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision_config().to_dict(), projection_dim=96)
