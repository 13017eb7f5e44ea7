"""What MEND and MALMEN share as editors: networks from a checkpoint, which make the updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from backbone.model import Backbone
from genpoe.editors.by_factors import FactorEditor
from genpoe.editors.editor import EditError
from genpoe.editors.parts.facts import EncodedFact
from genpoe.editors.trained.networks import EditNetworks, TrainedSettings
from genpoe.model import check_backbone
from plumbing.mounts import SettingValueError
from plumbing.training.checkpoint import CheckpointError, load_checkpoint
from qa.prompts import warn_of_another_prompt

PREFIX = "networks."  # of the networks' tensors in a checkpoint


class TrainedEditor(FactorEditor):
    """An editor whose updates come from trained networks.

    Args:
        backbone: The model.
        networks: The networks, trained on the same model.

    Attributes:
        networks: The networks.

    Raises:
        ValueError: If the networks have no statistics yet.
    """

    NETWORKS: ClassVar[type[EditNetworks]]

    def __init__(self, backbone: Backbone, networks: EditNetworks) -> None:
        super().__init__(backbone, networks.places, networks.settings.tokens, sinks=False)
        if not networks.started:
            raise ValueError(
                "the networks of an editor need the statistics of training edits, got none; load "
                "a checkpoint that scripts/train_editor.py wrote"
            )
        self.networks = networks.to(backbone.device).eval()

    @classmethod
    def load(
        cls, backbone: Backbone, settings: TrainedSettings, ckpt_path: str | Path | None
    ) -> TrainedEditor:
        """Open what ``scripts/train_editor.py`` has trained.

        Args:
            backbone: The model, unedited.
            settings: The settings; they must be those of the training, but for what only the
                training reads.
            ckpt_path: The checkpoint.

        Raises:
            SettingValueError: If no checkpoint is named.
            CheckpointError: If it cannot be loaded, or is of another editor or of other settings.
            BackboneMismatchError: If it was trained with another backbone.
        """
        name = cls.NETWORKS.NAME
        if ckpt_path is None:
            raise SettingValueError(
                "ckpt_path",
                f"{name} needs what was trained, got ckpt_path=null",
                f"set {{}} to the last.ckpt of a run of scripts/train_editor.py editor={name}",
            )
        checkpoint = load_checkpoint(Path(ckpt_path), ("editor", "state_dict", "backbone"))
        origin = checkpoint["backbone"]
        check_backbone(backbone, origin["name"], origin["fingerprint"])
        check_editor(checkpoint["editor"], name, settings)
        warn_of_another_prompt(f"the editor of {ckpt_path}", checkpoint.get("prompt"))
        networks = cls.NETWORKS(backbone, settings)
        state = checkpoint["state_dict"]
        networks.load_state_dict({key.removeprefix(PREFIX): each for key, each in state.items()})
        return cls(backbone, networks.requires_grad_(False))

    @abstractmethod
    def _groups(self, facts: Sequence[EncodedFact]) -> list[Sequence[EncodedFact]]:
        """The facts that share an update, in turn."""

    @torch.no_grad()
    def _apply(self, facts: Sequence[EncodedFact]) -> None:
        for group in self._groups(facts):
            weights = {}
            for place, (inputs, gradients) in self._factors(group).items():
                update = self.networks.update(place, inputs, gradients).double()
                if not bool(update.isfinite().all()):
                    raise EditError(
                        f"the update of {place.parameter} for the edit {group[0].fact.id!r} is not "
                        "finite; train the editor for longer, or with a lower learning rate"
                    )
                weights[place] = self._weight(place) + update
            self._write(weights)


def check_editor(saved: dict[str, Any], name: str, settings: TrainedSettings) -> None:
    """Check that a checkpoint is of an editor and of the settings that its weights depend on.

    Raises:
        CheckpointError: If it is of others; the message names them.
    """
    if saved["name"] != name:
        raise CheckpointError(
            f"the checkpoint is of the editor {saved['name']}, got editor={name}; give a "
            f"checkpoint of {name}, or use editor={saved['name']}"
        )
    before, now = saved["settings"], settings.saved()
    changed = [
        f"{key} was {before[key]}, is {now[key]}"
        for key in now
        if key not in settings.TRAINING_ONLY and before[key] != now[key]
    ]
    if changed:
        raise CheckpointError(
            f"the checkpoint was trained with other settings: {', '.join(changed)}; give the same "
            "recipe of the editor, or train anew"
        )
