"""GenPoE as users hold it: load a checkpoint, inject passages, ask, remove.

    >>> genpoe = GenPoE.from_checkpoint("logs/quickstart/checkpoints/last.ckpt")
    >>> with genpoe.injected([Passage("1", "Tova Blick", "Tova Blick was born in Lisbon. ...")]):
    ...     genpoe.ask("Where was Tova Blick born?")
    'Lisbon'

Shapes: P passages, S passage tokens, B questions, K experts a question, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from backbone.decoding import greedy_decode
from backbone.loading import load_backbone
from backbone.model import Backbone
from genpoe.experts import Experts
from genpoe.hypernet.hypernet import Hypernet, PassageTokens
from genpoe.hypernet.saved import as_nested, read_settings
from genpoe.injection import ExpertLayer
from genpoe.training.collate import pad
from plumbing.training.checkpoint import AtomicCheckpointIO, CheckpointError, load_checkpoint
from qa.prompts import build_prompt, encode_passage
from retrieval.passage import Passage

_PREFIX = "hypernet."  # of its entries in a checkpoint's state_dict


class BackboneMismatchError(ValueError):
    """A checkpoint was trained with another backbone than the one it is loaded beside."""


def check_backbone(backbone: Backbone, name: str, fingerprint: str) -> None:
    """Refuse a backbone whose weights are not those that the hypernetwork was trained with.

    Raises:
        BackboneMismatchError: Naming both.
    """
    if backbone.fingerprint != fingerprint:
        raise BackboneMismatchError(
            f"the checkpoint was trained with the backbone {name} ({fingerprint[:12]}), but "
            f"{backbone.name} ({backbone.fingerprint[:12]}) is loaded; choose that model "
            "(backbone=…) or another ckpt_path"
        )


class GenPoE:
    """A frozen backbone, the hypernetwork, and the layer between them (GenPoE sec. 3).

    Args:
        backbone: The frozen model.
        hypernet: The hypernetwork, on the backbone's device; its settings name the layer.
        max_passage_tokens: Longer passages are cut.
    """

    def __init__(
        self, backbone: Backbone, hypernet: Hypernet, max_passage_tokens: int = 512
    ) -> None:
        self.backbone = backbone
        self.hypernet = hypernet
        self.expert_layer = ExpertLayer(backbone, hypernet.settings.layer)
        self.max_passage_tokens = max_passage_tokens

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, backbone: Backbone | None = None, device: str = "cpu"
    ) -> GenPoE:
        """Load a trained hypernetwork and, unless given, the backbone that it names.

        Raises:
            BackboneMismatchError: If ``backbone`` is not the one of the checkpoint.
            CheckpointError: If the file is missing, damaged or no GenPoE checkpoint.
        """
        checkpoint = load_checkpoint(Path(path))
        try:
            hyper_parameters = as_nested(checkpoint["hyper_parameters"])
            settings = read_settings(hyper_parameters["hypernet"])
            max_passage_tokens = hyper_parameters["max_passage_tokens"]
            name, fingerprint = (checkpoint["backbone"][key] for key in ("name", "fingerprint"))
        except (KeyError, TypeError) as error:
            raise _not_genpoe(path, f"it lacks {error}") from error
        except ValueError as error:
            raise _not_genpoe(path, str(error)) from error
        if backbone is None:
            backbone = load_backbone(name, device=device)
        check_backbone(backbone, name, fingerprint)
        hypernet = settings.build(backbone)
        weights = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(_PREFIX)
        }
        try:
            hypernet.load_state_dict(weights)
        except RuntimeError as error:
            raise _not_genpoe(path, " ".join(str(error).split())) from error
        hypernet.to(backbone.device).eval().requires_grad_(False).cast(backbone.dtype)
        return cls(backbone, hypernet, max_passage_tokens)

    def save(self, path: str | Path) -> None:
        """Write what `from_checkpoint` reads: the hypernetwork and the backbone's name, no more."""
        AtomicCheckpointIO().save_checkpoint(
            {
                "state_dict": {
                    f"{_PREFIX}{name}": tensor
                    for name, tensor in self.hypernet.state_dict().items()
                },
                "hyper_parameters": {
                    "hypernet": self.hypernet.settings.saved(),
                    "optim": {},
                    "max_passage_tokens": self.max_passage_tokens,
                },
                "backbone": {"name": self.backbone.name, "fingerprint": self.backbone.fingerprint},
            },
            Path(path),
        )

    @torch.inference_mode()
    def generate_experts(self, passages: Sequence[Passage]) -> Experts:
        """One expert for each passage (eq. 4): P sets of K = 1."""
        return self.hypernet(self.tokens(passages))

    def inject(
        self,
        passages: Sequence[Passage] | Sequence[Sequence[Passage]],
        relevance: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Put passages into the model's parameters until `remove` (sec. 3.3.1).

        Args:
            passages: K passages for every question asked from now on, or a list of them for each
                row of a batch; the rows may differ in K, and a row without any stays as it was.
            relevance: Weight of each passage, nested alike; default: equal weights (eq. 9 gives
                them from a reranker's scores).

        Raises:
            ValueError: If the relevance has another shape.
        """
        rows = _rows(passages)
        weights = _rows_of_weights(rows, relevance)
        distinct = {p: i for i, p in enumerate(dict.fromkeys(p for row in rows for p in row))}
        if not distinct:
            self.remove()
            return
        experts = self.generate_experts(list(distinct))
        most = max(map(len, rows))
        index = torch.zeros(len(rows), most, dtype=torch.long)
        relevance_BK = torch.zeros(len(rows), most)  # a missing expert is any one with weight 0
        for i, (row, weight) in enumerate(zip(rows, weights, strict=True)):
            index[i, : len(row)] = torch.tensor([distinct[passage] for passage in row])
            relevance_BK[i, : len(row)] = torch.tensor(weight)
        device = self.backbone.device
        index, dtype = index.to(device), self.backbone.dtype
        self.expert_layer.inject(
            experts.map(lambda factor: factor[:, 0].to(dtype)[index]), relevance_BK.to(device)
        )

    def remove(self) -> None:
        """Take the passages out again; the backbone is bit-identical to before."""
        self.expert_layer.remove()

    @contextmanager
    def injected(
        self,
        passages: Sequence[Passage] | Sequence[Sequence[Passage]],
        relevance: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ) -> Iterator[GenPoE]:
        """`inject` for the duration of a ``with`` block."""
        self.inject(passages, relevance)
        try:
            yield self
        finally:
            self.remove()

    def ask(
        self, question: str, prompt_passages: Sequence[Passage] = (), max_new_tokens: int = 32
    ) -> str:
        """Answer greedily with what is injected now, to a natural stop.

        Args:
            question: The question.
            prompt_passages: Passages that also stand in the prompt (the paper's with-RAG setting).
            max_new_tokens: At most so many tokens.
        """
        prompt = build_prompt(question, prompt_passages)
        return greedy_decode(self.backbone, [prompt], max_new_tokens).texts[0]

    def tokens(self, passages: Sequence[Passage]) -> PassageTokens:
        """The token ids of passages as the hypernetwork reads them, on the backbone's device."""
        ids = [
            encode_passage(self.backbone.tokenizer, passage, self.max_passage_tokens)
            for passage in passages
        ]
        ids_PS, mask_PS = pad(ids, 0)  # any token: the mask says what is padding
        device = self.backbone.device
        return PassageTokens(ids_PS.to(device), mask_PS.to(device))


def _not_genpoe(path: str | Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no checkpoint of a hypernetwork: {why}; give as ckpt_path one that "
        "scripts/train_hypernet.py wrote"
    )


def _rows(passages: Sequence[Passage] | Sequence[Sequence[Passage]]) -> list[list[Passage]]:
    if all(isinstance(item, Passage) for item in passages):
        return [list(passages)]  # type: ignore[arg-type]
    return [list(row) for row in passages]  # type: ignore[arg-type]


def _rows_of_weights(
    rows: list[list[Passage]], relevance: Sequence[float] | Sequence[Sequence[float]] | None
) -> list[list[float]]:
    if relevance is None:
        return [[1 / max(len(row), 1)] * len(row) for row in rows]
    nested = [list(item) if isinstance(item, Sequence) else item for item in relevance]
    flat = not any(isinstance(item, list) for item in nested)
    weights: list[list[float]] = [nested] if flat else nested  # type: ignore[list-item,assignment]
    if [len(weight) for weight in weights] != [len(row) for row in rows]:
        raise ValueError(
            "relevance must give one weight for each passage: expected "
            f"{[len(row) for row in rows]} weights a row, got {[len(w) for w in weights]}"
        )
    return weights
