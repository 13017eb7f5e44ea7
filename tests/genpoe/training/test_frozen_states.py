"""States below the expert layer: the same result as the whole model, and safe on disk."""

from __future__ import annotations

import json
import shutil

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
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interruption_leaves_nothing(tmp_path, tiny_backbone, monkeypatch):
    monkeypatch.setattr(frozen, "_BATCH_TOKENS", 1)

    def stop(batches):
        yield batches[0]
        raise KeyboardInterrupt

    split = SplitBackbone(tiny_backbone, 1)
    with pytest.raises(KeyboardInterrupt):
        frozen_states(split, SEQUENCES, 1, tmp_path, stop)
    assert list(tmp_path.iterdir()) == []


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
