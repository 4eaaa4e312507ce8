"""Text: tokens and their numbers, sequences of different lengths, generation, and how good the result is.

Floor 7. A tokenizer of the package `tokenizers` serves wherever a `Vocabulary` does.
"""

from tinygrad_mm.text.generation import RecurrentCache, generate, next_probabilities
from tinygrad_mm.text.scores import bits_per_character, bleu, exact_match, perplexity
from tinygrad_mm.text.sequences import RandomWindows, pad_sequences, padding_mask, windows
from tinygrad_mm.text.vocabulary import Vocabulary, as_vocabulary, joined, tokens

__all__ = [
    "RandomWindows",
    "RecurrentCache",
    "Vocabulary",
    "as_vocabulary",
    "bits_per_character",
    "bleu",
    "exact_match",
    "generate",
    "joined",
    "next_probabilities",
    "pad_sequences",
    "padding_mask",
    "perplexity",
    "tokens",
    "windows",
]
