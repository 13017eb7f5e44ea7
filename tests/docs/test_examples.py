"""The examples of docs/extending.md do what the page says."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate

from genpoe.hypernet import PassageTokens
from plumbing.storage.jsonl import DataError
from qa.data.dataset import Question
from qa.method import Prediction, QuestionInput
from qa.passages.source import Selection
from qa.tables.tables import SCORES, results_table
from retrieval.passage import Passage
from tests.helpers.documented import DOCS, ROOT
from tests.helpers.tiny_encoders import make_corpus

EXAMPLES = DOCS / "examples"
BLICK = Passage("1", "Tova Blick", "Tova Blick was born in Lisbon.")
MARSK = Passage("2", "Olen Marsk", "Olen Marsk wrote The Salt Road.")


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def example(name: str) -> ModuleType:
    return importlib.import_module(name)


def composed(root: str, *overrides: str) -> Any:
    search = f"hydra.searchpath=[file://{EXAMPLES}/conf]"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(root, [search, "paths.output_dir=out", *overrides])


def asked(passage: Passage) -> QuestionInput:
    question = Question("q", "Where was Tova Blick born?", ("Lisbon",), (passage.id,))
    return QuestionInput(question, Selection.uniform([passage]))


def test_a_method_uses_its_passage_and_leaves_the_model_as_it_was(tiny_backbone: Any) -> None:
    config = composed("evaluate", "method=copying", "method.strength=3", "max_new_tokens=4")
    method = instantiate(config.method, backbone=tiny_backbone)
    ids = torch.tensor([[1, 5, 9]])
    before = tiny_backbone.model(ids).logits
    with method.injected([asked(BLICK)]):
        assert not torch.equal(tiny_backbone.model(ids).logits, before)
    assert torch.equal(tiny_backbone.model(ids).logits, before)
    own, other = method.answer([asked(BLICK), asked(MARSK)])
    assert own.nll < other.nll
    words = [Prediction(text, 1.0) for text in ("the city of Lisbon", "Lisbon", "")]
    assert method.measure(words) == {"answer_words": pytest.approx(5 / 3)}


def test_a_row_of_a_batch_has_its_own_passage(tiny_backbone: Any) -> None:
    method = example("copying").CopyingMethod(tiny_backbone, max_new_tokens=4)
    inputs = [asked(BLICK), asked(MARSK)]
    alone = [method.answer([one])[0] for one in inputs]
    for one, together in zip(alone, method.answer(inputs), strict=True):
        assert one.text == together.text
        assert one.nll == pytest.approx(together.nll, abs=1e-4)


def test_a_data_set_comes_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("split,question,answer,title,text\ndev,Where?,Lisbon,Tova,Born in Lisbon.\n")
    dataset = instantiate(composed("evaluate", "data=csv", f"data.path={path}").data)
    [question] = dataset.split("dev")
    assert question.answers == ("Lisbon",)
    assert dataset.gold(question) == [Passage("csv-0", "Tova", "Born in Lisbon.")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("split,question,answer,title\n", "expected the column 'text'"),
        ("split,question,answer,title,text\ndev,,a,t,x\n", r"table.csv:2: expected a question"),
    ],
)
def test_a_faulty_table_is_named(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(table)
    with pytest.raises(DataError, match=message):
        example("csv_data").load_csv(path)


def test_a_backbone_is_three_lines() -> None:
    path = EXAMPLES / "conf/backbone/my_model.yaml"
    assert len(path.read_text().splitlines()) == 3
    config = composed("evaluate", "backbone=my_model")
    assert config.backbone.name == "DIR"
    assert config.backbone.dtype == "bfloat16"
    assert "_target_" in config.backbone


def test_a_hypernetwork_makes_an_expert_of_each_passage(tiny_backbone: Any) -> None:
    given = ["hypernet=shared", "hypernet.layer=1", "hypernet.rank=3"]
    settings = instantiate(composed("train_hypernet", *given).hypernet)
    hypernet = settings.build(tiny_backbone)
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    passages = PassageTokens(ids, torch.tensor([[1, 1, 1], [1, 1, 0]]))
    experts = hypernet(passages)
    assert (experts.num_sets, experts.num_experts, experts.rank) == (2, 1, 3)
    assert not torch.equal(experts.down2[0], experts.down2[1])
    alone = hypernet(PassageTokens(ids[1:, :2], torch.ones(1, 2)))  # padding changes nothing
    torch.testing.assert_close(alone.down2[0], experts.down2[1])
    assert not [name for name in hypernet.state_dict() if "embed" in name]
    with pytest.raises(ValueError, match="rank must be positive, got 0"):
        example("shared").SharedSettings(layer=1, rank=0)


def test_a_retriever_finds_titles_and_has_a_setting(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, [MARSK, BLICK])
    loose, strict = (
        instantiate(composed("build_index", "retriever=titles", given).retriever).open(corpus)
        for given in ("retriever.min_overlap=0.5", "retriever.min_overlap=1")
    )
    assert [hit.passage_id for hit in loose.search(["Where was Tova born?"], 5)[0]] == ["1"]
    assert strict.search(["Where was Tova born?", ""], 5) == [[], []]
    assert loose.fingerprint != strict.fingerprint
    with pytest.raises(ValueError, match=r"must be in 0\.\.1, got 2\.0; set min_overlap"):
        example("titles").TitleSettings(2.0)
    with pytest.raises(ValueError, match="min_overlap must be a number, got 'much'"):
        example("titles").TitleSettings("much")
    with pytest.raises(ConfigCompositionException):
        composed("build_index", "retriever=titles", "retriever.min_overlaps=1")


def test_an_encoder_serves_a_dense_index(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, [MARSK, BLICK])
    given = ["retriever=hashing", f"retriever.index_dir={tmp_path / 'index'}"]
    settings = instantiate(composed("build_index", *given).retriever)
    assert settings.build(corpus)["bytes"] > 0
    [hits] = settings.open(corpus).search(["Where was Tova Blick born?"], 2)
    assert hits[0].passage_id == "1"
    encoder = settings.encoder.load()
    vectors = encoder.encode_passages([BLICK, Passage("3", "", "")])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0], rtol=1e-6)


def test_an_entry_is_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa.tables.tables.SCORES", dict(SCORES))
    exec((EXAMPLES / "column.py").read_text(), {})
    table = results_table({"base/em": 1.0, "base/answer_words": 2.5})
    assert "Words" in table
    assert "2.5" in table


def test_the_page_includes_every_example() -> None:
    page = (DOCS / "extending.md").read_text("utf-8")
    files = [path for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".yaml")]
    assert files
    for path in files:
        assert f'--8<-- "{path.relative_to(DOCS).as_posix()}"' in page
