"""Where a hypernetwork that reads looks in its passages, token by token of its answer.

Shapes: A answer tokens, K passages, S passage tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backbone.decoding import greedy_continue
from backbone.tokens import encode_prompt
from genpoe.model import GenPoE
from plumbing.mounts import SettingValueError
from qa.data.dataset import Question
from qa.prompts import build_prompt, encode_passage
from retrieval.passage import Passage

_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
_WIDTH = 104  # characters of a line
_SIZE = 8  # points
_ADVANCE = 0.602  # width of a character of DejaVu Sans Mono, in its size
_SEEN = 0.02  # weights below this are not drawn


@dataclass(frozen=True)
class Glance:
    """Where the experts looked while one question was answered.

    Attributes:
        question: The question.
        answers: The answers that count as right.
        written: The tokens of the answer that was decoded, as text; the last one may be the token
            that ends it.
        null: The weight of the null unit, which writes nothing, at each of these.
        words: The tokens of each passage, as text.
        weights: The weight of each passage's tokens at each token of the answer, ``[A][K][S]``.
    """

    question: str
    answers: tuple[str, ...]
    written: list[str]
    null: list[float]
    words: list[list[str]]
    weights: list[list[list[float]]]


@torch.inference_mode()
def glance(
    genpoe: GenPoE, question: Question, passages: Sequence[Passage], max_new_tokens: int
) -> Glance:
    """Answer a question greedily with passages injected, and note where the experts look.

    Args:
        genpoe: The backbone with its hypernetwork.
        question: The question.
        passages: At least one passage; all have the same relevance.
        max_new_tokens: The largest number of tokens of the answer.

    Raises:
        SettingValueError: If the hypernetwork's experts look at no words.
    """
    backbone = genpoe.backbone
    tokenizer = backbone.tokenizer
    prompt = encode_prompt(tokenizer, build_prompt(question.question))
    with genpoe.injected(passages):
        answer = greedy_continue(backbone, [prompt], max_new_tokens)[0].ids
        read = [*prompt, *answer[:-1]]
        backbone.model(torch.tensor([read], device=backbone.device), use_cache=False)
        looked = genpoe.expert_layer.looked
    if looked is None:
        raise SettingValueError(
            "ckpt_path",
            f"{type(genpoe.hypernet).__name__} looks at no words of a passage, so there is nothing "
            "to show",
            "set {} to a checkpoint of hypernet=reader",
        )
    ids = [encode_passage(tokenizer, passage, genpoe.max_passage_tokens) for passage in passages]
    units = looked.units_NTKS[0, len(prompt) - 1 :]
    return Glance(
        question.question,
        question.answers,
        [tokenizer.decode([token]) for token in answer],
        looked.null_NT[0, len(prompt) - 1 :].tolist(),
        [[tokenizer.decode([token]) for token in row] for row in ids],
        [[row[: len(ids[k])].tolist() for k, row in enumerate(each)] for each in units],
    )


def draw(glances: Sequence[Glance], picture: Path) -> None:
    """Draw the passages with the words that the experts looked at.

    Each token of an answer has a colour, and so has the word of the passage at which the experts
    looked most for it: the stronger, the larger the weight.

    Args:
        glances: What is drawn, one below the other.
        picture: The PNG file that is written.
    """
    from matplotlib.figure import Figure

    blocks = [_lines(each) for each in glances]
    rows = sum(len(lines) + 1 for lines in blocks)
    inch = _SIZE / 72
    figure = Figure(figsize=(_WIDTH * _ADVANCE * inch, rows * 1.5 * inch))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.5, _WIDTH + 0.5), ylim=(rows - 0.5, -0.5))
    axes.axis("off")
    y = 0
    for lines in blocks:
        for pieces in lines:
            x = 0
            for piece in pieces:
                _write(axes, x, y, **piece)
                x += len(piece["text"])
            y += 1
        y += 1
    figure.savefig(picture, dpi=120)


def _write(
    axes: Any, x: int, y: int, text: str, color: str = "", weight: float = 0.0, bold: bool = False
) -> None:
    if weight >= _SEEN:
        blank = len(text) - len(text.lstrip())
        width, corner = len(text.strip()), (x + blank, y - 0.45)
        axes.add_patch(_rectangle(corner, width, color, weight))
    style = {"family": "monospace", "size": _SIZE, "va": "center", "parse_math": False}
    axes.text(x, y, text, weight="bold" if bold else "normal", **style)


def _rectangle(corner: tuple[float, float], width: float, color: str, weight: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, 0.9, facecolor=color, alpha=0.1 + 0.65 * weight, linewidth=0)


def _lines(glance: Glance) -> list[list[dict[str, Any]]]:
    """The lines of one block, each of them pieces of text with their colours."""
    lines = _wrapped([{"text": f"Question: {glance.question}", "bold": True}])
    written: list[dict[str, Any]] = [{"text": "Answer:", "bold": True}]
    for number, (token, null) in enumerate(zip(glance.written, glance.null, strict=True)):
        color = _COLORS[number % len(_COLORS)]
        written += [
            {"text": _shown(token), "color": color, "weight": 1.0},
            {"text": f" (null {null:.2f}) "},
        ]
    written.append({"text": f"   right: {glance.answers[0]}"})
    lines += _wrapped(written)
    for k, words in enumerate(glance.words):
        pieces: list[dict[str, Any]] = []
        for j, word in enumerate(words):
            at = [each[k][j] for each in glance.weights]
            most = max(range(len(at)), key=at.__getitem__)
            color = _COLORS[most % len(_COLORS)]
            pieces.append({"text": word, "color": color, "weight": at[most]})
        lines += _wrapped(pieces)
    return lines


def _shown(token: str) -> str:
    """A token of the answer, behind a space; one without visible text ends the answer."""
    return f" {token.strip()}" if token.strip() and not token.startswith("<") else " [end]"


def _wrapped(pieces: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """Lines of at most `_WIDTH` characters, cut between words or where a token has a line break."""
    words: list[list[dict[str, Any]]] = []
    for piece in pieces:
        for number, text in enumerate(piece["text"].split("\n")):
            if number:
                words.append([{"text": "\n"}])
            if number or not words or text[:1].isspace():
                words.append([])
            words[-1].append({**piece, "text": text})
    lines: list[list[dict[str, Any]]] = [[]]
    used = 0
    for word in words:
        length = sum(len(piece["text"]) for piece in word)
        if word[0]["text"] == "\n" or used + length > _WIDTH:
            lines.append([])
            used = 0
        if word[0]["text"] == "\n":
            continue
        if not used:
            word[0]["text"] = word[0]["text"].lstrip()
        lines[-1] += word
        used += sum(len(piece["text"]) for piece in word)
    return lines
