"""The adapters of passages: each is trained when it is first needed, and kept on disk.

Only the passages that questions retrieve ever get one. A table of a few hundred questions needs no
more, and an adapter for every passage of a corpus would take megabytes each. An adapter is one
safetensors file that is written whole and says when it is damaged (`plumbing.storage.tensors`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.baselines.prag.training import train_adapter
from dmoe.experts.expert import Expert, ExpertSpec
from dmoe.experts.recipe import Recipe
from dmoe.training.instances import Encoded, encode_all
from dmoe.training.lessons import check_formats, read_augmentations
from plumbing.mounts import SettingValueError, mounted
from plumbing.stopwatch import Stopwatch
from plumbing.storage.hashing import digest
from plumbing.storage.tensors import DamagedTensorsError, read_tensors, write_tensors
from qa.bank.errors import shown
from retrieval.passage import Passage, text_digest

log = logging.getLogger(__name__)


class NoAugmentationError(SettingValueError):
    """A passage has no adapter, because it was not augmented and there is nothing to train on."""


class PassageAdapters:
    """One adapter for each passage, on the FFNs of some layers.

    The name of an adapter's file is a hash of everything that decides what the file holds: the
    passage, the tokens of its instances, the layers, the settings, the recipe, and the backbone
    with its dtype. So an adapter that was made in another way is never used. The passage's id is
    not part of the path, because it may be any text.

    Args:
        ffns: The FFNs of the frozen backbone, in the layers that have adapters.
        augmentation: JSON lines that ``scripts/augment.py`` wrote, in the form that
            `dmoe.training.lessons.lessons_from_augmentation` describes.
        formats: The formats of the instances, as in `dmoe.training.lessons.Lesson.instances`.
        spec: The adapters' rank, alpha and projections.
        recipe: The training's settings.
        cache_dir: The folder of the adapters. It is made if it is missing.

    Attributes:
        ffns: The FFNs that have adapters.
        trained: How many adapters were trained.
        read: How often an adapter was read from disk.
        without: The ids of passages whose augmentations give no instances. They have no adapters.
        seconds: How many seconds training took.

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
        with mounted("recipe"):
            recipe.check_loud("adapters on all layers")
        self.ffns, self._formats, self._spec, self._recipe = ffns, list(formats), spec, recipe
        self.untrained()  # raises an error if an FFN lacks a target
        self._identity = ffns.backbone.identity
        self._source, self._folder = augmentation, Path(cache_dir).expanduser()
        self._augmentations = {one.passage_id: one for _, one in read_augmentations(augmentation)}
        self.trained, self.read, self.seconds = 0, 0, 0.0
        self.without: set[str] = set()

    @property
    def scaling(self) -> float:
        """LoRA's factor ``alpha / rank``."""
        return self._spec.scaling

    def untrained(self) -> Expert:
        """An adapter whose output is zero."""
        return self.ffns.initial(self._spec, self._recipe.seed)

    def load(self, passages: Sequence[Passage]) -> dict[str, Expert]:
        """Load the adapters of some passages; those that are not there yet are trained.

        A passage without instances is left out with a warning. A damaged file is replaced with a
        warning.

        Returns:
            The adapters, by passage id.

        Raises:
            NoAugmentationError: If a passage was not augmented; the message names it.
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
        """The file of an adapter; it is the one that version 0.1 wrote if only that is there."""
        dtype, identity = str(self.ffns.backbone.dtype), self._identity
        decides = {
            "passage": text_digest(passage).hex(),
            "instances": [[instance.ids, instance.first_label] for instance in instances],
            "layers": self.ffns.layers,
            "adapter": self._spec.as_dict(),
            "recipe": self._recipe.as_dict(),
        }
        new, old = (
            digest({**decides, "backbone": [fingerprint, dtype]})
            for fingerprint in (identity.fingerprint, identity.weights.legacy)
        )
        paths = [self._folder / key[:2] / f"{key}.safetensors" for key in (new, old)]
        return next((path for path in paths if path.is_file()), paths[0])
