"""What all rows of a bank have in common, as its manifest says it; and the kinds of banks."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import Any, Self

from qa.bank.errors import BankError
from qa.bank.layout import Layout

# The spec of each kind. A name stands for what may not be imported here, as it does in conf/.
_SPECS = {"experts": "dmoe.bank.spec.BankSpec", "codes": "genpoe.codes.spec.CodeSpec"}
_OLDEST = "experts"  # the kind of banks whose manifest names none


class Spec(ABC):
    """What all rows of a bank have in common. A subclass is a frozen dataclass.

    Attributes:
        backbone: The name of the model that the rows belong to.
        backbone_sha256: The hash of that model, `backbone.model.Backbone.fingerprint`.
        layout: How a row is laid out.
    """

    backbone: str
    backbone_sha256: str
    layout: Layout

    @property
    def kind(self) -> str:
        """What the bank is a bank of: a key of the kinds that exist."""
        return f"{self.layout.NOUN}s"

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""

    @classmethod
    @abstractmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Make a spec of what `to_json` returned.

        Raises:
            BankError: If a value cannot be used.
            KeyError: If a value is missing.
        """

    @abstractmethod
    def card(self, rows: int, shards: int) -> str:
        """The card of a bank, in Markdown.

        Args:
            rows: How many rows the bank has.
            shards: How many shards they are in.
        """

    def told(self) -> dict[str, Any]:
        """The values under dotted keys, by which two specs are compared."""
        return dict(_leaves(self.to_json()))

    def check_same(self, other: Spec, where: object, but: Collection[str] = ()) -> None:
        """Check that a bank holds rows of the expected kind.

        The name of the backbone may differ, because its hash decides.

        Args:
            other: The spec that is expected.
            where: The folder of the bank that has this spec, for the message.
            but: The keys of values that may differ, such as "recipe.source".

        Raises:
            BankError: If the two differ; the message names each difference.
        """
        check_kind(self, other.kind, where)
        theirs = other.told()
        try:
            mine = self.told()
        except (KeyError, ValueError) as error:
            raise BankError(
                f"{where}: what the bank says of its {self.kind} cannot be used: {error}; use the "
                "version of this code that wrote it, or another bank"
            ) from error
        differing = [
            f"{key}: {_shown(theirs, key)} here, {_shown(mine, key)} in the bank"
            for key in sorted(mine | theirs)
            if key not in ("backbone", *but)
            and (key in mine, mine.get(key)) != (key in theirs, theirs.get(key))
        ]
        if differing:
            raise BankError(
                f"{where}: the bank does not fit: {'; '.join(differing)}; use another folder, or "
                "the settings that it was built with"
            )


def check_kind(spec: Spec, kind: str, where: object) -> None:
    """Check that a bank is of one kind.

    Raises:
        BankError: If it is of another kind; the message names both.
    """
    if spec.kind != kind:
        raise BankError(
            f"{where}: expected a bank of {kind}, got one of {spec.kind}; give the folder of "
            f"another bank"
        )


def read_spec(value: Mapping[str, Any]) -> Spec:
    """Make the spec of a manifest, whichever kind it names.

    Raises:
        BankError: If a value cannot be used.
        KeyError: If a value is missing.
        ValueError: If there is no such kind.
    """
    kind = value.get("kind", _OLDEST)
    if kind not in _SPECS:
        raise ValueError(f"expected a bank of {' or '.join(_SPECS)}, got one of {kind!r}")
    module, _, name = _SPECS[kind].rpartition(".")
    spec: type[Spec] = getattr(import_module(module), name)
    return spec.from_json(dict(value))


def json_values(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The values as they will be read again: tuples become lists and so on.

    Args:
        values: Nested values.
        what: What they are, for the message.

    Raises:
        BankError: If a value is none of JSON's.
    """
    try:
        same: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BankError(f"{what} must hold plain JSON values: {error}") from error
    return same


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a nested mapping holds, under dotted keys."""
    for key, part in value.items():
        if isinstance(part, dict):
            yield from _leaves(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part


def _shown(leaves: dict[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else "none"
