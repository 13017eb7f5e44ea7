"""Encoders against plain transformers, one text at a time, and what decides their fingerprints."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from transformers import AutoModel, AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder

from plumbing.storage.files import write_json
from retrieval.encoders.settings import encoder_settings
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone, save_backbone
from tests.helpers.tiny_encoders import WORDS, make_dpr_folder, make_passages, make_sentence_folder

LONG = " ".join(WORDS * 5)  # 70 tokens
PASSAGES = [*make_passages(12), Passage("long", "castle", LONG)]
QUESTIONS = ["the river?", "market", LONG, "lisbon or porto of the sea?"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    make_sentence_folder(folder / "sentence")
    make_dpr_folder(folder / "question", "question", seed=1)
    make_dpr_folder(folder / "context", "context", seed=2)
    return folder


@pytest.fixture(scope="module")
def sentence(folders):
    return encoder_settings(
        passage_model=str(folders / "sentence"),
        max_passage_tokens=48,
        max_question_tokens=16,
        batch_size=4,
        dtype="float32",
        device="cpu",
    )


@pytest.fixture(scope="module")
def dpr(folders, sentence):
    models = {"passage_model": folders / "context", "question_model": folders / "question"}
    given = {field.name: getattr(sentence, field.name) for field in fields(sentence)}
    return encoder_settings(kind="dpr", **given | {key: str(path) for key, path in models.items()})


@pytest.fixture(scope="module")
def sgpt(tmp_path_factory, sentence):
    folder = tmp_path_factory.mktemp("decoder")
    sizes = {"num_layers": 2, "max_position_embeddings": 64}
    decoder = make_backbone("gpt_neo", attention_types=[[["global"], 2]], **sizes)
    with torch.no_grad():
        for parameter in decoder.model.parameters():
            parameter.div_(4)  # smaller weights, so that bfloat16 is fine enough
    save_backbone(decoder, folder)
    given = {field.name: getattr(sentence, field.name) for field in fields(sentence)}
    return encoder_settings(kind="sgpt", **given | {"passage_model": str(folder)})


@pytest.fixture(params=["sentence", "dpr", "sgpt"])
def settings(request):
    return request.getfixturevalue(request.param)


def hidden_states(folder, texts, max_tokens, model=AutoModel):
    """The last layer's states ``[T, D]`` of one text or of a pair, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(*texts, return_tensors="pt", truncation=True, max_length=max_tokens)
    with torch.inference_mode():
        loaded = model.from_pretrained(folder).eval()
        return loaded(**encoded, output_hidden_states=True, return_dict=True).hidden_states[-1][0]


def close(vectors, expected):
    np.testing.assert_allclose(vectors, np.stack(expected), rtol=0, atol=2e-6)


def mean_pooled(folder, text, max_tokens):
    mean = hidden_states(folder, [text], max_tokens).mean(dim=0)
    return (mean / mean.norm()).numpy()


def test_a_sentence_model_is_mean_pooled_and_normalised(folders, sentence):
    encoder, folder = sentence.load(), folders / "sentence"
    texts = [f"{p.title}\n{p.text}" if p.title else p.text for p in PASSAGES]
    vectors = encoder.encode_passages(PASSAGES)
    assert vectors.dtype == np.float32
    close(vectors, [mean_pooled(folder, text, 48) for text in texts])
    close(encoder.encode_questions(QUESTIONS), [mean_pooled(folder, q, 16) for q in QUESTIONS])


def test_a_models_own_prompts_and_similarity_are_used(tmp_path, sentence):
    prompts = {"query": "the sea ", "document": "port "}
    folder = make_sentence_folder(tmp_path / "sentence", prompts=prompts, similarity_fn_name="dot")
    encoder = replace(sentence, passage_model=str(folder)).load()

    def plain(text):
        return hidden_states(folder, [text], 48).mean(dim=0).numpy()  # not normalised

    close(encoder.encode_questions(["river"]), [plain("the sea river")])
    close(encoder.encode_passages([Passage("p", "", "river")]), [plain("port river")])


def test_dpr_takes_the_title_as_first_segment_and_the_first_tokens_state(folders, dpr):
    encoder = dpr.load()
    expected = [
        hidden_states(
            folders / "context", [p.title, p.text] if p.title else [p.text], 48, DPRContextEncoder
        )[0]
        for p in PASSAGES
    ]
    close(encoder.encode_passages(PASSAGES), expected)
    expected = [
        hidden_states(folders / "question", [q], 16, DPRQuestionEncoder)[0] for q in QUESTIONS
    ]
    close(encoder.encode_questions(QUESTIONS), expected)


def test_dpr_with_a_projection(tmp_path, dpr):
    folder = make_dpr_folder(tmp_path / "context", "context", projection_dim=8)
    assert replace(dpr, passage_model=str(folder)).load().encode_passages(PASSAGES).shape == (13, 8)


