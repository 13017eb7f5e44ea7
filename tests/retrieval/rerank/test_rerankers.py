"""Rerankers, compared with transformers (one pair at a time) and with FlagEmbedding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from plumbing.devices import pick_device, pick_dtype
from plumbing.mounts import SettingValueError
from plumbing.storage.manifest import MANIFEST, FolderError, write_manifest
from retrieval.passage import Passage, passage_text
from retrieval.rerank.cross_encoder import TokenizedPair
from retrieval.rerank.decoder import PROMPT, DecoderCrossEncoder
from retrieval.rerank.encoder import EncoderCrossEncoder, token_interaction
from retrieval.rerank.folder import load_cross_encoder, save_cross_encoder
from retrieval.rerank.pretrained import RerankerError, decoder, encoder
from retrieval.rerank.rerankers import FlagEmbeddingReranker, TrainedReranker, no_reranker
from tests.helpers.tiny import make_tokenizer
from tests.helpers.tiny_rerankers import (
    PAIRS,
    make_decoder_folder,
    make_encoder_folder,
    make_gpt2_folder,
)

pytestmark = [
    # FlagEmbedding imports types made by SWIG, and uses names that transformers has renamed.
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated"),
    # PEFT uses another such name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

CONF = Path(__file__).parents[3] / "conf"
UNK = make_tokenizer().unk_token_id  # which pads in the tiny XLM-R
TEXTS = [(question, passage_text(passage)) for question, passage in PAIRS]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder_folder(tmp_path_factory.mktemp("gemma"))


@pytest.fixture(scope="module")
def saved(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a reranker, as training leaves it."""
    folder = tmp_path_factory.mktemp("run") / "reranker"
    model = encoder(str(bert), max_tokens=128, interaction=2.0)
    save_cross_encoder(model, folder, {"data": "tiny"})
    return folder


def adapted(gemma: Path, **options: Any) -> DecoderCrossEncoder:
    """A decoder whose adapters are not zero."""
    model = decoder(str(gemma), max_tokens=128, dtype="float32", lora_rank=2, **options)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return model.eval()


def score(model: Any, texts: list[tuple[str, str]]) -> list[float]:
    with torch.no_grad():
        scores: list[float] = model(model.tokenize(texts)).tolist()
    return scores


def test_an_encoder_scores_as_transformers_does_one_pair_at_a_time(bert: Path) -> None:
    model = encoder(str(bert), max_tokens=128).eval()
    for text, found in zip(TEXTS[:2] + TEXTS[3:], score(model, TEXTS[:2] + TEXTS[3:]), strict=True):
        inputs = model.tokenizer(
            *text, truncation="only_second", max_length=128, return_tensors="pt"
        )
        with torch.no_grad():
            assert found == pytest.approx(model.model(**inputs).logits.item(), abs=1e-5)


def test_a_decoder_scores_by_the_yes_logit_one_pair_at_a_time(gemma: Path) -> None:
    model = decoder(str(gemma), max_tokens=400, dtype="float32", lora_rank=2).eval()
    tokenizer = model.tokenizer

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    for (question, passage), found in zip(TEXTS[3:], score(model, TEXTS[3:]), strict=True):
        whole = [tokenizer.bos_token_id, *ids(f"A: {question}"), *ids("\n")]
        whole += [*ids(f"B: {passage}"), *ids("\n"), *ids(PROMPT)]
        with torch.no_grad():
            logits = model.model(torch.tensor([whole])).logits[0, -1]
        assert found == pytest.approx(logits[ids("Yes")[0]].item(), abs=1e-5)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_flagembedding_gives_the_scores_of_our_encoder(tmp_path: Path, family: str) -> None:
    folder = make_encoder_folder(tmp_path / family, family)
    theirs = FlagEmbeddingReranker(str(folder), "encoder", "cpu", "float32", 128, batch_size=2)
    ours = score(encoder(str(folder), max_tokens=128).eval(), TEXTS)
    assert theirs.score(PAIRS) == pytest.approx(ours, abs=1e-4)
    assert np.std(ours) > 0.05
    assert theirs.score([]) == []


