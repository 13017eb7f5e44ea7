"""How many tokens encoders of each family can read: what is advised works, and no more does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plumbing.mounts import SettingValueError
from retrieval.dense.index import DenseSettings
from retrieval.encoders import encoder_settings
from retrieval.encoders.positions import folder_positions
from retrieval.passage import Passage
from tests.helpers.tiny_encoders import (
    SIZES,
    make_corpus,
    make_dpr_folder,
    make_passages,
    make_sentence_folder,
)

LONG = Passage("long", "lisbon", "porto rome temple sea " * 40)
# The family, settings of its configuration, the id of its padding token, and the room.
FAMILIES = {
    "bert": ({}, 0, 66),
    "xlm-roberta": ({"pad_token_id": 3}, 3, 62),
    "camembert": ({"pad_token_id": 1}, 1, 64),
    "mpnet": ({"pad_token_id": 1}, 1, 64),
    "electra": ({}, 0, 66),
    "modernbert": ({"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}, 0, 66),  # rotary
}


def settings_of(folder: Path, family: str, **limits: Any) -> Any:
    from transformers import AutoConfig

    changes, pad, _ = FAMILIES[family]
    config = AutoConfig.for_model(family, **{**SIZES, "max_position_embeddings": 66, **changes})
    model = make_sentence_folder(folder, config=config, pad=pad)
    return encoder_settings(passage_model=str(model), dtype="float32", device="cpu", **limits)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_advised_limit_is_the_largest_that_works(tmp_path: Path, family: str) -> None:
    room = FAMILIES[family][2]
    settings = settings_of(tmp_path / "model", family, max_passage_tokens=room + 1)
    advice = f"max_passage_tokens must be at most {room}, the positions .* got {room + 1}"
    with pytest.raises(SettingValueError, match=advice):
        settings.check_limits()
    with pytest.raises(SettingValueError, match=advice):
        settings.load().encode_passages([LONG])
    settings = settings_of(tmp_path / "again", family, max_passage_tokens=room)
    with pytest.raises(SettingValueError, match=f"max_question_tokens must be at most {room}, the"):
        settings.check_limits()  # by default 128
    assert settings.load().encode_passages([LONG, LONG]).shape == (2, 32)


@pytest.mark.parametrize("limit", ["max_passage_tokens", "max_question_tokens"])
def test_limits_are_checked_when_an_index_is_built_or_opened(tmp_path: Path, limit: str) -> None:
    limits = {"max_passage_tokens": 20, "max_question_tokens": 20, limit: 63}
    encoder = settings_of(tmp_path / "model", "xlm-roberta", **limits)
    index = DenseSettings(tmp_path / "index", encoder)
    corpus = make_corpus(tmp_path, make_passages(3))  # none of them is long
    for use in (index.build, index.open):
        with pytest.raises(SettingValueError, match=f"{limit} must be at most 62") as error:
            use(corpus)
        assert str(error.value).endswith(f"set encoder.{limit}")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("kind", ["sentence", "dpr"])
def test_a_limit_without_room_for_a_text_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "dpr":
        models = {
            "passage_model": str(make_dpr_folder(tmp_path / "context", "context")),
            "question_model": str(make_dpr_folder(tmp_path / "question", "question")),
        }
    else:
        models = {"passage_model": str(make_sentence_folder(tmp_path / "model"))}
    added = {"sentence": 2, "dpr": 3}[kind]  # DPR puts a token between title and text
    for limit in (1, 2):
        limits = {"max_passage_tokens": limit, "max_question_tokens": limit}
        encoder = encoder_settings(kind, device="cpu", **models, **limits).load()
        with pytest.raises(
            SettingValueError, match="max_question_tokens must be at least 3, since"
        ):
            encoder.encode_questions(["lisbon"])
        with pytest.raises(
            SettingValueError, match=f"max_passage_tokens must be at least {added + 1}"
        ):
            encoder.encode_passages([LONG])


def test_where_there_is_no_transformer_nothing_is_limited(tmp_path: Path) -> None:
    assert folder_positions(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    assert folder_positions(tmp_path) is None
    (tmp_path / "modules.json").write_text("[]")
    assert folder_positions(tmp_path) is None
