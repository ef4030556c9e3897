"""Tiny fast tokenizers of the kinds that exist. Training one breaks ties as it likes, in every process anew:
that of whole small models has a vocabulary of its own instead, so that these are the same everywhere."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The quick brown fox jumps over the lazy dog, unbelievably often; naïve cafés don't mind.",
    "Words, words, words! An antidisestablishmentarian's 3.14 e-mails @home.",
] * 3
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
# What a trainer once found in the corpus; with single characters, alone and inside words, 97 pieces.
FOUND = """
    wo ##ds ##rds words an do th ##ai ##ab ##is ##me ##es ##ve the ##abl 14 br ca fo ho ju la mi mai
    nai of ove qu un ##an ##ar
"""
PIECES = [
    *SPECIAL,
    *"!',-.134;@abcdefghijklmnopqrstuvwxyz",
    *(f"##{each}" for each in "ailsumponetdbhr4xvwyfckgz"),
    *FOUND.split(),
]


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: accents and control characters removed, punctuation split off, ## inside words."""
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(SPECIAL)
    return _wrapped(backend, ("<s> $A </s>", "<s> $A </s> $B:1 </s>:1"))


def byte_level(special_tokens: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's: no special tokens, spaces belong to the word after them; or RoBERTa's, with special tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    return _wrapped(backend, ("<s> $A </s>", "<s> $A </s> </s> $B </s>") if special_tokens else None)


def unigram() -> PreTrainedTokenizerFast:
    """T5's and Llama's kind: spaces are ▁, and one stands before the text."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>")
    backend.train_from_iterator(CORPUS, trainer)
    return _wrapped(backend, ("$A </s>", "$A </s> $B </s>"))


KINDS = {
    "wordpiece": wordpiece,
    "byte_level": byte_level,
    "byte_level_special": lambda: byte_level(special_tokens=True),
    "unigram": unigram,
}


def _wrapped(backend: Tokenizer, template: tuple[str, str] | None) -> PreTrainedTokenizerFast:
    if template is not None:
        names = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
        backend.post_processor = processors.TemplateProcessing(
            single=template[0], pair=template[1], special_tokens=names
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
