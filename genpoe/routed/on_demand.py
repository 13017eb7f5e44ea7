"""The codes of passages, made when they are first asked for and kept in memory.

With it a corpus needs no bank: a passage is read by the hypernetwork when the router chooses it for
the first time.

Shapes: P passages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from genpoe.hypernet.reader_experts import ReaderCode
from genpoe.model import GenPoE
from plumbing.batches import by_length
from plumbing.mounts import SettingValueError
from plumbing.stopwatch import Stopwatch
from retrieval.passage import Passage


class CodesOnDemand:
    """What the experts of passages are made of; passages are read one after another as needed.

    Args:
        genpoe: The hypernetwork that reads them.
        passages: All passages that have an expert, by their ids, such as a corpus.
        keep: The most codes that stay in memory; those that were used last do.
        at_once: The most passages that are read in one batch. With 1, a code does not depend on
            the passages that happen to be read beside it, not even in its last bits.

    Attributes:
        read: How often a passage was read.
        seconds: How long this took.

    Raises:
        SettingValueError: If ``keep`` is not positive.
    """

    def __init__(
        self,
        genpoe: GenPoE,
        passages: Mapping[str, Passage],
        keep: int = 4096,
        at_once: int = 16,
    ) -> None:
        if keep < 1:
            raise SettingValueError("keep", f"keep must be at least 1, got {keep}")
        self._genpoe = genpoe
        self._passages = passages
        self._keep, self._at_once = keep, at_once
        self._codes: OrderedDict[str, Any] = OrderedDict()
        self.read, self.seconds = 0, 0.0

    @property
    def where(self) -> str:
        """What messages call the passages: the file of a corpus, or the data set."""
        return str(getattr(self._passages, "path", "the data set"))

    def __contains__(self, id: object) -> bool:
        return id in self._passages

    def __iter__(self) -> Iterator[str]:
        return iter(self._passages)

    def get(self, ids: Sequence[str]) -> Any:
        """Return the codes of P passages, as `genpoe.hypernet.Hypernet.experts` takes them.

        Raises:
            KeyError: If there is no such passage.
        """
        missing = [id for id in dict.fromkeys(ids) if id not in self._codes]
        if missing:
            self._read(missing)
        for id in ids:
            self._codes.move_to_end(id)
        found = _joined([self._codes[id] for id in ids])
        while len(self._codes) > self._keep:
            self._codes.popitem(last=False)
        return found

    def forget(self, ids: Iterable[str]) -> None:
        """Drop the codes of some passages; those that have none are passed over."""
        for id in ids:
            self._codes.pop(id, None)

    @torch.inference_mode()
    def _read(self, ids: Sequence[str]) -> None:
        watch = Stopwatch()
        passages = [self._passages[id] for id in ids]
        hypernet = self._genpoe.hypernet
        for batch in by_length([len(p.text) for p in passages], max_rows=self._at_once):
            tokens = self._genpoe.tokens([passages[index] for index in batch])
            code = hypernet.code(hypernet.encode(tokens))
            for place, index in enumerate(batch):
                self._codes[ids[index]] = _alone(code, place)
        self.read += len(ids)
        self.seconds += watch.seconds


def _alone(code: Any, place: int) -> Any:
    """The code of one of P passages, without padding."""
    if not isinstance(code, ReaderCode):
        return code[place : place + 1]
    length = int(code.mask_PS[place].sum())
    keys, ids, mask = (
        tensor[place : place + 1, :length].clone()
        for tensor in (code.keys_PSU, code.ids_PS, code.mask_PS)
    )
    return ReaderCode(keys, ids, mask)


def _joined(codes: Sequence[Any]) -> Any:
    """The codes of P passages as one."""
    if not isinstance(codes[0], ReaderCode):
        return torch.cat(list(codes))
    width = max(code.ids_PS.shape[1] for code in codes)
    first = codes[0]
    joined = ReaderCode(
        first.keys_PSU.new_zeros(len(codes), width, first.keys_PSU.shape[2]),
        first.ids_PS.new_zeros(len(codes), width),
        first.mask_PS.new_zeros(len(codes), width),
    )
    for place, code in enumerate(codes):
        length = code.ids_PS.shape[1]
        joined.keys_PSU[place, :length] = code.keys_PSU[0]
        joined.ids_PS[place, :length] = code.ids_PS[0]
        joined.mask_PS[place, :length] = code.mask_PS[0]
    return joined