def test_flagembedding_gives_the_scores_of_our_decoder(gemma: Path) -> None:
    theirs = FlagEmbeddingReranker(str(gemma), "decoder", "cpu", "float32", 128, batch_size=2)
    ours = score(decoder(str(gemma), max_tokens=128, dtype="float32", lora_rank=2).eval(), TEXTS)
    found = theirs.score(PAIRS)
    assert found == pytest.approx(ours, abs=1e-4)
    assert max(found) > 1 or min(found) < 0  # raw scores, not sigmoids
    assert np.std(ours) > 0.05


def test_flagembedding_is_called_for_raw_scores(gemma: Path, monkeypatch: Any) -> None:
    import FlagEmbedding

    calls: list[tuple[Any, dict[str, Any]]] = []

    class Spy:
        def __init__(self, name: str, **options: Any) -> None:
            calls.append((name, options))
            model = decoder(str(gemma), dtype="float32")
            self.model, self.tokenizer = model.model, model.tokenizer

        def compute_score(self, pairs: list[tuple[str, str]]) -> list[np.float32]:
            calls.append((pairs, {}))
            return [np.float32(1.5)] * len(pairs)

    monkeypatch.setattr(FlagEmbedding, "FlagLLMReranker", Spy)
    monkeypatch.setattr(FlagEmbedding, "FlagReranker", Spy)
    common = {"max_length": 64, "batch_size": 3, "normalize": False, "devices": "cpu"}
    reranker = FlagEmbeddingReranker(str(gemma), "decoder", "cpu", "bfloat16", 64, 3)
    assert calls.pop() == (str(gemma), {"use_bf16": True, **common})
    scores = reranker.score(PAIRS[:1])
    assert scores == [1.5]
    assert type(scores[0]) is float
    assert calls.pop()[0] == [(PAIRS[0][0], f"{PAIRS[0][1].title}\n{PAIRS[0][1].text}")]
    FlagEmbeddingReranker(str(gemma), "encoder", "cpu", "float32", 64, 3)
    assert calls.pop() == (str(gemma), {"use_fp16": False, **common})


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_only_the_passage_is_cut(bert: Path, gemma: Path, kind: str) -> None:
    model: Any = encoder(str(bert), 64) if kind == "encoder" else adapted(gemma)
    (pair,) = model.tokenize([(TEXTS[0][0], "passage " * 500)])
    read = model.tokenizer.decode(pair.input_ids[slice(*pair.question)]).lower()
    assert read.replace(" ", "").endswith(TEXTS[0][0].lower().replace(" ", ""))
    (long,) = model.tokenize([("question " * 500, "passage " * 500)])
    for found in (pair, long):
        first, last = found.passage
        assert 0 < last - first < 500
        if kind == "encoder":
            assert len(found) == 64
    assert long.question[1] - long.question[0] == model.max_tokens * 3 // 4


def test_a_tokenized_pair_is_the_tokenizers_own(bert: Path) -> None:
    model = encoder(str(bert), max_tokens=64)
    for text in TEXTS[:2]:
        (pair,) = model.tokenize([text])
        theirs = model.tokenizer(*text, truncation="only_second", max_length=64)
        assert pair.input_ids == theirs["input_ids"]
        assert theirs["token_type_ids"].index(1) == pair.passage[0]


@pytest.mark.parametrize("kind", ["encoder", "interaction", "decoder"])
def test_neither_order_nor_company_nor_padding_changes_a_score(
    bert: Path, gemma: Path, kind: str
) -> None:
    model: Any = adapted(gemma)
    if kind != "decoder":
        model = encoder(str(bert), 128, interaction=5.0 * (kind == "interaction")).eval()
    expected = [score(model, [text])[0] for text in TEXTS]

    @settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.integers(0, len(TEXTS) - 1), max_size=8), st.integers(1, 2000))
    def check(chosen: list[int], tokens_at_once: int) -> None:
        model.tokens_at_once = tokens_at_once
        found = score(model, [TEXTS[i] for i in chosen])
        assert found == pytest.approx([expected[i] for i in chosen], abs=1e-5)

    check()


