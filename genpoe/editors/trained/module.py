"""Training of MEND and MALMEN: an edit must reach its rephrasing and leave other prompts alone.

    L = a mean -log p'(target | rephrasing) + b mean KL(p || p')(next token | locality prompt)

Here a and b are weights, p is the model, and p' the model with the update D of a batch of edits in
every map. The gradient G = dL/dD is computed on the model alone, without the networks' graph; then
<G, D> is back-propagated through the networks alone, without the model's. No weight is written.

Shapes: N facts, T tokens, o outputs and i inputs of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from backbone.model import Backbone
from backbone.split import SplitBackbone
from genpoe.editors.parts.factors import gradient_factors, positions, shifted
from genpoe.editors.parts.moments import Moments
from genpoe.editors.parts.places import Place
from genpoe.editors.parts.rows import at_least_float32
from genpoe.editors.trained.editor import check_editor
from genpoe.editors.trained.examples import (
    LOCALITY,
    OWN,
    REPHRASED,
    EditData,
    EditExamples,
    HiddenStates,
)
from genpoe.editors.trained.networks import EditNetworks
from genpoe.model import check_backbone
from genpoe.training.frozen_states import frozen_states
from plumbing.progress import progress
from plumbing.training.checkpoint import CheckpointError
from plumbing.training.setup import once_on_a_machine
from qa.prompts import prompt_template

_ROWS = 16  # facts of one pass over the facts of the statistics


class DivergedError(ValueError):
    """A value of a training is not finite, or nothing can be learnt; the message says which."""


class EditorModule(LightningModule):
    """Trains the networks of an editor; the backbone is no submodule and does not change.

    Args:
        backbone: The frozen model.
        networks: The networks.
        statistics: How many training facts the statistics of the factors are made of.
        cache_dir: The folder for the states below the lowest edited layer, which are then computed
            once; None: every step computes them anew.

    Raises:
        UnsupportedBackboneError: With ``cache_dir``, if the decoder cannot be cut.
    """

    def __init__(
        self,
        backbone: Backbone,
        networks: EditNetworks,
        statistics: int = 500,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.networks = networks
        self._statistics = statistics
        self._cache_dir = cache_dir
        self._hidden = HiddenStates(backbone)
        self._split: SplitBackbone | None = None
        lowest = min(networks.settings.layers)
        if cache_dir is not None and lowest > 0:
            self._split = SplitBackbone(backbone, lowest)

    @property
    def _data(self) -> EditData:
        data: EditData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def factors(self, examples: EditExamples, facts: Tensor) -> Mapping[Place, Any]:
        """The factors u ``[n, i]`` and delta ``[n, o]`` of each map, at some facts' own prompts.

        Raises:
            DivergedError: If a factor is not finite.
        """
        rows, places = examples.rows([OWN], facts)
        hidden = partial(self._hidden.of, rows, places)
        found, _ = gradient_factors(self.backbone, self.networks.places, rows, hidden=hidden)
        where = positions(rows, self.networks.settings.tokens, sinks=False)
        each = {place: factor.at(*where) for place, factor in found.items()}
        for place, (inputs, gradients) in each.items():
            self._check(inputs, f"what {place.parameter} reads")
            self._check(gradients, f"the gradient of what {place.parameter} writes")
        return each

    def losses(self, facts: Tensor, updates: Mapping[Place, Tensor]) -> tuple[Tensor, Tensor]:
        """The nll of each fact's rephrasing and the divergence at its locality prompt, ``[N]``.

        Args:
            facts: The indices of the facts.
            updates: D of each map.
        """
        examples = self._data.examples
        plain = self._next_token(*examples.rows([LOCALITY], facts))
        rows, places = examples.rows([REPHRASED, LOCALITY], facts)
        with shifted(updates):
            hidden = self._hidden.of(rows, places)
        nll = rows.nll(self.backbone, hidden)[: len(facts)]
        every = torch.arange(len(facts), 2 * len(facts), device=hidden.device)
        last = rows.mask.sum(1)[len(facts) :] - 1
        now = at_least_float32(self.backbone.logits(hidden[every, last])).log_softmax(-1)
        return nll, (plain.exp() * (plain - now)).sum(1)

    @torch.no_grad()
    def _next_token(self, rows: Any, places: Tensor) -> Tensor:
        hidden = self._hidden.of(rows, places)
        last = hidden[torch.arange(len(hidden)), rows.mask.sum(1) - 1]
        return at_least_float32(self.backbone.logits(last)).log_softmax(-1)

    def forward(self, facts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """<G, D>, whose gradient for the networks is that of L, and the parts of L.

        Raises:
            DivergedError: If anything is not finite; the message names the matrix and the step.
        """
        settings = self.networks.settings
        updates = {
            place: self.networks.update(place, *each)
            for place, each in self.factors(self._data.examples, facts).items()
        }
        for place, update in updates.items():
            self._check(update, f"the update of {place.parameter}")
        known = {place: update.detach().requires_grad_() for place, update in updates.items()}
        with torch.enable_grad():
            nll, divergence = self.losses(facts, known)
            loss = settings.edit_weight * nll.mean() + settings.locality_weight * divergence.mean()
            self._check(loss, "the loss")
            gradients = torch.autograd.grad(loss, list(known.values()))
        objective = torch.zeros((), dtype=torch.float64, device=loss.device)
        for (place, update), gradient in zip(updates.items(), gradients, strict=True):
            self._check(gradient, f"the loss's gradient for {place.parameter}")
            objective = objective + (gradient.double() * update.double()).sum()
        parts = {"loss": loss, "edit_nll": nll.mean(), "locality_kl": divergence.mean()}
        return objective, {name: value.detach() for name, value in parts.items()}

    def _check(self, values: Tensor, what: str) -> None:
        if not bool(values.isfinite().all()):
            raise DivergedError(
                f"{what} is not finite at step {self.global_step + 1} of the training; lower lr "
                "or eta, or load the backbone in float32"
            )

    def training_step(self, facts: Tensor, batch_idx: int) -> Tensor:
        """<G, D> of one batch of facts."""
        objective, parts = self(facts)
        for name, value in parts.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", sync_dist=True)
        return objective

    def validation_step(self, facts: Tensor, batch_idx: int) -> None:
        """Log the loss and its parts on held-out facts."""
        with torch.inference_mode(False), torch.enable_grad():
            _, parts = self(facts)
        for name, value in parts.items():
            self.log(f"val/{name}", value, batch_size=len(facts), sync_dist=True)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Check the first gradient.

        Raises:
            DivergedError: If it is zero: then nothing will ever be learnt.
        """
        if self.global_step:
            return
        gradients = [p.grad for p in self.networks.parameters() if p.grad is not None]
        if not any(bool(gradient.any()) for gradient in gradients):
            raise DivergedError(
                "the gradient of every parameter of the networks is zero at step 1 of the "
                "training, so nothing can be learnt; edit other layers, or give facts whose "
                "rephrasings hold what is asked"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with a learning rate of their own for the logarithms of eta and lambda."""
        settings, steps = self.networks.settings, self.networks.step_parameters
        own = [p for p in self.networks.parameters() if all(p is not each for each in steps)]
        groups: list[dict[str, Any]] = [{"params": own}, {"params": steps, "lr": settings.eta_lr}]
        return torch.optim.Adam(groups, lr=settings.lr)

    def on_fit_start(self) -> None:
        """Move the backbone to the device, keep what is frozen, and compute the statistics."""
        self.backbone.to(self.device)
        split = self._split
        if split is not None and self._cache_dir is not None:
            compute = partial(
                frozen_states,
                split,
                self._data.examples.sequences,
                min(self.networks.settings.layers),
                Path(self._cache_dir),
                lambda batches: progress(batches, "States below the edited layers"),
            )
            states = once_on_a_machine(self.trainer, compute)
            self._hidden = HiddenStates(self.backbone, split.above, states)
        if not self.networks.started:
            self.networks.set_moments(self._moments())
            if self.trainer.world_size > 1:  # machines may round differently
                for tensor in self.networks.buffers():
                    torch.distributed.broadcast(tensor, 0)

    def _moments(self) -> dict[Place, Moments]:
        moments = {place: Moments() for place in self.networks.places}
        chosen = torch.tensor(self._data.training[: self._statistics])
        for some in progress(chosen.split(_ROWS), "Statistics of the factors"):
            for place, factors in self.factors(self._data.examples, some).items():
                moments[place] = moments[place].updated(torch.cat(factors, 1))
        return moments

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the editor, its settings, the backbone and the prompt.

        Raises:
            CheckpointError: If a weight is not finite; the checkpoint before it is then kept.
        """
        broken = [n for n, p in self.networks.named_parameters() if not p.isfinite().all()]
        if broken:
            raise CheckpointError(
                f"training has diverged: {', '.join(broken)} are no longer finite, and nothing is "
                "saved over the last checkpoint; lower the learning rate lr"
            )
        networks = self.networks
        checkpoint["editor"] = {"name": networks.NAME, "settings": networks.settings.saved()}
        checkpoint["backbone"] = {
            "name": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
        }
        checkpoint["prompt"] = prompt_template()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the training goes on with the same backbone and the same editor.

        Raises:
            BackboneMismatchError: If the backbone is another one.
            CheckpointError: If the editor or a setting on which its weights depend is another one.
        """
        origin = checkpoint["backbone"]
        check_backbone(self.backbone, origin["name"], origin["fingerprint"])
        check_editor(checkpoint["editor"], self.networks.NAME, self.networks.settings)
