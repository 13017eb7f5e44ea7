"""GenPoE among the other answering methods (sec. 3.3), and the controls for its experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from backbone.model import Backbone
from genpoe.codes import CodeBank
from genpoe.model import GenPoE
from plumbing.settings import check_choice, check_seed
from qa.method import AnsweringMethod, QuestionInput
from qa.noise import RandomTurns

EXPERTS = ("own", "common", "noise", "none")


class GenPoEMethod(AnsweringMethod):
    """Puts the passages of each question into one layer as K experts, weighted by relevance.

    Args:
        backbone: The frozen model with which the hypernetwork was trained.
        ckpt_path: A checkpoint of ``scripts/train_hypernet.py``.
        rag: True: the passages also stand in the prompt (the paper's GenPoE with RAG).
        max_new_tokens: The largest number of tokens that are decoded.
        experts: What stands beside the FFN. "own" are the experts of the question's passages. The
            others are controls: "common" is the expert that the hypernetwork has in common for all
            passages, "noise" moves the FFN's output as far as the passages' experts and in a random
            direction (`RandomTurns`), and with "none" the backbone is alone.
        seed: The seed of the noise.
        codes_dir: A bank that ``scripts/encode_passages.py`` wrote; the experts are made of its
            codes, and no passage is read. None: passages are read.

    Raises:
        BankError: If the bank is missing, or if it belongs to another backbone or hypernetwork.
        BackboneMismatchError: If the checkpoint belongs to another backbone.
        CheckpointError: If the file is missing, is damaged or is no GenPoE checkpoint.
        ValueError: If no checkpoint is named, if ``experts`` is unknown, or if the hypernetwork has
            no common expert where that is wanted.
    """

    def __init__(
        self,
        backbone: Backbone,
        ckpt_path: str | None = None,
        rag: bool = False,
        max_new_tokens: int = 32,
        experts: str = "own",
        seed: int = 0,
        codes_dir: str | None = None,
    ) -> None:
        super().__init__(backbone, rag, max_new_tokens)
        check_choice("experts", experts, EXPERTS)
        check_seed(seed)
        if not ckpt_path:
            raise ValueError("method=genpoe needs a trained hypernetwork: give ckpt_path=…")
        self.genpoe = GenPoE.from_checkpoint(ckpt_path, backbone)
        if codes_dir is not None:
            self.genpoe.use_codes(CodeBank.open(codes_dir, read_only=True))
        self._experts, self._seed = experts, seed
        if experts == "common":
            self._common = self.genpoe.hypernet.common_expert().map(
                lambda factor: factor.to(backbone.dtype)
            )

    @property
    def keeps_prompts(self) -> bool:
        """Whether the experts change no key and no value, because they are beside the last FFN."""
        return self.genpoe.expert_layer.layer == self.backbone.num_layers - 1

    def injected(self, inputs: Sequence[QuestionInput]) -> AbstractContextManager[Any]:
        """Generate and inject the experts of each question's passages (eq. 4 and 6)."""
        if self._experts == "none":
            return nullcontext()
        if self._experts == "common":
            one = torch.ones(1, 1, device=self.backbone.device)
            return self.genpoe.expert_layer.injected(self._common, one)
        return self._noise(inputs) if self._experts == "noise" else self._own(inputs)

    def _own(self, inputs: Sequence[QuestionInput]) -> AbstractContextManager[Any]:
        return self.genpoe.injected(
            [input.selection.passages for input in inputs],
            [input.selection.weights for input in inputs],
        )

    @contextmanager
    def _noise(self, inputs: Sequence[QuestionInput]) -> Iterator[None]:
        """Inject the passages' experts, and turn what they add to the FFN's output at random."""
        names = ["\n".join(passage.id for passage in input.selection.passages) for input in inputs]
        turns = RandomTurns(names, self.backbone.d_model, self._seed, self.backbone.device)
        ffn = self.genpoe.expert_layer.ffn
        plain = torch.empty(0)

        def keep(_: Any, __: Any, output: Any) -> None:
            nonlocal plain
            plain = _first(output).float()

        def turn(_: Any, __: Any, output: Any) -> Any:
            changed = _first(output)
            turned = (plain + turns(changed.float() - plain)).to(changed.dtype)
            return (turned, *output[1:]) if isinstance(output, tuple) else turned

        with ExitStack() as stack:  # hooks run in the order in which they were registered
            stack.callback(ffn.register_forward_hook(keep).remove)
            stack.enter_context(self._own(inputs))
            stack.callback(ffn.register_forward_hook(turn).remove)
            yield


def _first(output: Any) -> Tensor:
    """An FFN's output; some sparse blocks return their router's scores as well."""
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first
