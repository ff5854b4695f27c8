"""Tokenizers for tiny text models, each of the kind that the large ones have."""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
ENCLOSED = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
END = "<|endoftext|>"


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token id a word, after the special ones, with [CLS] before and [SEP] behind a text."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *words])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def byte_tokenizer(texts: Iterable[str], size: int, *, enclosed: bool) -> PreTrainedTokenizerFast:
    """Byte pairs learned from the texts, up to ``size`` tokens; ``enclosed`` by <s> and </s>, or with an end token."""
    special = list(ENCLOSED) if enclosed else [END]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special))
    if not enclosed:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    return _enclosing(tokenizer)


def piece_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """SentencePiece's kind: a piece for each word with a mark for the space before it, enclosed by <s> and </s>."""
    pieces = [(token, 0.0) for token in ENCLOSED] + [(f"▁{word}", -1.0) for word in words]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _enclosing(tokenizer)


def _enclosing(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"cls_token": "<s>", "bos_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>", **names)
