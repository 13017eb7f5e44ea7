"""DMoE's interface for users: open a bank, and ask it questions.

>>> dmoe = DMoE.from_bank("BANK", "AUG/surrogates.jsonl", "INDEX", experts=1)
>>> answer = dmoe.ask("Where was Tova Blick born?")  # it depends on the experts of the bank
>>> for step in dmoe.steps("Where was Tova Blick born?"):
...     print(step.token, step.uncertainty, step.active)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backbone.loading import load_backbone
from backbone.model import Backbone
from dmoe.bank import Bank
from dmoe.decoding.decoder import DecoderInput, DMoEDecoder
from dmoe.decoding.router import retrieval_router
from dmoe.decoding.steps import Routing, Step
from dmoe.decoding.trigger import UncertaintyTrigger
from dmoe.decoding.weighting import weights_for
from qa.prompts import build_prompt
from retrieval.bm25.index import BM25Settings
from retrieval.corpus.corpus import Corpus


class DMoE(DMoEDecoder):
    """A decoder that answers questions with the experts of a bank on disk."""

    @classmethod
    def from_bank(
        cls,
        bank_dir: str | Path,
        surrogates: str | Path,
        index_dir: str | Path,
        backbone: Backbone | None = None,
        experts: int = 3,
        threshold: float = 2.0,
        device: str = "cpu",
        weights: str | None = None,
        temperature: float = 1.0,
    ) -> DMoE:
        """Open what the scripts made: the experts, and the BM25 router over their surrogates.

        Args:
            bank_dir: The bank, of ``scripts/build_experts.py``.
            surrogates: The surrogates, of ``scripts/augment.py``.
            index_dir: The BM25 index over them, of ``scripts/build_index.py``.
            backbone: The frozen model; None: the one that the bank names.
            experts: How many experts act at a time (``k=1`` on the command line is ``experts=1``).
            threshold: Token uncertainty above which the router is asked, nats.
            device: Where a backbone of the bank's name is loaded.
            weights: "sum", "router", or None to choose by the bank's recipe (`weights_for`).
            temperature: The temperature of the router's weights, in units of BM25's scores.

        Raises:
            BankError: If the bank is missing, damaged or empty, or belongs to another backbone.
            FolderError: If the index is missing or damaged, or was built over other
                surrogates.
            ValueError: If a setting is out of range, or the bank and the surrogates do not belong
                together.
        """
        bank = Bank.open(bank_dir, read_only=True)
        bank.check_filled()
        if backbone is None:
            backbone = load_backbone(bank.spec.backbone, device=device)
        bank.check_backbone(backbone)
        settings = BM25Settings(index_dir)
        router = retrieval_router(bank, settings, Corpus.open(surrogates), temperature)
        chosen = weights_for(weights, bank.spec.recipe, experts)
        trigger = UncertaintyTrigger(threshold)
        return cls(backbone, Routing(bank, router, trigger, experts, weights=chosen))

    def steps(self, question: str, max_new_tokens: int = 32) -> Iterator[Step]:
        """Decode an answer token by token; each step says whether the token triggered routing.

        A step also names the experts that acted.

        Raises:
            ValueError: If the question is longer than the backbone can read.
        """
        row = DecoderInput(build_prompt(question), question)
        return self.stream([row], max_new_tokens, self.backbone.stop_token_ids)

    def ask(self, question: str, max_new_tokens: int = 32) -> str:
        """Answer a question by greedy decoding, up to a stop token or ``max_new_tokens``.

        Raises:
            ValueError: If the question is longer than the backbone can read.
        """
        return self.text(self.steps(question, max_new_tokens))
