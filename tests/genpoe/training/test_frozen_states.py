"""States below the expert layer: the same result as the whole model, and safe on disk."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch

from backbone.split import SplitBackbone
from genpoe.training import frozen_states as frozen
from genpoe.training.frozen_states import FrozenStatesError, frozen_states
from plumbing.storage.files import sha256_of
from tests.helpers.tiny import make_backbone

SEQUENCES = [[5, 6, 7], [8, 9, 3, 2, 1], [4, 4]]


def test_states_are_those_of_the_model_and_computed_once(tmp_path, tiny_backbone, monkeypatch):
    split = SplitBackbone(tiny_backbone, 1)
    states = frozen_states(split, SEQUENCES, 1, tmp_path)
    rows = states.rows(torch.tensor([1, 0, 2]))
    assert rows.shape == (3, 5, 32)
    for row, index in zip(rows, [1, 0, 2], strict=True):
        ids = torch.tensor([SEQUENCES[index]])
        expected = split.below(ids, torch.ones_like(ids))[0]
        torch.testing.assert_close(row[: ids.shape[1]], expected, rtol=1e-4, atol=1e-5)
        assert torch.count_nonzero(row[ids.shape[1] :]) == 0
    monkeypatch.setattr(split, "below", lambda *_: pytest.fail("computed again"))
    again = frozen_states(split, SEQUENCES, 1, tmp_path)
    assert torch.equal(again.flat_TD, states.flat_TD)


def test_other_input_has_another_cache(tmp_path, tiny_backbone, tiny_tokenizer):
    for backbone, sequences, layer in [
        (tiny_backbone, SEQUENCES, 1),
        (tiny_backbone, SEQUENCES[:2], 1),
        (make_backbone(seed=1, tokenizer=tiny_tokenizer), SEQUENCES, 1),
    ]:
        frozen_states(SplitBackbone(backbone, layer), sequences, layer, tmp_path)
    assert len(list(tmp_path.glob("[!.]*"))) == 3


class Counted:
    """A split backbone that counts what it computes, and is interrupted at one of its batches."""

    def __init__(self, split, interrupted_at=None):
        self.backbone, self.batches = split.backbone, 0
        self._split, self._interrupted_at = split, interrupted_at

    def below(self, ids, mask):
        if self.batches == self._interrupted_at:
            raise KeyboardInterrupt
        self.batches += 1
        return self._split.below(ids, mask)


@pytest.fixture
def one_by_one(monkeypatch):
    """Each sequence is a batch, and is marked as done at once."""
    monkeypatch.setattr(frozen, "_BATCH_TOKENS", 1)
    monkeypatch.setattr(frozen, "_SECONDS_BETWEEN_MARKS", 0)


def interrupt(split, folder):
    counted: Any = Counted(split, 2)
    with pytest.raises(KeyboardInterrupt):
        frozen_states(counted, SEQUENCES, 1, folder)
    (part,) = folder.glob(".*.building")
    assert not list(folder.glob("[!.]*"))  # nothing that could be taken for complete
    return part


@pytest.mark.usefixtures("one_by_one")
def test_an_interrupted_computation_goes_on(tmp_path, tiny_backbone):
    split = SplitBackbone(tiny_backbone, 1)
    whole = frozen_states(split, SEQUENCES, 1, tmp_path / "whole").flat_TD
    part = interrupt(split, tmp_path / "killed")
    again: Any = Counted(split)
    states = frozen_states(again, SEQUENCES, 1, tmp_path / "killed")
    assert again.batches == 1  # the one at which it was interrupted
    assert torch.equal(states.flat_TD, whole)
    assert not part.exists()


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("mark", ["", "[]", "{}", json.dumps({"done": 1, "of": 9})])
def test_a_mark_that_does_not_fit_begins_again(tmp_path, tiny_backbone, mark):
    split = SplitBackbone(tiny_backbone, 1)
    part = interrupt(split, tmp_path)
    (part / "done.json").write_text(mark)
    again: Any = Counted(split)
    frozen_states(again, SEQUENCES, 1, tmp_path)
    assert again.batches == 3


@pytest.mark.usefixtures("one_by_one")
def test_the_kind_that_is_least_far_decides(tmp_path):
    """States of two kinds are computed together; one of them was begun without the other."""
    lengths, shape = [1, 1, 1], (4, torch.float32)
    homes = [tmp_path / "a", tmp_path / "b"]

    def compute(missing, remaining):
        for index in remaining(range(3)):
            if index == 2 and len(missing) == 1:
                raise KeyboardInterrupt
            for states in missing.values():
                states.write(index, torch.full((1, 4), float(index)))

    with pytest.raises(KeyboardInterrupt):
        frozen.cached_states(homes[:1], lengths, *shape, compute)
    both = frozen.cached_states(homes, lengths, *shape, compute)
    for states in both:
        assert states.flat_TD[:, 0].tolist() == [0, 1, 2]


def test_damage_is_found(tmp_path, tiny_backbone):
    split = SplitBackbone(tiny_backbone, 1)
    frozen_states(split, SEQUENCES, 1, tmp_path)
    (path,) = tmp_path.glob("*/states.bin")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(FrozenStatesError, match="are damaged; remove that folder"):
        frozen_states(split, SEQUENCES, 1, tmp_path)


def test_the_form_of_the_manifest_before_is_read(tmp_path, tiny_backbone, monkeypatch):
    split = SplitBackbone(tiny_backbone, 1)
    states = frozen_states(split, SEQUENCES, 1, tmp_path).flat_TD.clone()
    (path,) = tmp_path.glob("*/states.bin")
    manifest = path.with_name("manifest.json")
    of_before = json.dumps({"sha256": sha256_of(path)})
    manifest.write_text(of_before)
    monkeypatch.setattr(split, "below", lambda *_: pytest.fail("computed again"))
    assert torch.equal(frozen_states(split, SEQUENCES, 1, tmp_path).flat_TD, states)
    assert manifest.read_text() == of_before  # it is left as it is
    for content in (json.dumps({"sha256": "0" * 64}), "{}", "[]", "", "{"):
        manifest.write_text(content)
        with pytest.raises(FrozenStatesError, match="are damaged; remove that folder"):
            frozen_states(split, SEQUENCES, 1, tmp_path)


def test_a_file_that_is_too_short_is_not_made_longer(tmp_path, tiny_backbone):
    split = SplitBackbone(tiny_backbone, 1)
    frozen_states(split, SEQUENCES, 1, tmp_path)
    (path,) = tmp_path.glob("*/states.bin")
    data = path.read_bytes()[:-4]
    path.write_bytes(data)
    with pytest.raises(FrozenStatesError, match="are damaged; remove that folder"):
        frozen_states(split, SEQUENCES, 1, tmp_path)
    assert path.read_bytes() == data


def test_a_full_disk_is_an_error(tmp_path, tiny_backbone, monkeypatch):
    usage = type("usage", (), {"free": 3})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FrozenStatesError, match="GiB free; choose a cache_dir with more"):
        frozen_states(SplitBackbone(tiny_backbone, 1), SEQUENCES, 1, tmp_path)
