"""GenPoE in Python: load a checkpoint, inject passages, ask, remove them again.

    genpoe = GenPoE.from_checkpoint("logs/quickstart/checkpoints/last.ckpt")
    with genpoe.injected([Passage("1", "Tova Blick", "Tova Blick was born in Lisbon.")]):
        print(genpoe.ask("Where was Tova Blick born?"))

Shapes: P passages, S passage tokens, B questions, K experts a question, D d_model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from backbone.decoding import greedy_decode
from backbone.loading import load_backbone
from backbone.model import Backbone
from genpoe.codes.bank import CodeBank
from genpoe.codes.spec import not_reading
from genpoe.experts import GeneratedExperts
from genpoe.hypernet.hypernet import Hypernet, PassageTokens
from genpoe.hypernet.reader import ReaderHypernet
from genpoe.hypernet.reader_experts import ReaderCode
from genpoe.hypernet.saved import as_nested, read_settings
from genpoe.injection import ExpertLayer
from genpoe.sharing import SharedHypernet, fetch, upload
from plumbing.batches import pad
from plumbing.training.checkpoint import AtomicCheckpointIO, CheckpointError, load_checkpoint
from qa.prompts import (
    PROMPT_OF_0_1,
    build_prompt,
    encode_passage,
    prompt_template,
    warn_of_another_prompt,
)
from retrieval.passage import Passage

log = logging.getLogger(__name__)

_KEYS = ("state_dict", "hyper_parameters", "backbone")  # of a checkpoint
_PREFIX = "hypernet."  # begins the names of its weights in a checkpoint's state_dict


class BackboneMismatchError(ValueError):
    """A checkpoint was trained with another backbone than the one that is loaded."""


def check_backbone(backbone: Backbone, name: str, fingerprint: str) -> None:
    """Check that a backbone is the one with which a hypernetwork was trained.

    Args:
        backbone: The backbone that is loaded.
        name: The name of the one in the checkpoint.
        fingerprint: Its fingerprint.

    Raises:
        BackboneMismatchError: If the fingerprints differ; the message names both models.
    """
    identity = backbone.identity
    if differing := identity.difference(fingerprint):
        raise BackboneMismatchError(
            f"the checkpoint was trained with the backbone {name} ({fingerprint[:12]}), but "
            f"{backbone.name} ({identity.fingerprint[:12]}) is loaded; what differs: {differing}; "
            "choose that model (backbone=…) or another ckpt_path"
        )


class GenPoE:
    """A frozen backbone, the hypernetwork, and the layer between them (GenPoE sec. 3).

    Args:
        backbone: The frozen model.
        hypernet: The hypernetwork, on the backbone's device; its settings name the layer.
        max_passage_tokens: Longer passages are cut.
        prompt: The `qa.prompts.prompt_template` under which the hypernetwork was trained. None
            takes the present one.
    """

    def __init__(
        self,
        backbone: Backbone,
        hypernet: Hypernet,
        max_passage_tokens: int = 512,
        prompt: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.hypernet = hypernet
        self.expert_layer = ExpertLayer(backbone, hypernet.settings.layer)
        self.max_passage_tokens = max_passage_tokens
        self.prompt = prompt_template() if prompt is None else prompt
        self._codes: CodeBank | None = None
        self._said_cut = False

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, backbone: Backbone | None = None, device: str = "cpu"
    ) -> GenPoE:
        """Load a trained hypernetwork and, unless it is given, the backbone that it names.

        If it was trained under another prompt than the present one, a warning says so.

        Args:
            path: A checkpoint of ``scripts/train_hypernet.py``, or a file that `save` wrote.
            backbone: The backbone, where it is loaded already.
            device: Where a backbone is loaded that is not given.

        Raises:
            BackboneMismatchError: If ``backbone`` is not the one of the checkpoint.
            CheckpointError: If the file is missing, is damaged or is no GenPoE checkpoint.
        """
        checkpoint = load_checkpoint(Path(path), _KEYS)
        try:
            hyper_parameters = as_nested(checkpoint["hyper_parameters"])
            settings = read_settings(hyper_parameters["hypernet"])
            max_passage_tokens = hyper_parameters["max_passage_tokens"]
            name, fingerprint = (checkpoint["backbone"][key] for key in ("name", "fingerprint"))
        except (KeyError, TypeError) as error:
            raise _not_genpoe(path, f"it lacks {error}") from error
        except ValueError as error:
            raise _not_genpoe(path, str(error)) from error
        weights = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(_PREFIX)
        }
        prompt = str(checkpoint.get("prompt", PROMPT_OF_0_1))
        shared = SharedHypernet(settings, weights, name, fingerprint, max_passage_tokens, prompt)
        return cls._of(shared, path, backbone, device)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        backbone: Backbone | None = None,
        device: str = "cpu",
        revision: str | None = None,
        token: str | None = None,
    ) -> GenPoE:
        """Load what `save_pretrained` or `push_to_hub` wrote.

        Args:
            name: A folder, or ``owner/name`` on the Hugging Face hub.
            backbone: The backbone, where it is loaded already.
            device: Where a backbone is loaded that is not given.
            revision: A branch, tag or commit on the hub.
            token: The token for the hub. None takes the one that is logged in.

        Raises:
            BackboneMismatchError: If ``backbone`` is not the hypernetwork's.
            FolderError: If there is no such folder, or if it is damaged.
        """
        folder = fetch(name, revision, token)
        return cls._of(SharedHypernet.read(folder), folder, backbone, device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a new folder that can be shared: safetensors, ``config.json`` and a card.

        Raises:
            FolderError: If the folder exists.
        """
        self._shared().write(folder)

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, token: str | None = None
    ) -> str:
        """Upload such a folder to the Hugging Face hub in one commit; returns its address.

        Args:
            repo_id: ``owner/name``. The repository is made if it is missing.
            private: Whether a new repository is private. None leaves this to the owner's account.
            token: The token for the hub. None takes the one that is logged in.
        """
        return upload(self._shared(), repo_id, private, token)

    def _shared(self) -> SharedHypernet:
        return SharedHypernet(
            *(self.hypernet.settings, self.hypernet.state_dict()),
            *(self.backbone.name, self.backbone.fingerprint),
            *(self.max_passage_tokens, self.prompt),
        )

    @classmethod
    def _of(
        cls, shared: SharedHypernet, path: str | Path, backbone: Backbone | None, device: str
    ) -> GenPoE:
        """Make the hypernetwork that was read from a path, beside its backbone."""
        if backbone is None:
            backbone = load_backbone(shared.backbone, device=device)
        check_backbone(backbone, shared.backbone, shared.backbone_sha256)
        hypernet = shared.settings.build(backbone)
        try:
            hypernet.load_state_dict(shared.weights)
        except RuntimeError as error:
            raise _not_genpoe(path, " ".join(str(error).split())) from error
        hypernet.to(backbone.device).eval().requires_grad_(False).cast(backbone.dtype)
        warn_of_another_prompt(f"the hypernetwork of {path}", shared.prompt)
        return cls(backbone, hypernet, shared.max_passage_tokens, shared.prompt)

    def save(self, path: str | Path) -> None:
        """Write a file that `from_checkpoint` reads: the hypernetwork and the backbone's name."""
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
                "prompt": self.prompt,
            },
            Path(path),
        )

    def use_codes(self, bank: CodeBank) -> None:
        """From now on, take experts from codes that were kept, and read no passage.

        Args:
            bank: The codes.

        Raises:
            BankError: If they are of another hypernetwork or backbone, or if there are none.
            ValueError: If the hypernetwork is none that reads.
        """
        bank.check_hypernet(self.backbone, self.hypernet, self.max_passage_tokens)
        bank.check_filled()
        self._codes = bank

    @torch.inference_mode()
    def generate_experts(self, passages: Sequence[Passage]) -> GeneratedExperts:
        """Generate one expert for each passage (eq. 4): P sets of K = 1.

        Raises:
            BankError: With `use_codes`, if a passage has no code, or one of another text.
        """
        if self._codes is None:
            return self.hypernet(self.tokens(passages))
        code = self._codes.get([passage.id for passage in passages])
        self._codes.check_passages(passages)
        return self.hypernet.experts(code.to(self.backbone.device))

    @torch.inference_mode()
    def code(self, tokens: PassageTokens) -> ReaderCode:
        """Read passages, and return what must be kept to make their experts again.

        Args:
            tokens: What `tokens` returned.

        Raises:
            ValueError: If the hypernetwork is none that reads.
        """
        if not isinstance(self.hypernet, ReaderHypernet):
            raise not_reading(self.hypernet)
        return self.hypernet.code(self.hypernet.encode(tokens))

    def inject(
        self,
        passages: Sequence[Passage] | Sequence[Sequence[Passage]],
        relevance: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Put passages into the model's parameters until `remove` (sec. 3.3.1).

        Args:
            passages: K passages for every question that follows, or a list of passages for each
                row of a batch. The rows may differ in K; a row without passages is answered by the
                backbone alone.
            relevance: The weight of each passage, nested like ``passages``; default: equal weights.
                Eq. 9 makes them from a reranker's scores.

        Raises:
            ValueError: If the relevance has another shape than the passages.
        """
        rows = _rows(passages)
        weights = _rows_of_weights(rows, relevance)
        distinct = {p: i for i, p in enumerate(dict.fromkeys(p for row in rows for p in row))}
        if not distinct:
            self.remove()
            return
        experts = self.generate_experts(list(distinct))
        device, dtype = self.backbone.device, self.backbone.dtype
        # Any expert with weight 0 fills a short row.
        index_BK, mask_BK = pad([[distinct[p] for p in row] for row in rows], 0, device=device)
        relevance_BK = torch.zeros(index_BK.shape, device=device)
        relevance_BK[mask_BK.bool()] = torch.tensor(
            [weight for row in weights for weight in row], dtype=torch.float32, device=device
        )
        ready = self.hypernet.ready(experts.cast(dtype).arranged(index_BK))
        self.expert_layer.inject(ready, relevance_BK)

    def remove(self) -> None:
        """Take the passages out again. The backbone is then bit-identical to before."""
        self.expert_layer.remove()

    @contextmanager
    def injected(
        self,
        passages: Sequence[Passage] | Sequence[Sequence[Passage]],
        relevance: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ) -> Iterator[GenPoE]:
        """`inject` for the duration of a ``with`` block, also if an error ends it."""
        self.inject(passages, relevance)
        try:
            yield self
        finally:
            self.remove()

    def ask(
        self, question: str, prompt_passages: Sequence[Passage] = (), max_new_tokens: int = 32
    ) -> str:
        """Answer a question with the passages that are injected now.

        Args:
            question: The question.
            prompt_passages: Passages that also stand in the prompt (the paper's with-RAG setting).
            max_new_tokens: The largest number of tokens of the answer.

        Returns:
            The answer, decoded greedily to a natural stop.
        """
        prompt = build_prompt(question, prompt_passages)
        return greedy_decode(self.backbone, [prompt], max_new_tokens).texts[0]

    def tokens(self, passages: Sequence[Passage]) -> PassageTokens:
        """The token ids of passages as the hypernetwork reads them, on the backbone's device.

        Passages of more than `max_passage_tokens` are cut, and the first time a warning says so.
        """
        limit = self.max_passage_tokens
        ids = [encode_passage(self.backbone.tokenizer, passage, limit + 1) for passage in passages]
        cut = [p.id for p, row in zip(passages, ids, strict=True) if len(row) > limit]
        if cut and not self._said_cut:
            self._said_cut = True
            log.warning(
                "passage %r has more than %d tokens (max_passage_tokens of the training), and the "
                "hypernetwork reads only these; further passages are cut without a word",
                *(cut[0], limit),
            )
        ids_PS, mask_PS = pad(
            [row[:limit] for row in ids], 0
        )  # any token can be padding, because the mask marks it
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
