"""Experts that are silent at questions that are not theirs.

The paper trains an expert on its own passage alone, so nothing says what it should do at other
questions. A tuned expert moves the FFN's output at any question by about as much as at its own, and
pushes towards its own answers. Here it also pays for what it changes elsewhere:

    loss + silence · mean over some foreign positions of ‖h' − h‖² / ‖h‖²

where h is the final hidden state there, and h' the same under the expert. The foreign positions are
those that predict the labels of other passages' instances. Their residual streams are computed once
(`Others`), so the penalty costs a pass through the final FFN, and never one through the head.

Deviation: the paper has no such penalty.

Shapes: N experts, n of them active, S foreign positions of an expert in a step, M foreign positions
in all, D d_model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.final_ffn import FinalFFN
from backbone.split import Trunk
from dmoe.training.instances import Encoded
from dmoe.training.label_states import label_states
from plumbing.mounts import SettingValueError
from plumbing.storage.hashing import short_hash

PASSAGES = 64  # passages whose instances are the foreign ones, the first of the lessons
POSITIONS = 16  # foreign positions of an expert in a step


@dataclass(frozen=True)
class Others:
    """Foreign positions, for all experts of a build.

    An expert's own passage may be among them; it is left out for that expert. So an expert depends
    neither on its group nor on the worker that trains it.

    Attributes:
        ids: The ids of the passages.
        residual_MD: The residual streams of all their positions.
        hidden_MD: The final hidden states there, without any expert.
        owner_M: The index in ``ids`` of each position's passage.
    """

    ids: list[str]
    residual_MD: Tensor
    hidden_MD: Tensor
    owner_M: Tensor

    @classmethod
    def of(
        cls,
        ffn: FinalFFN,
        trunk: Trunk,
        instances: Mapping[str, Sequence[Encoded]],
        trunk_tokens: int = 2048,
    ) -> Others:
        """Compute the states of some passages' instances.

        Args:
            ffn: The final FFN of the frozen backbone.
            trunk: The backbone below it.
            instances: The instances of each passage, by its id.
            trunk_tokens: As in `label_states`.
        """
        states = label_states(trunk, list(instances.values()), trunk_tokens)
        rows = [torch.cat([part.rows for part in each]).unique() for each in states.instances]
        counts = torch.tensor([len(each) for each in rows])
        residual = states.residual_AD[torch.cat(rows).to(states.residual_AD.device)]
        with torch.no_grad():
            hidden = ffn.hidden(residual)
        owner = torch.arange(len(rows)).repeat_interleave(counts)
        return cls(list(instances), residual, hidden, owner)

    def draw(self, ids: Sequence[str], steps: int) -> list[ForeignStep]:
        """Draw the foreign positions of each expert, for each step of an epoch.

        Args:
            ids: The ids of N experts' passages.
            steps: How many steps an epoch has.

        Returns:
            The positions of each step; an expert's draw depends on its id alone.

        Raises:
            ValueError: If an expert has no foreign position.
        """
        drawn = torch.stack([self._drawn(id, steps) for id in ids], dim=1)
        return [ForeignStep(self, rows_NS.to(self.residual_MD.device)) for rows_NS in drawn]

    def _drawn(self, id: str, steps: int) -> Tensor:
        owner = self.ids.index(id) if id in self.ids else -1
        foreign = (self.owner_M != owner).nonzero().flatten()
        if not len(foreign):
            raise SettingValueError(
                "silence",
                "silence needs questions about other passages, got one passage alone",
                "set {}=0, or give more passages",
            )
        seed = int.from_bytes(short_hash(f"silence {id}"), "big", signed=True)
        generator = torch.Generator().manual_seed(seed)
        # The positions of all steps differ as far as there are enough of them.
        wanted = steps * POSITIONS
        rounds = [
            torch.randperm(len(foreign), generator=generator)
            for _ in range(-(-wanted // len(foreign)))
        ]
        return foreign[torch.cat(rounds)[:wanted]].view(steps, POSITIONS)


@dataclass(frozen=True)
class ForeignStep:
    """The foreign positions of one step.

    Attributes:
        others: Where they are from.
        rows_NS: The index of each position among them.
    """

    others: Others
    rows_NS: Tensor

    def states(self, active: int) -> tuple[Tensor, Tensor]:
        """The residual streams and the plain hidden states ``[n, S, D]`` of the first n experts."""
        rows_nS = self.rows_NS[:active]
        return self.others.residual_MD[rows_nS], self.others.hidden_MD[rows_nS]


def change(hidden: Tensor, plain: Tensor) -> Tensor:
    """Compute ``‖h' − h‖² / ‖h‖²`` of hidden states ``[..., D]``; returns ``[...]`` in float32."""
    plain = plain.float()
    return (hidden.float() - plain).square().sum(-1) / plain.square().sum(-1)
