"""Hypernetworks as folders to share, and the calls that upload and download them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genpoe.hypernet.mean import MeanSettings
from genpoe.model import BackboneMismatchError, GenPoE
from plumbing.storage.manifest import FolderError
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_reader import make_reader

PASSAGES = [Passage("1", "Tova Blick", "Tova Blick was born in Lisbon.")]


def mean() -> GenPoE:
    backbone = make_backbone()
    torch.manual_seed(1)
    hypernet = MeanSettings(layer=1, rank=2, hidden_width=8, initialization="random").build(
        backbone
    )
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter.normal_()
    return GenPoE(backbone, hypernet.eval(), 300, "a prompt")


MAKERS: dict[str, Any] = {"mean": mean, "reader": lambda: make_reader(make_backbone())}


@torch.no_grad()
def logits(genpoe: GenPoE) -> torch.Tensor:
    ids = torch.arange(3, 12)[None]
    with genpoe.injected(PASSAGES):
        found: torch.Tensor = genpoe.backbone.model(ids).logits
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", list(MAKERS))
def test_what_is_written_is_read_bit_for_bit(kind: str, tmp_path: Path) -> None:
    genpoe = MAKERS[kind]()
    genpoe.save_pretrained(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "config.json", "model.safetensors")
    ]
    found = GenPoE.from_pretrained(tmp_path / "out", make_backbone())
    assert torch.equal(logits(found), logits(genpoe))
    assert not torch.equal(logits(found), found.backbone.model(torch.arange(3, 12)[None]).logits)
    assert (found.max_passage_tokens, found.prompt) == (genpoe.max_passage_tokens, genpoe.prompt)
    with pytest.raises(FolderError, match="exists already"):
        genpoe.save_pretrained(tmp_path / "out")


def test_the_card_has_a_header_that_hubs_read(tmp_path: Path) -> None:
    genpoe = mean()
    genpoe.backbone.name = 'odd: "name"\n---'
    genpoe.save_pretrained(tmp_path / "out")
    _, header, body = (tmp_path / "out" / "README.md").read_text("utf-8").split("---\n", 2)
    found = pytest.importorskip("yaml").safe_load(header)  # OmegaConf brings it; it has no types
    assert found["base_model"] == genpoe.backbone.name
    assert found["library_name"] == "genpoe-dmoe"
    assert {"license", "tags"} <= found.keys()
    count = sum(tensor.numel() for tensor in genpoe.hypernet.state_dict().values())
    assert f"{count:,} parameters" in body
    assert '"rank": 2' in body


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    mean().save_pretrained(tmp_path / "out")
    with pytest.raises(BackboneMismatchError):
        GenPoE.from_pretrained(tmp_path / "out", make_backbone(seed=5))


@pytest.mark.parametrize("damage", ["bit", "weights", "config", "format", "class"])
def test_a_damaged_folder_is_an_error(damage: str, tmp_path: Path) -> None:
    mean().save_pretrained(tmp_path / "out")
    weights, config = (tmp_path / "out" / name for name in ("model.safetensors", "config.json"))
    settings = json.loads(config.read_text("utf-8"))
    if damage == "bit":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "weights":
        weights.unlink()
    elif damage == "config":
        config.write_text("{}", "utf-8")
    elif damage == "format":
        config.write_text(json.dumps(settings | {"format": 99}), "utf-8")
    else:
        settings["hypernet"]["class"] = "subprocess.Popen"
        config.write_text(json.dumps(settings), "utf-8")
    with pytest.raises(FolderError, match=r"expected a hypernetwork that GenPoE\.save_pretrained"):
        GenPoE.from_pretrained(tmp_path / "out", make_backbone())


@pytest.mark.filterwarnings("ignore")
def test_to_the_hub_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the calls: the hub itself cannot be reached in tests."""
    hub = tmp_path / "hub"
    calls: list[tuple[str, Any]] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            calls.append(("token", token))

        def create_repo(self, repo_id: str, **settings: Any) -> None:
            calls.append((repo_id, settings))

        def upload_folder(self, folder_path: Path, **settings: Any) -> Any:
            calls.append(("upload", settings["repo_id"]))
            shutil.copytree(folder_path, hub)
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **settings: str(hub))
    genpoe = mean()
    assert genpoe.push_to_hub("me/net", private=True, token="t") == "https://hub/commit"
    assert calls == [
        *(("token", "t"), ("me/net", {"private": True, "exist_ok": True})),
        ("upload", "me/net"),
    ]
    assert torch.equal(logits(GenPoE.from_pretrained("me/net", make_backbone())), logits(genpoe))


def test_a_name_that_no_hub_knows() -> None:
    with pytest.raises(FolderError, match=r"expected a folder or a hypernetwork on the hub"):
        GenPoE.from_pretrained("no such//")
