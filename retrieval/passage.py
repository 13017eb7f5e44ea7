"""A passage: the unit of text that is retrieved, put into a prompt, or turned into an expert."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of a corpus.

    Attributes:
        id: Unique in its corpus. It is data: never a path, never parsed.
        title: The title of the article it comes from; may be empty.
        text: The text itself.
    """

    id: str
    title: str
    text: str


def passage_text(passage: Passage) -> str:
    """Title and text, as encoders, rerankers, the hypernetwork and a prompt with RAG read them."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text
