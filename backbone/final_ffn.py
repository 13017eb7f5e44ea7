"""The final layer's FFN and all that follows it: the part of the backbone that experts change.

    logits = head(norm(r + m post(ffn(pre(r)))))

Here r is the residual stream behind the final layer's attention. ``pre`` and ``post`` are the norms
around the FFN; a family has one or both (Llama has ``pre``, OLMo2 ``post``, Gemma both). The
multiplier m is 1 but for a few families (Granite).

Nothing here mixes positions, and nothing below depends on an expert (DMoE sec. 3.2.1). Therefore r
can be computed once and kept. From r alone a token can be decoded again under other experts:
`FinalFFN.hidden` continues from it, and the KV cache is neither read nor written (DMoE eq. 10).

Shapes: A tokens (of any rows), B rows, P positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from backbone.model import Backbone, UnsupportedBackboneError
from backbone.projections import AdaptedProjections, Projection, projections

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class FinalFFN(AdaptedProjections):
    """The final FFN with its norms; it runs on residual streams alone.

    Args:
        backbone: The frozen model. One forward pass of three tokens finds the norms around its FFN
            and checks the layer's form.

    Attributes:
        backbone: The frozen model.
        ffn: The FFN.
        projections: Its linear maps by their names in an expert.
        pre: The norm that feeds the FFN, or None.
        post: The norm of the FFN's output, or None.
        multiplier: m.

    Raises:
        UnsupportedBackboneError: If the FFN has no linear maps that we know, or if the final layer
            is more than a residual sum around it.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.ffn = backbone.ffn(backbone.num_layers - 1)
        self.projections: dict[str, Projection] = projections(self.ffn)
        config = backbone.model.config.get_text_config()
        self.multiplier: float = getattr(config, "residual_multiplier", 1.0)  # Granite's
        self.pre, self.post = self._probe()

    def hidden(self, residual_AD: Tensor) -> Tensor:
        """Final hidden states ``[A, D]``, after the last norm, from residual streams ``[A, D]``."""
        out = self.ffn(residual_AD if self.pre is None else self.pre(residual_AD))
        if self.post is not None:
            out = self.post(out)
        if self.multiplier != 1:
            out = out * self.multiplier
        return self.backbone.final_norm(residual_AD + out)

    @torch.no_grad()
    def _probe(self) -> tuple[Any, Any]:
        """Find the norms around the FFN: what made its input, and what read its output."""
        layer = self.backbone.layers[-1]
        calls: list[tuple[nn.Module, Tensor, Tensor]] = []

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            inputs = [*args, *kwargs.values()]
            output = output[0] if isinstance(output, tuple) else output  # older families' layers
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                calls.append((module, inputs[0], output))

        watched = [*layer.children(), layer]
        handles = [m.register_forward_hook(note, with_kwargs=True) for m in watched]
        try:
            ids = torch.arange(3, device=self.backbone.device)[None]
            self.backbone.hidden_states(ids, torch.ones_like(ids))
        finally:
            for handle in handles:
                handle.remove()
        read = next((call for call in calls if call[0] is self.ffn), None)
        whole = next((call for call in calls if call[0] is layer), None)
        if read is None or whole is None:
            raise self._unsupported("does something else")
        # Tensors are compared by identity: one module's output is the next one's input.
        made = next((call for call in calls if call[2] is read[1]), None)
        reader = next((call for call in calls if call[1] is read[2]), None)
        residual, out = (read if made is None else made)[1], (read if reader is None else reader)[2]
        if residual is whole[1]:
            raise self._unsupported("computes it beside its attention, from the same input")
        total = residual + out * self.multiplier
        tolerance = TOLERANCE.get(total.dtype, 5e-2)
        alike = total.is_meta or torch.allclose(total, whole[2], rtol=tolerance, atol=tolerance)
        if not alike:  # on the meta device there are no values to compare
            raise self._unsupported("does something else")
        return made and made[0], reader and reader[0]

    def _unsupported(self, what: str) -> UnsupportedBackboneError:
        layer = type(self.backbone.layers[-1]).__name__
        return UnsupportedBackboneError(
            f"{type(self.backbone.model).__name__} ({self.backbone.name}): expected a final layer "
            "that adds its FFN's output to the residual stream behind its attention, got a "
            f"{layer} that {what}; neither DMoE's experts nor the reader's can stand there, so "
            "choose another backbone or, for GenPoE, hypernet=mean"
        )


@dataclass
class Residual:
    """The residual stream ``[B, P, D]`` that `keep_residual` kept from the last forward pass."""

    hidden_BPD: Tensor = field(default_factory=lambda: torch.empty(0))


@contextmanager
def keep_residual(final: FinalFFN, positions: int = 1) -> Iterator[Residual]:
    """Inside the block, keep the residual stream at the last positions of each forward pass.

    Args:
        final: The final FFN of the model that runs.
        positions: P, the number of positions; a decoding step needs one.

    Yields:
        The kept states; each forward pass replaces those of the one before.
    """
    kept = Residual()

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        # A view would keep the states of the whole prompt in memory.
        kept.hidden_BPD = args[0][:, -positions:].clone()

    handle = (final.ffn if final.pre is None else final.pre).register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