def test_parts_hold_no_more_tokens_than_allowed(bert: Path, monkeypatch: Any) -> None:
    model = encoder(str(bert), max_tokens=128, tokens_at_once=256)
    sizes: list[int] = []

    def run(pairs: list[TokenizedPair]) -> torch.Tensor:
        sizes.append(len(pairs) * max(map(len, pairs)))
        return torch.tensor([float(len(pair)) for pair in pairs])

    monkeypatch.setattr(model, "run", run)
    pairs = model.tokenize(TEXTS * 4)
    assert model(pairs).tolist() == [len(pair) for pair in pairs]
    assert max(sizes) <= 256
    assert len(sizes) < len(pairs)


def test_what_is_saved_is_loaded(bert: Path, saved: Path) -> None:
    reranker = TrainedReranker(saved, "cpu", "float32")
    assert reranker.score(PAIRS) == pytest.approx(
        score(encoder(str(bert), max_tokens=128, interaction=2.0).eval(), TEXTS), abs=1e-5
    )
    assert reranker.score([]) == []
    assert not list(saved.parent.glob(".*"))
    names = {file.name for file in saved.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", MANIFEST} <= names
    manifest = json.loads((saved / MANIFEST).read_text())
    assert manifest["settings"]["training"] == {"data": "tiny"}
    assert set(manifest["files"]) == names - {MANIFEST}


def test_an_adapter_is_saved_alone_and_loaded_beside_its_base(gemma: Path, tmp_path: Path) -> None:
    model = adapted(gemma)
    save_cross_encoder(model, tmp_path / "reranker")
    names = {file.name for file in (tmp_path / "reranker").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", MANIFEST} <= names
    assert not names & {"model.safetensors", "tokenizer.json"}
    found = TrainedReranker(tmp_path / "reranker", "cpu", "float32").score(PAIRS)
    assert found == pytest.approx(score(model, TEXTS), abs=1e-5)
    plain = decoder(str(gemma), max_tokens=128, dtype="float32", lora_rank=2).eval()
    assert found != pytest.approx(score(plain, TEXTS), abs=1e-2)


def test_an_adapter_beside_another_base_is_refused(tmp_path: Path) -> None:
    base = make_decoder_folder(tmp_path / "base")
    save_cross_encoder(adapted(base), tmp_path / "reranker")
    make_decoder_folder(base, seed=1)
    with pytest.raises(RerankerError, match=r"trained beside .*base of fingerprint"):
        TrainedReranker(tmp_path / "reranker", "cpu", "float32")


def test_saving_again_replaces_the_folder(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reranker"
    for max_tokens in (32, 64):
        save_cross_encoder(encoder(str(bert), max_tokens), folder)
    assert load_cross_encoder(folder)[0].max_tokens == 64
    assert [file.name for file in tmp_path.iterdir()] == ["reranker"]


def test_fingerprints_tell_weights_and_settings_apart(
    bert: Path, gemma: Path, saved: Path, tmp_path: Path
) -> None:
    save_cross_encoder(encoder(str(bert), max_tokens=64), tmp_path / "shorter")
    other = make_encoder_folder(tmp_path / "other", seed=1)
    save_cross_encoder(encoder(str(other), max_tokens=128), tmp_path / "heavier")
    prints = [
        TrainedReranker(saved, "cpu", "float32").fingerprint,
        TrainedReranker(saved, "cpu", "bfloat16").fingerprint,
        TrainedReranker(tmp_path / "shorter", "cpu", "float32").fingerprint,
        TrainedReranker(tmp_path / "heavier", "cpu", "float32").fingerprint,
        FlagEmbeddingReranker(str(bert), "encoder", "cpu", "float32", 128).fingerprint,
        FlagEmbeddingReranker(str(other), "encoder", "cpu", "float32", 128).fingerprint,
        FlagEmbeddingReranker(str(bert), "encoder", "cpu", "float32", 64).fingerprint,
        FlagEmbeddingReranker(str(gemma), "decoder", "cpu", "float32").fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    again = TrainedReranker(saved, "cpu", "float32", tokens_at_once=100, attention="eager")
    assert again.fingerprint == prints[0]


def test_every_flipped_byte_is_found(saved: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in sorted(file.name for file in saved.iterdir()):
        folder = tmp_path / name
        folder.mkdir()
        for file in saved.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        whole = (folder / name).read_bytes()
        for place in random.integers(0, len(whole), 5):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(random.integers(8))
            (folder / name).write_bytes(damaged)
            with pytest.raises(FolderError, match=name.replace(".", r"\.")):
                load_cross_encoder(folder)


def test_folders_that_hold_no_reranker_are_named(tmp_path: Path) -> None:
    with pytest.raises(RerankerError, match=r"nowhere: expected a reranker, found no such folder"):
        TrainedReranker(tmp_path / "nowhere")
    with pytest.raises(RerankerError, match=r"found no manifest\.json; give the folder that"):
        TrainedReranker(tmp_path)
    write_manifest(tmp_path, {"kind": "index"}, [])
    with pytest.raises(RerankerError, match="kind encoder or decoder, got 'index'"):
        TrainedReranker(tmp_path)


def test_wrong_settings_are_named(bert: Path, gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_tokens must be at least 16, got 3"):
        encoder(str(bert), max_tokens=3)
    with pytest.raises(ValueError, match="tokens_at_once must be positive, got 0"):
        encoder(str(bert), tokens_at_once=0)
    with pytest.raises(ValueError, match=r"interaction must be 0 or positive, got -1"):
        encoder(str(bert), interaction=-1)
    with pytest.raises(ValueError, match=r"dropout must be in 0 … 1, got 1\.0"):
        encoder(str(bert), dropout=1.0)
    with pytest.raises(ValueError, match="kind must be decoder or encoder, got 'bert'"):
        FlagEmbeddingReranker(str(bert), "bert")
    with pytest.raises(ValueError, match="batch_size must be positive"):
        FlagEmbeddingReranker(str(bert), "encoder", batch_size=0)
    with pytest.raises(ValueError, match="device must be auto, cpu"):
        pick_device("gpu0")
    with pytest.raises(ValueError, match="dtype must be auto or one of float32"):
        pick_dtype("int8", torch.device("cpu"))
    model = encoder(str(bert))
    model.model.config.num_labels = 2
    with pytest.raises(ValueError, match="a reranker has one output, this model has 2"):
        EncoderCrossEncoder(model.model, model.tokenizer)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a model"):
        encoder(str(tmp_path))


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_new_head_begins_as_zero_and_learns(tmp_path: Path, family: str) -> None:
    from transformers import AutoModel

    whole = make_encoder_folder(tmp_path / "whole", family)
    AutoModel.from_pretrained(whole).save_pretrained(tmp_path / "body")
    encoder(str(whole)).tokenizer.save_pretrained(tmp_path / "body")
    model = encoder(str(tmp_path / "body"), dropout=0.0)
    assert score(model, TEXTS) == [0] * len(TEXTS)
    assert 0 not in score(encoder(str(whole)).eval(), TEXTS)
    model(model.tokenize(TEXTS))[0].backward()
    learnt = [p.grad for p in model.parameters() if p.grad is not None and p.grad.any()]
    assert any(gradient.shape == (1, 32) for gradient in learnt)


def test_the_interaction_is_the_mean_of_the_best_cosines(bert: Path) -> None:
    alone = encoder(str(bert), max_tokens=64).eval()
    both = encoder(str(bert), max_tokens=64, interaction=3.0).eval()
    for text, base, found in zip(TEXTS, score(alone, TEXTS), score(both, TEXTS), strict=True):
        (pair,) = both.tokenize([text])
        inputs = {"input_ids": torch.tensor([pair.input_ids])}
        inputs["token_type_ids"] = (torch.arange(len(pair)) >= pair.passage[0]).long()[None]
        with torch.no_grad():
            states = both.model.bert(**inputs).last_hidden_state[0]
        cosines = [
            max(
                torch.cosine_similarity(states[i], states[j], 0).item()
                for j in range(*pair.passage)
            )
            for i in range(*pair.question)
        ]
        assert found == pytest.approx(base + 3 * sum(cosines) / len(cosines), abs=1e-4)


def test_the_interaction_of_nothing_is_defined() -> None:
    states = torch.randn(2, 4, 3)
    some = torch.tensor([[True, False, False, False]] * 2)
    none = torch.zeros(2, 4, dtype=torch.bool)
    assert token_interaction(states, none, some).tolist() == [0, 0]
    assert token_interaction(states, some, none).tolist() == [-1, -1]


def test_dropout_is_what_is_asked_for(bert: Path) -> None:
    layers = [m for m in encoder(str(bert), dropout=0.25).modules() if hasattr(m, "p")]
    assert {layer.p for layer in layers} == {0.25}


def test_passages_are_read_with_their_title() -> None:
    assert passage_text(Passage("a", "Title", "Text")) == "Title\nText"
    assert passage_text(Passage("a", "", "Text")) == "Text"


def test_every_reranker_config_names_what_there_is(saved: Path) -> None:
    def composed(*overrides: str) -> Any:
        with initialize_config_dir(str(CONF / "reranker"), version_base="1.3"):
            return compose(overrides[0], list(overrides[1:]))

    assert {path.stem for path in (CONF / "reranker").glob("*.yaml")} == {
        *("none", "minilm", "bge_gemma", "bge_m3")
    }
    assert composed("none")._target_ == f"retrieval.rerank.{no_reranker.__name__}"
    assert instantiate(composed("none")) is None
    reranker = instantiate(composed("minilm", f"path={saved}", "device=cpu", "dtype=float32"))
    assert len(reranker.score(PAIRS)) == len(PAIRS)
    for name, kind in (("bge_gemma", "decoder"), ("bge_m3", "encoder")):
        config = composed(name)
        assert config._target_ == "retrieval.rerank.FlagEmbeddingReranker"
        assert config.kind == kind


@pytest.mark.parametrize(("family", "room"), [("bert", 300), ("xlm-roberta", 300 - UNK - 1)])
def test_an_encoder_that_reads_less_than_max_tokens_is_refused_at_opening(
    tmp_path: Path, family: str, room: int
) -> None:
    folder = str(make_encoder_folder(tmp_path / family, family))
    advice = rf"max_tokens must be at most {room}, the positions that the model has, got "
    with pytest.raises(SettingValueError, match=rf"{advice}512; set max_tokens"):
        FlagEmbeddingReranker(folder, "encoder", "cpu", "float32", 512)
    with pytest.raises(SettingValueError, match=f"{advice}{room + 1}"):
        encoder(folder, max_tokens=room + 1)
    long = [("Where?", Passage("p", "", "fox " * 400))] * 2
    scores = FlagEmbeddingReranker(folder, "encoder", "cpu", "float32", room).score(long)
    ours = score(encoder(folder, max_tokens=room).eval(), [("Where?", "fox " * 400)] * 2)
    assert scores == pytest.approx(ours, abs=1e-4)


@pytest.mark.parametrize("pads", [False, True])
def test_a_decoder_with_learned_positions_is_refused_at_opening(tmp_path: Path, pads: bool) -> None:
    folder = str(make_gpt2_folder(tmp_path / "gpt2", pads))
    with pytest.raises(SettingValueError, match=r"max_tokens must be at most \d+, .*512") as error:
        FlagEmbeddingReranker(folder, "decoder", "cpu", "float32", 512)
    room = int(str(error.value).split("at most ")[1].split(",")[0])
    long = [("Where? " * 300, Passage("p", "", "fox " * 600)), PAIRS[0]]
    reranker = FlagEmbeddingReranker(folder, "decoder", "cpu", "float32", room)
    assert len(reranker.score(long)) == 2


@pytest.mark.parametrize("same", [False, True])
def test_a_decoder_without_a_padding_token_works_by_flagembedding(
    gemma: Path, tmp_path: Path, same: bool
) -> None:
    folder = tmp_path / "gemma"
    shutil.copytree(gemma, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    if same:  # as GPT-2's: one token for everything
        tokenizer.bos_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    ours = decoder(str(folder), max_tokens=128, dtype="float32", lora_rank=2).eval()
    theirs = FlagEmbeddingReranker(str(folder), "decoder", "cpu", "float32", 128, batch_size=2)
    assert theirs.score(PAIRS) == pytest.approx(score(ours, TEXTS), abs=1e-4)
    if not same:
        whole = FlagEmbeddingReranker(str(gemma), "decoder", "cpu", "float32", 128).score(PAIRS)
        assert theirs.score(PAIRS) == pytest.approx(whole, abs=1e-4)
    assert theirs.score([]) == []