def test_sgpt_weighs_states_by_their_position_and_puts_brackets_around(sgpt):
    tokenizer = AutoTokenizer.from_pretrained(sgpt.passage_model)
    model = AutoModel.from_pretrained(sgpt.passage_model).eval()

    def by_hand(text, before, behind, limit):
        (first,), (last,) = (tokenizer.encode(sign) for sign in (before, behind))
        ids = [first, *tokenizer.encode(text)[: limit - 2], last]
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
        total = sum(place * state for place, state in enumerate(states, start=1))
        mean = total / sum(range(1, len(ids) + 1))
        return mean / np.linalg.norm(mean)

    encoder = sgpt.load()
    close(encoder.encode_questions(QUESTIONS), [by_hand(q, "[", "]", 16) for q in QUESTIONS])
    texts = [f"{p.title} {p.text}" if p.title else p.text for p in PASSAGES]
    close(encoder.encode_passages(PASSAGES), [by_hand(text, "{", "}", 48) for text in texts])
    as_passage, as_question = by_hand("river", "{", "}", 48), by_hand("river", "[", "]", 48)
    assert abs(as_passage - as_question).max() > 1e-3
    for changed, message in (
        ({"max_question_tokens": 2}, "max_question_tokens must be at least 3, two for the"),
        ({"max_question_tokens": 65}, "max_question_tokens must be at most 64"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(sgpt, **changed).load().encode_questions(["river"])


def test_neither_order_nor_batches_change_a_vector(settings):
    vectors = settings.load().encode_passages(PASSAGES)
    order = np.random.default_rng(0).permutation(len(PASSAGES))
    other = replace(settings, batch_size=3).load()
    close(other.encode_passages([PASSAGES[n] for n in order]), vectors[order])


def test_equal_input_gives_equal_bytes(settings):
    first = settings.load().encode_passages(PASSAGES)
    assert first.tobytes() == settings.load().encode_passages(PASSAGES).tobytes()


def test_no_text_gives_no_vector(settings):
    assert settings.load().encode_passages([]).shape == (0, 32)
    assert settings.load().encode_questions([]).shape == (0, 32)


def test_bfloat16_rounds_the_transformer_alone(settings):
    exact = settings.load().encode_passages(PASSAGES)
    rounded = replace(settings, dtype="bfloat16").load().encode_passages(PASSAGES)
    assert rounded.dtype == np.float32
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
    cosines = (exact * rounded).sum(axis=1) / norms
    assert 0.999 < cosines.min() < 1
    if settings.kind == "sentence":
        np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)


def test_a_fingerprint_is_of_what_decides_vectors_but_for_rounding(folders, tmp_path, sentence):
    encoder = sentence.load()
    prints = {encoder.passage_fingerprint, encoder.question_fingerprint}
    assert len(prints) == 2  # 48 tokens, 16 tokens
    copy = tmp_path / "copy"
    shutil.copytree(folders / "sentence", copy)
    (copy / "README.md").write_text("decides nothing")
    same = replace(sentence, passage_model=str(copy), dtype="bfloat16", batch_size=9).load()
    assert same.passage_fingerprint == encoder.passage_fingerprint
    assert same.rounding != encoder.rounding
    assert replace(sentence, max_passage_tokens=47).load().passage_fingerprint not in prints
    make_sentence_folder(copy, seed=1)
    assert replace(sentence, passage_model=str(copy)).load().passage_fingerprint not in prints


def test_the_embedded_model_finds_what_is_meant():
    encoder = encoder_settings(device="cpu").load()
    passages = [
        Passage("1", "Lisbon", "The capital and largest city of Portugal, on the river Tagus."),
        Passage("2", "Photosynthesis", "Plants turn light, water and carbon dioxide into sugar."),
        Passage("3", "Sonata", "A piece for one or two instruments, in several movements."),
    ]
    questions = ["Which town governs Portugal?", "How do leaves feed a tree?", "piano music"]
    scores = encoder.encode_questions(questions) @ encoder.encode_passages(passages).T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]
    assert encoder.encode_passages(passages).shape == (3, 384)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "colbert"},
            "kind must be one of sentence, dpr, sgpt, got 'colbert'",
        ),
        (
            {"kind": "dpr"},
            "a DPR encoder needs a model for questions, got null; set question_model",
        ),
        ({"batch_size": 0}, "batch_size must be positive, got 0; set batch_size"),
        ({"max_question_tokens": -1}, "max_question_tokens must be positive, got -1"),
        ({"dtype": "int8"}, "dtype must be one of auto, float32, .*, got 'int8'"),
    ],
)
def test_impossible_settings(change, message):
    with pytest.raises(ValueError, match=message):
        encoder_settings(**change)


def test_an_unknown_device(settings):
    with pytest.raises(ValueError, match=r"device must be auto, cpu, cuda, .* got 'abacus'"):
        replace(settings, device="abacus").load()


def test_more_tokens_than_positions(settings):
    long = replace(settings, max_passage_tokens=65, max_question_tokens=65).load()
    with pytest.raises(ValueError, match="max_passage_tokens must be at most 64, the positions"):
        long.encode_passages(PASSAGES)
    with pytest.raises(ValueError, match=r"got 65; set max_question_tokens"):
        long.encode_questions(QUESTIONS)


def test_a_folder_of_another_kind(tmp_path, settings):
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    (tmp_path / "model.safetensors").write_bytes(b"")
    models = {"passage_model": str(tmp_path), "question_model": str(tmp_path)}
    with pytest.raises(ValueError, match=r"cannot be loaded as a .*; set (passage|question)_model"):
        replace(settings, **models).load().encode_passages(PASSAGES)


def test_weights_of_another_model_are_refused(folders, dpr):
    """transformers itself would start from random ones, and only warn."""
    wrong = replace(dpr, passage_model=str(folders / "sentence"))
    with pytest.raises(ValueError, match="expected the weights of a DPRContextEncoder, but 37"):
        wrong.load().encode_passages(PASSAGES)


def test_a_similarity_that_is_no_inner_product(tmp_path, sentence):
    folder = make_sentence_folder(tmp_path / "model", similarity_fn_name="euclidean")
    with pytest.raises(ValueError, match="a model of cosine or inner products, got one of"):
        replace(sentence, passage_model=str(folder)).load().encode_passages(PASSAGES)


def test_configurations_of_version_0_1_name_the_settings_otherwise() -> None:
    old = {"_target_": "retrieval.encoders.EncoderSettings", "kind": "sentence", "batch_size": 9}
    assert instantiate(old) == encoder_settings(batch_size=9)
