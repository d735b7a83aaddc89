"""The miniature's tokenizer: a subset of CLIP's vocabulary, renumbered, with one token per word."""

from __future__ import annotations

from typing import Any

from ....f2d.miniature import read_vocabulary

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
LENGTH = 77  # tokens


def build_tokenizer() -> Any:
    """Build a tokenizer that splits into words as CLIP's does.

    Returns:
        transformers' PreTrainedTokenizerFast; any word outside the vocabulary becomes one unknown token.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate([*read_vocabulary(), UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    pattern = Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
    ends = [(START, numbers[START]), (END, numbers[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=END,
        model_max_length=LENGTH,
    )
