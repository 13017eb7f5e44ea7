"""Typed settings of meta-training, so that a value of a wrong type is named before any loading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plumbing.mounts import SettingValueError
from plumbing.settings import check_positive, check_types


@dataclass(frozen=True)
class BatchingSettings:
    """``batching``: the arguments of `genpoe.training.datamodule.QADataModule`.

    Raises:
        ValueError: If a setting has another type or is out of range.
    """

    passages_per_batch: int = 16
    questions_per_passage: int = 6
    max_passage_tokens: int = 512
    max_prompt_tokens: int = 256
    rag_fraction: float = 0.0
    gold_passages: int = 1
    negatives_path: str | None = None
    negatives: int = 1
    train_split: str = "train"
    val_split: str | None = None
    train_limit: int | None = None
    val_limit: int | None = None
    drop_overlap: bool = False
    num_workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "passages_per_batch", "questions_per_passage", "gold_passages")
        check_positive(self, "max_passage_tokens", "max_prompt_tokens", "negatives")
        for name in ("train_limit", "val_limit"):
            if (limit := getattr(self, name)) is not None and limit < 1:
                raise SettingValueError(
                    name, f"{name} must be positive, got {limit}", "set {}, or null for all"
                )
        if not 0 <= self.rag_fraction <= 1:
            raise SettingValueError(
                "rag_fraction", f"rag_fraction must be in 0..1, got {self.rag_fraction}"
            )


@dataclass(frozen=True)
class OptimSettings:
    """``optim``: AdamW, with a cosine over the whole training (GenPoE sec. 4.1).

    Attributes:
        lr: Learning rate at the start of the cosine (sec. 4.1: 1e-4).
        lr_min: Learning rate at the end of the cosine (sec. 4.1: 1e-6).
        warmup_steps: Steps at the beginning in which the rate rises linearly (the paper names
            none).
        common_lr_scale: Factor on the learning rate of the expert that is common to all passages.
            Each of its elements is one parameter, while an element that depends on the passage is a
            sum over the hidden width, and Adam moves every parameter by about the same step.
        weight_decay: AdamW's weight decay.
        betas: AdamW's decay rates of its two running means.

    Raises:
        ValueError: If a setting has another type, or if the learning rates are out of order.
    """

    lr: float = 1e-4
    lr_min: float = 1e-6
    warmup_steps: int = 0
    common_lr_scale: float = 1.0
    weight_decay: float = 0.01
    betas: Sequence[float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.lr_min <= self.lr or self.lr == 0:
            raise SettingValueError(
                "lr", f"need 0 <= lr_min <= lr and lr > 0, got lr_min={self.lr_min}, lr={self.lr}"
            )
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))


@dataclass(frozen=True)
class DistillationSettings:
    """``distillation``: a teacher that has the passage in its prompt.

    Attributes:
        weight: The weight of the divergence from the teacher, beside the answer nll; 0: there is no
            teacher.
        top_k: How many of the teacher's tokens are kept at each position.

    Raises:
        ValueError: If a setting has another type or is out of range.
    """

    weight: float = 0.0
    top_k: int = 32

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "top_k")
        if self.weight < 0:
            raise SettingValueError("weight", f"weight must not be negative, got {self.weight}")


NO_TEACHER = DistillationSettings()
