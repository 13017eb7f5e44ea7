"""How the code of a passage becomes bytes.

A row holds the S token ids, then S scales if the keys are rounded to whole numbers, then the keys,
token after token; all of it little-endian. S follows from the row's length.

Shapes: P passages, S passage tokens, U key width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from genpoe.hypernet.reader_experts import ReaderCode
from plumbing.batches import pad
from plumbing.settings import check_choice, check_positive, check_types
from qa.bank.layout import Bytes, Layout, Rows

KEYS: dict[str, np.dtype[Any]] = {
    "int8": np.dtype("i1"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
}
_SCALE = np.dtype("<f2")
_LARGEST = 127  # of the whole numbers that int8 keys are rounded to


@dataclass(frozen=True)
class CodeLayout(Layout):
    """How codes are laid out.

    Attributes:
        key_width: U, the width of a key.
        vocab_size: The number of tokens of the backbone. Up to 65,536 of them, an id takes two
            bytes, and else four.
        keys: In which form keys are kept. "int8": as whole numbers from -127 to 127 with a scale
            for each token. "float16", or "float32": as they are computed.

    Raises:
        ValueError: If a number is not positive, or if the form is unknown.
    """

    NOUN: ClassVar[str] = "code"
    MADE_BY: ClassVar[str] = "scripts/encode_passages.py"

    key_width: int
    vocab_size: int
    keys: str = "int8"

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "key_width", "vocab_size")
        check_choice("keys", self.keys, tuple(KEYS))

    @property
    def row_bytes(self) -> None:
        """None: a code is as long as its passage."""
        return None

    @property
    def token_bytes(self) -> int:
        """How many bytes a token takes."""
        scale = _SCALE.itemsize if self.keys == "int8" else 0
        return self._ids.itemsize + scale + self.key_width * KEYS[self.keys].itemsize

    def column(self, rows: int, total: int) -> tuple[str, tuple[int, ...]]:
        """The type in safetensors, and the shape, of a column of rows: the bytes as they are."""
        return "U8", (total,)

    def rows(self, code: ReaderCode) -> Rows:
        """The rows of P codes."""
        keys_PSU = code.keys_PSU.detach().to("cpu", torch.float32).numpy()
        ids_PS, mask_PS = (each.cpu().numpy() for each in (code.ids_PS, code.mask_PS))
        rows = []
        for ids_S, keys_SU, inside_S in zip(ids_PS, keys_PSU, mask_PS.astype(bool), strict=True):
            kept_SU = keys_SU[inside_S]
            parts = [ids_S[inside_S].astype(self._ids)]
            # `wrong` says which rows hold keys that are not finite.
            with np.errstate(over="ignore", invalid="ignore"):
                if self.keys == "int8":
                    scale_S = (np.abs(kept_SU).max(-1, initial=0) / _LARGEST).astype(_SCALE)
                    divisor_S1 = np.where(scale_S > 0, scale_S, 1).astype(np.float32)[:, None]
                    kept_SU = (kept_SU / divisor_S1).round().clip(-_LARGEST, _LARGEST)
                    parts.append(scale_S)
                parts.append(kept_SU.astype(KEYS[self.keys]))
            rows.append(b"".join(part.tobytes() for part in parts))
        return Rows.of(rows)

    def code(self, rows: Rows) -> ReaderCode:
        """The codes that P rows stand for, in float32 on the CPU, padded on the right."""
        parts = [self._parts(rows[row]) for row in range(len(rows))]
        ids_PS, mask_PS = pad([ids_S for ids_S, _, _ in parts], 0)
        keys_PSU = np.zeros((*ids_PS.shape, self.key_width), np.float32)
        for row, (_, scale_S, keys_SU) in enumerate(parts):
            kept_SU = keys_PSU[row, : len(keys_SU)]
            kept_SU[:] = keys_SU
            if scale_S is not None:
                kept_SU *= scale_S.astype(np.float32)[:, None]
        return ReaderCode(torch.from_numpy(keys_PSU), ids_PS, mask_PS)

    def wrong(self, rows: Rows) -> dict[int, str]:
        """Say which rows are no codes."""
        found = {}
        for row in range(len(rows)):
            if problem := self._wrong(rows[row]):
                found[row] = problem
        return found

    def _wrong(self, row: Bytes) -> str | None:
        if len(row) % self.token_bytes:
            return f"it has {len(row)} bytes, and each token takes {self.token_bytes}"
        ids_S, scale_S, keys_SU = self._parts(row)
        if len(ids_S) and not 0 <= ids_S.min() <= ids_S.max() < self.vocab_size:
            return "it holds a token that the backbone does not have"
        if not np.isfinite(keys_SU if scale_S is None else scale_S).all():
            return "it holds a NaN or an infinity"
        return None

    def _parts(
        self, row: Bytes
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, npt.NDArray[Any]]:
        """The ids ``[S]``, the scales ``[S]`` where there are any, and the keys ``[S, U]``."""
        count = len(row) // self.token_bytes
        ids_S = np.frombuffer(row, self._ids, count)
        start, scale_S = ids_S.nbytes, None
        if self.keys == "int8":
            scale_S = np.frombuffer(row, _SCALE, count, start)
            start += scale_S.nbytes
        keys = np.frombuffer(row, KEYS[self.keys], count * self.key_width, start)
        return ids_S, scale_S, keys.reshape(count, self.key_width)

    @property
    def _ids(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<i4")

    def to_json(self) -> dict[str, Any]:
        """Return the layout as plain JSON values, as the manifest and every shard hold it."""
        return {"keys": self.keys, "key_width": self.key_width, "vocab_size": self.vocab_size}
