"""An error of the library names a setting, and a command says where the setting is mounted."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from plumbing.cli import one_line, run
from plumbing.mounts import SettingValueError, locate, mounted, settable_key
from plumbing.settings import check_positive, check_types
from qa.commands.evaluate import evaluate_run
from qa.data.dataset import QADataset
from retrieval.bm25 import BM25Settings
from retrieval.commands.build_index import build_index_command

CONF = Path(__file__).parents[2] / "conf"
HERE = "tests.plumbing.test_mounts"


@dataclass(frozen=True)
class Part:
    """Settings with one number."""

    size: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "size")

    def use(self) -> None:
        """Find a fault that shows only now."""
        raise SettingValueError("size", f"size does not fit, got {self.size}", "set another {}")


class Whole:
    """Holds a part, and uses it as soon as it is made."""

    def __init__(self, part: Part) -> None:
        with mounted("part"):
            part.use()


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


def said(command: Any, config: DictConfig, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command writes to stderr before it ends with code 2."""
    with pytest.raises(SystemExit) as error:
        run(command, config)
    assert error.value.code == 2
    return capsys.readouterr().err.strip()


def test_in_a_notebook_the_setting_has_its_own_name() -> None:
    with pytest.raises(SettingValueError, match=r"^threads must be positive, got 0; set threads$"):
        BM25Settings("index", threads=0)


@pytest.mark.parametrize("value", ["0", "many"])
def test_one_class_at_two_places_has_two_keys(
    value: str, people: QADataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = f"paths.output_dir={tmp_path}"
    built = composed(
        "build_index",
        *("retriever=bm25", "retriever.index_dir=DIR", "corpus.path=FILE", run_folder),
        f"retriever.threads={value}",
    )
    assert said(build_index_command, built, capsys).endswith("; set retriever.threads")
    routed = composed(
        "evaluate",
        *("method=dmoe", "bank.dir=DIR", "router.retriever.index_dir=DIR", run_folder),
        *("router.corpus.path=FILE", f"router.retriever.threads={value}"),
    )

    def evaluate(config: DictConfig) -> Any:
        backbone: Any = object()
        return evaluate_run(config, people, backbone)

    assert said(evaluate, routed, capsys).endswith("; set router.retriever.threads")


def test_a_reference_is_followed_to_the_key_that_can_be_set(
    people: QADataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``method.trigger.threshold`` is no key of the command line, nor is ``method.seed``."""

    def evaluate(config: DictConfig) -> Any:
        backbone: Any = object()
        return evaluate_run(config, people, backbone)

    given = ["method=dmoe", "bank.dir=DIR", "router=random", f"paths.output_dir={tmp_path}"]
    config = composed("evaluate", *given, "trigger.threshold=-1")
    message = "; set trigger.threshold (nats), or choose trigger=always"
    assert said(evaluate, config, capsys).endswith(message)
    config = composed("evaluate", *given, "method.fraction=half")
    assert said(evaluate, config, capsys).endswith("; set method.fraction")


def test_what_shows_only_when_a_part_is_used_has_its_key_too() -> None:
    part = {"_target_": f"{HERE}.Part", "size": 3}
    whole = {"_target_": f"{HERE}.Whole", "part": "${shared}"}
    config = OmegaConf.create({"shared": part, "section": {"whole": whole}})
    with pytest.raises(InstantiationException) as error:
        instantiate(config.section.whole)
    assert one_line(error.value) == "size does not fit, got 3; set another section.whole.part.size"
    raw = OmegaConf.to_container(config, resolve=False)
    for _ in range(2):  # nothing is added twice
        locate(error.value, raw)
        assert one_line(error.value) == "size does not fit, got 3; set another shared.size"


def test_sections_add_up() -> None:
    with (
        pytest.raises(SettingValueError, match=r"; set retriever\.encoder\.size$"),
        mounted("retriever"),
        mounted(""),
        mounted("encoder"),
    ):
        Part(0)


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError, match="size"), mounted("section"):
        raise KeyError("size")


@pytest.mark.parametrize(
    ("key", "settable"),
    [
        ("a.b", "a.b"),
        ("method.router.seed", "seed"),
        ("method.router.retriever.k1", "router.retriever.k1"),
        ("method.engine", "engine"),
        ("method.other", "method.other"),
        ("method.text.x", "method.text.x"),
        ("method.loop", "method.loop"),
        ("not.there", "not.there"),
    ],
)
def test_settable_keys(key: str, settable: str) -> None:
    config = {
        "seed": 0,
        "engine": "plain",
        "router": {"seed": "${seed}", "retriever": {"k1": 1}},
        "method": {
            "router": "${router}",
            "engine": "${oc.select:engine,plain}",
            "other": "${oc.select:nothing,1}",
            "text": "in ${seed}",
            "loop": "${method.loop}",
        },
    }
    assert settable_key(config, key) == settable


def test_an_error_survives_the_way_from_another_process() -> None:
    error = SettingValueError("size", "size must be {}, got 0", "set {}, or {}")
    error.mount("part")
    copy = ForkingPickler.loads(ForkingPickler.dumps(error))
    assert str(copy) == str(error) == "size must be {}, got 0; set part.size, or part.size"
