"""Tiny models of the T5 family, with a tokenizer that ends every text as T5's does."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast, T5Config

from ravan.runtime.names import IGNORED

VOCABULARY_SIZE = 512  # of the model; like T5's own, more than the tokenizer knows
PAD, END = 0, 1
WIDTH = 32
SIZES: Mapping[str, object] = {
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
}


def t5_tokenizer(words: Sequence[str], in_two: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for each of the words, and two for each of those ``in_two``, with </s> behind a text."""
    parts = [part for word in in_two for part in (word[:3], f"##{word[3:]}")]
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words, *parts])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def write_t5(
    folder: Path,
    words: Sequence[str],
    in_two: Sequence[str] = (),
    kind: Callable[..., PreTrainedConfig] = T5Config,
    *,
    own_output: bool = False,
    alike: Sequence[Sequence[str]] = (),
    **settings: object,
) -> None:
    """A random model as transformers saves it.

    Args:
        folder: where to.
        words: that the tokenizer knows.
        in_two: words that it writes in two tokens.
        kind: the family's config.
        own_output: whether the output layer has weights of its own, as in T5 v1.1.
        alike: groups of words with like embeddings, as in a pretrained model.
        settings: of the config.
    """
    torch.manual_seed(0)
    tokens = {"vocab_size": VOCABULARY_SIZE, "pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": PAD}
    model = AutoModelForSeq2SeqLM.from_config(kind(**{**SIZES, **tokens, **settings}))
    tokenizer = t5_tokenizer(words, in_two)
    with torch.no_grad():
        for group in alike:
            ids = tokenizer.convert_tokens_to_ids(list(group))
            model.shared.weight[ids] = torch.randn(WIDTH) + 0.3 * model.shared.weight[ids]
        if own_output:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) / WIDTH**0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def teach(folder: Path, sources: Sequence[str], targets: Sequence[Sequence[str]], steps: int) -> None:
    """Trains a saved model whole, as if pretrained: each source's targets in turn, so that it prefers none of them."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    inputs = tokenizer(list(sources), padding=True, return_tensors="pt")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only waits for more
    for step in range(steps):
        wanted = [some[(i + step) % len(some)] for i, some in enumerate(targets)]
        labels = tokenizer(wanted, padding=True, return_tensors="pt")["input_ids"]
        labels[labels == PAD] = IGNORED
        optimizer.zero_grad()
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
