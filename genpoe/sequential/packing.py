"""What an editor knows, as plain values and tensors that files can hold without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from backbone.identity.weights import raw_bytes
from backbone.model import Backbone
from genpoe.editors.parts.places import Place, find_places
from plumbing.storage.hashing import digest

_PACKAGES = ("backbone", "retrieval", "genpoe", "dmoe")  # whose data classes may be packed


def pack(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """Take a nested value apart.

    Args:
        value: Made of plain values, lists, tuples, dicts with any such keys, tensors, places of a
            model, and data classes of this project.

    Returns:
        Plain JSON values, and the tensors that they refer to by name.

    Raises:
        TypeError: If something else is in the value.
    """
    tensors: dict[str, Tensor] = {}

    def plain(node: Any) -> Any:
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if isinstance(node, Tensor):
            tensors[name := str(len(tensors))] = node.detach().cpu().contiguous()
            return {"tensor": [name, node.device.type != "cpu"]}
        if isinstance(node, Place):
            return {"place": [node.layer, node.projection]}
        if isinstance(node, list | tuple):
            return {"list" if isinstance(node, list) else "tuple": [plain(each) for each in node]}
        if isinstance(node, Mapping):
            return {"dict": [[plain(key), plain(each)] for key, each in node.items()]}
        kind = type(node)
        if is_dataclass(node) and kind.__module__.partition(".")[0] in _PACKAGES:
            content = {field.name: plain(getattr(node, field.name)) for field in fields(node)}
            return {"object": [kind.__module__, kind.__qualname__, content]}
        raise TypeError(f"a journal cannot hold a {kind.__name__}; keep it in another form")

    return plain(value), tensors


def unpack(packed: Any, tensors: Mapping[str, Tensor], backbone: Backbone) -> Any:
    """Put together what `pack` took apart.

    Args:
        packed: The plain values.
        tensors: The tensors.
        backbone: The model whose places are meant, and on whose device tensors are wanted.

    Raises:
        ValueError: If the values are not those of `pack`.
    """
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()

    def whole(node: Any) -> Any:
        return unpack(node, tensors, backbone)

    if kind == "tensor":
        name, moved = content
        return tensors[name].to(backbone.device) if moved else tensors[name]
    if kind == "place":
        return find_places(backbone, [content[0]], [content[1]])[0]
    if kind == "dict":
        return {whole(key): whole(each) for key, each in content}
    if kind in ("list", "tuple"):
        items = [whole(each) for each in content]
        return items if kind == "list" else tuple(items)
    if kind == "object" and content[0].partition(".")[0] in _PACKAGES:
        found: Any = getattr(import_module(content[0]), content[1])
        if isinstance(found, type) and is_dataclass(found):
            return found(**{name: whole(each) for name, each in content[2].items()})
    raise ValueError(f"expected a value that was packed, got {json.dumps(packed)[:60]}")


def hash_of(value: Any) -> str:
    """A hash of everything that `pack` finds in a value."""
    packed, tensors = pack(value)
    sums = {name: hashlib.sha256(raw_bytes(each)).hexdigest() for name, each in tensors.items()}
    kinds = {name: [str(each.dtype), list(each.shape)] for name, each in tensors.items()}
    return digest([packed, sums, kinds])
