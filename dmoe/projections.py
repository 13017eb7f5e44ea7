"""The linear maps of an FFN that an expert adapts: gate, up and down."""

from __future__ import annotations

from torch import nn

from qa.backbone import UnsupportedBackboneError

# By the name in an expert, the names that the families use; the first that exists is taken.
_NAMES = {
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "w3", "fc1", "c_fc", "dense_h_to_4h"),
    "down": ("down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h"),
}


def projections(ffn: nn.Module) -> dict[str, nn.Linear]:
    """The FFN's linear maps by their names in an expert; a plain FFN has no gate.

    Raises:
        UnsupportedBackboneError: If there is no up or no down projection that we know.
    """
    found: dict[str, nn.Linear] = {}
    for key, names in _NAMES.items():
        parts = (getattr(ffn, name, None) for name in names)
        part = next((part for part in parts if isinstance(part, nn.Linear)), None)
        if part is not None:
            found[key] = part
    if "up" not in found or "down" not in found:
        children = ", ".join(name for name, _ in ffn.named_children()) or "none"
        raise UnsupportedBackboneError(
            f"{type(ffn).__name__}: expected linear maps up_proj and down_proj in the FFN, got "
            f"{children}; experts cannot be placed in it"
        )
    return found
