"""Encoders of tests: one without a model, and folders of tiny random-weight models."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from plumbing.storage.files import write_json
from plumbing.storage.jsonl import write_jsonl
from retrieval.corpus.corpus import Corpus
from retrieval.passage import Passage

WORDS = "lisbon porto rome temple sea city port river bridge castle street market the of in".split()


def make_passages(count: int, seed: int = 0) -> list[Passage]:
    """Passages of 3 to 30 words; every fifth has no title."""
    random = np.random.default_rng(seed)
    return [
        Passage(
            f"p{number}",
            str(random.choice(WORDS)) if number % 5 else "",
            " ".join(random.choice(WORDS, size=random.integers(3, 30))),
        )
        for number in range(count)
    ]


def make_corpus(folder: Path, passages: Sequence[Passage], name: str = "corpus") -> Corpus:
    """A corpus of these passages, its side store in the same folder."""
    path = folder / f"{name}.jsonl"
    write_jsonl(path, map(asdict, passages))
    return Corpus.open(path, folder / "cache")


@dataclass(frozen=True)
class WordEncoderSettings:
    """Settings of a `WordEncoder`, as those that `encoder_settings` makes are of other encoders."""

    dimension: int = 16
    name: str = "words"
    device: str = "cpu"

    def load(self, device: str | None = None) -> WordEncoder:
        return WordEncoder(self)


class WordEncoder:
    """A text's vector is the sum of its words' (random, but always the same), at length 1."""

    rounding = "none"

    def __init__(self, settings: WordEncoderSettings) -> None:
        self._dimension = settings.dimension
        self.question_fingerprint = f"{settings} of questions"
        self.passage_fingerprint = f"{settings} of passages"

    def encode_questions(self, questions: Sequence[str]) -> np.ndarray:
        return self._encode(questions)

    def encode_passages(self, passages: Sequence[Passage]) -> np.ndarray:
        return self._encode([f"{passage.title} {passage.text}" for passage in passages])

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), self._dimension), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row] += _word_vector(word, self._dimension)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


@cache
def _word_vector(word: str, dimension: int) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(word.encode()))
    return random.standard_normal(dimension, np.float32)


SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def make_tokenizer(folder: Path, pad: int = 0) -> Any:
    """A BERT tokenizer that knows `WORDS` and letters, with the id of its padding token."""
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = [sign for letter in "abcdefghijklmnopqrstuvwxyz" for sign in (letter, f"##{letter}")]
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(pad, "[PAD]")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*special, ".", "?", ":", *letters, *WORDS]), encoding="utf-8")
    tokenizer = BertTokenizer(str(vocabulary))
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_sentence_folder(
    folder: Path, seed: int = 0, config: Any = None, pad: int = 0, **settings: Any
) -> Path:
    """A sentence-transformers model, BERT and mean pooling, in the layout of all-MiniLM-L6-v2's.

    Written by hand, since sentence-transformers asks the hub while it saves.

    Args:
        folder: Where it is saved.
        seed: The seed of its weights.
        config: The configuration of a model of another family, but for the size of its vocabulary.
        pad: The id of the padding token.
        **settings: Settings of the model, such as ``prompts``.
    """
    import torch
    from transformers import AutoModel, BertConfig

    tokenizer = make_tokenizer(folder, pad)
    config = config or BertConfig(**SIZES)
    config.vocab_size = len(tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 64})
    write_json(folder / "config_sentence_transformers.json", settings)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    return folder


def make_dpr_folder(folder: Path, kind: str, seed: int = 0, **settings: Any) -> Path:
    """One of DPR's models.

    Args:
        folder: Where it is saved.
        kind: "question" or "context".
        seed: The seed of its weights.
        **settings: Settings of ``DPRConfig``.
    """
    import torch
    from transformers import DPRConfig, DPRContextEncoder, DPRQuestionEncoder

    tokenizer = make_tokenizer(folder)
    model = {"question": DPRQuestionEncoder, "context": DPRContextEncoder}[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = DPRConfig(vocab_size=len(tokenizer), **SIZES, **settings)
        model(config).save_pretrained(folder)
    return folder
