"""The adapters of passages: trained when they are first wanted, and kept on disk.

Only the passages that questions retrieve ever get one. A table of a few hundred questions needs no
more, and an adapter for every passage of a corpus would take megabytes each. An adapter is one
safetensors file, which is written as a whole, and which is known when it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dmoe.bank.errors import shown
from dmoe.bank.records import passage_sha256
from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.baselines.prag.training import train_adapter
from dmoe.experts.expert import Expert, ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import Encoded, encode_all
from dmoe.training.lessons import check_formats, read_augmentations
from plumbing.mounts import SettingValueError
from plumbing.storage.files import replace_file
from retrieval.passage import Passage

log = logging.getLogger(__name__)


class NoAugmentationError(SettingValueError):
    """A passage that has no adapter, because nothing is there to train it on."""


class PassageAdapters:
    """One adapter a passage, on the FFNs of some layers.

    A file's name is the hash of all that decides what is in it: the passage, its instances token by
    token, the layers, the settings, the recipe, and the backbone with its dtype. So nothing that
    was made otherwise is ever used, and a passage's id, which may be any text, is no part of a
    path.

    Args:
        ffns: Of the frozen backbone, in the layers that have adapters.
        augmentation: JSON lines that ``scripts/augment.py`` wrote; see
            `dmoe.training.lessons.lessons_from_augmentation`.
        formats: Of the instances; see `dmoe.training.lessons.Lesson.instances`.
        spec: Rank, alpha and projections.
        recipe: The training's settings.
        cache_dir: Folder of the adapters; made when missing.

    Attributes:
        ffns: The same.
        trained: How many adapters were trained.
        read: How many were read, those of one passage again each time.
        without: Ids of the passages whose augmentation gives no instances: they have no adapter.
        seconds: That training took.

    Raises:
        DataError: If the augmentations are malformed.
        InstancesError: If a format is unknown.
        ExpertError: If an FFN lacks one of the projections.
    """

    def __init__(
        self,
        ffns: LayerFFNs,
        augmentation: str | Path,
        formats: Sequence[str],
        spec: ExpertSpec,
        recipe: Recipe,
        cache_dir: str | Path,
    ) -> None:
        check_formats(formats)
        ffns.initial(spec, recipe.seed)  # raises where an FFN lacks a target
        self.ffns, self._formats, self._spec, self._recipe = ffns, list(formats), spec, recipe
        self._source, self._folder = augmentation, Path(cache_dir).expanduser()
        self._augmentations = {one.passage_id: one for _, one in read_augmentations(augmentation)}
        self.trained, self.read, self.seconds = 0, 0, 0.0
        self.without: set[str] = set()

    @property
    def scaling(self) -> float:
        """LoRA's ``alpha / rank``."""
        return self._spec.scaling

    def load(self, passages: Sequence[Passage]) -> dict[str, Expert]:
        """The adapters of some passages, by id; trained where there is none.

        Those without any instance are left out, and damaged files replaced, both with a warning.

        Raises:
            NoAugmentationError: Naming a passage that was not augmented.
            ExpertError: If a training diverged.
        """
        found: dict[str, Expert] = {}
        for passage in {passage.id: passage for passage in passages}.values():
            if instances := self._instances(passage):
                found[passage.id] = self._load(passage, instances)
        return found

    def _load(self, passage: Passage, instances: Sequence[Encoded]) -> Expert:
        path = self._path(passage, instances)
        try:
            adapter = read_adapter(path)
        except FileNotFoundError:
            pass
        except DamagedAdapterError as error:
            log.warning("%s; the adapter is trained again", error)
        else:
            self.read += 1
            return adapter
        start = time.perf_counter()
        adapter = train_adapter(self.ffns, instances, self._spec, self._recipe)
        write_adapter(path, adapter)
        self.trained += 1
        self.seconds += time.perf_counter() - start
        return adapter

    def _instances(self, passage: Passage) -> list[Encoded]:
        augmentation = self._augmentations.get(passage.id)
        if augmentation is None:
            raise NoAugmentationError(
                "augmentation",
                f"passage {shown(passage.id)} is not in {self._source}, so there is nothing to "
                "train its adapter on",
                "augment it (python scripts/augment.py corpus.path=FILE) and give all "
                "augmentations as {}",
            )
        instances = encode_all(
            self.ffns.backbone.tokenizer,
            augmentation.lesson(passage).instances(self._formats),
            self._recipe.loss,
            self._recipe.max_tokens,
        )
        if not instances and passage.id not in self.without:
            self.without.add(passage.id)
            log.warning(
                "the augmentation of passage %s gives no instances of %s; it has no adapter",
                shown(passage.id),
                ", ".join(self._formats),
            )
        return instances

    def _path(self, passage: Passage, instances: Sequence[Encoded]) -> Path:
        backbone = self.ffns.backbone
        decides = {
            "passage": passage_sha256(passage).hex(),
            "instances": [[instance.ids, instance.first_label] for instance in instances],
            "layers": self.ffns.layers,
            "adapter": self._spec.as_dict(),
            "recipe": self._recipe.as_dict(),
            "backbone": [backbone.fingerprint, str(backbone.dtype)],
        }
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return self._folder / key[:2] / f"{key}.safetensors"


_SHA256 = "sha256"  # of the tensors, in the file's metadata: safetensors has no checksum itself


class DamagedAdapterError(ValueError):
    """A file that is no longer what was written."""


def write_adapter(path: Path, adapter: Mapping[str, Tensor]) -> None:
    """Write an adapter; a reader sees all of it or nothing.

    Args:
        path: The file; its folder is made when missing.
        adapter: Tensors on the CPU.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in adapter.items()}
    replace_file(path, save(whole, {_SHA256: _digest(whole)}), sync=True)


def read_adapter(path: Path) -> Expert:
    """Read what `write_adapter` wrote.

    Raises:
        FileNotFoundError: If there is none.
        DamagedAdapterError: If it is something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            adapter = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get(_SHA256)
    except SafetensorError as error:
        raise DamagedAdapterError(f"{path} is damaged ({error})") from error
    if _digest(adapter) != expected:
        raise DamagedAdapterError(
            f"{path} is damaged (its tensors are not those that were written)"
        )
    return adapter


def _digest(adapter: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(adapter):
        tensor = adapter[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
