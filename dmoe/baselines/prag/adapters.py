"""The adapters of passages: trained when they are first wanted, and kept on disk.

Only the passages that questions retrieve ever get one. A table of a few hundred questions needs no
more, and an adapter for every passage of a corpus would take megabytes each. An adapter is one
safetensors file that is written whole and says when it is damaged (`plumbing.storage.tensors`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dmoe.bank.errors import shown
from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.baselines.prag.training import train_adapter
from dmoe.experts.expert import Expert, ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import Encoded, encode_all
from dmoe.training.lessons import check_formats, read_augmentations
from plumbing.mounts import SettingValueError
from plumbing.stopwatch import Stopwatch
from plumbing.storage.hashing import digest
from plumbing.storage.tensors import DamagedTensorsError, read_tensors, write_tensors
from retrieval.passage import Passage, text_digest

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
            adapter = read_tensors(path)
        except FileNotFoundError:
            pass
        except DamagedTensorsError as error:
            log.warning("%s; the adapter is trained again", error)
        else:
            self.read += 1
            return adapter
        watch = Stopwatch()
        adapter = train_adapter(self.ffns, instances, self._spec, self._recipe)
        write_tensors(path, adapter)
        self.trained += 1
        self.seconds += watch.seconds
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
            "passage": text_digest(passage).hex(),
            "instances": [[instance.ids, instance.first_label] for instance in instances],
            "layers": self.ffns.layers,
            "adapter": self._spec.as_dict(),
            "recipe": self._recipe.as_dict(),
            "backbone": [backbone.fingerprint, str(backbone.dtype)],
        }
        key = digest(decides)
        return self._folder / key[:2] / f"{key}.safetensors"
