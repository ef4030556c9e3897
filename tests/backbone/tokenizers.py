"""Tiny fast tokenizers of the kinds that exist, trained on the spot."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The quick brown fox jumps over the lazy dog, unbelievably often; naïve cafés don't mind.",
    "Words, words, words! An antidisestablishmentarian's 3.14 e-mails @home.",
] * 3
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: accents and control characters removed, punctuation split off, ## inside words."""
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=97, special_tokens=SPECIAL)
    return _wrapped(backend, trainer, ("<s> $A </s>", "<s> $A </s> $B:1 </s>:1"))


def byte_level(special_tokens: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's: no special tokens, spaces belong to the word after them; or RoBERTa's, with special tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet)
    template = ("<s> $A </s>", "<s> $A </s> </s> $B </s>") if special_tokens else None
    return _wrapped(backend, trainer, template)


def unigram() -> PreTrainedTokenizerFast:
    """T5's and Llama's kind: spaces are ▁, and one stands before the text."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>")
    return _wrapped(backend, trainer, ("$A </s>", "$A </s> $B </s>"))


KINDS = {
    "wordpiece": wordpiece,
    "byte_level": byte_level,
    "byte_level_special": lambda: byte_level(special_tokens=True),
    "unigram": unigram,
}


def _wrapped(
    backend: Tokenizer, trainer: trainers.Trainer, template: tuple[str, str] | None
) -> PreTrainedTokenizerFast:
    backend.train_from_iterator(CORPUS, trainer)
    if template is not None:
        names = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
        backend.post_processor = processors.TemplateProcessing(
            single=template[0], pair=template[1], special_tokens=names
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
