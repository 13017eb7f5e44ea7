"""Base, RAG, and what every method shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from backbone.decoding import Decoded, greedy_decode
from backbone.model import Backbone
from backbone.tokens import encode_answer, encode_prompt
from qa.data.dataset import QADataset, Question
from qa.method import AnsweringMethod, BaseMethod, Prediction, QuestionInput, RAGMethod
from qa.passages.gold import GoldPassages
from qa.passages.source import Selection
from qa.prompts import build_prompt
from retrieval.passage import Passage


class Shifted(AnsweringMethod):
    """Adds a constant of its own to the last layer's FFN for each input."""

    @contextmanager
    def injected(self, inputs: Sequence[QuestionInput]) -> Iterator[None]:
        shift = torch.tensor([float(len(input.question.question)) for input in inputs])
        ffn = self.backbone.ffn(self.backbone.num_layers - 1)
        noise = torch.randn(self.backbone.d_model, generator=torch.manual_seed(0))
        handle = ffn.register_forward_hook(
            lambda _, args, output: output + shift[:, None, None] * noise
        )
        try:
            yield
        finally:
            handle.remove()


@pytest.fixture
def inputs(people: QADataset) -> list[QuestionInput]:
    questions = people.split("dev")
    selections = GoldPassages(people, 1).select(questions)
    return [QuestionInput(*pair) for pair in zip(questions, selections, strict=True)]


def naive_nll(backbone: Backbone, prompt: str, answer: str) -> float:
    """One row, logits of every position from the model itself, one token after the other."""
    prefix, target = (
        encode_prompt(backbone.tokenizer, prompt),
        encode_answer(backbone.tokenizer, answer),
    )
    with torch.inference_mode():
        logits = backbone.model(torch.tensor([prefix + target])).logits[0].log_softmax(-1)
    scores = [-logits[len(prefix) + i - 1, token].item() for i, token in enumerate(target)]
    return sum(scores) / len(scores)


def agree(got: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    assert [prediction.text for prediction in got] == [prediction.text for prediction in expected]
    assert [p.nll for p in got] == pytest.approx([p.nll for p in expected], rel=1e-4)


@pytest.mark.parametrize("method_class", [BaseMethod, RAGMethod])
def test_answers_are_those_of_the_plain_model(
    method_class: type[AnsweringMethod], tiny_backbone: Backbone, inputs: list[QuestionInput]
) -> None:
    method = method_class(tiny_backbone, max_new_tokens=6)
    rag = method_class is RAGMethod
    predictions = method.answer(inputs)
    for input, prediction in zip(inputs, predictions, strict=True):
        passages = input.selection.passages if rag else ()
        prompt = build_prompt(input.question.question, passages)
        assert prediction.text == greedy_decode(tiny_backbone, [prompt], 6).texts[0]
        expected = naive_nll(tiny_backbone, prompt, input.question.answers[0])
        assert prediction.nll == pytest.approx(expected, rel=1e-4)


def test_rag_sees_the_passages_and_base_does_not(
    tiny_backbone: Backbone, inputs: list[QuestionInput]
) -> None:
    base, rag = BaseMethod(tiny_backbone), RAGMethod(tiny_backbone)
    assert "old town" not in base.prompt(inputs[0])
    assert rag.prompt(inputs[0]).startswith("Tova Blick\nTova Blick was born in the old town.")
    bare = [QuestionInput(input.question) for input in inputs]
    agree(base.answer(inputs), base.answer(bare))
    assert rag.answer(inputs)[0].nll != pytest.approx(base.answer(inputs)[0].nll, rel=1e-3)


@pytest.mark.parametrize("method_class", [RAGMethod, Shifted])
def test_a_batch_is_its_rows(
    method_class: type[AnsweringMethod], tiny_backbone: Backbone, inputs: list[QuestionInput]
) -> None:
    method = method_class(tiny_backbone, max_new_tokens=4)
    alone = [method.answer([input])[0] for input in inputs]
    agree(method.answer(inputs), alone)
    agree(method.answer(inputs[::-1]), alone[::-1])


def test_decoding_and_scoring_are_both_under_the_injection(
    tiny_backbone: Backbone, inputs: list[QuestionInput]
) -> None:
    plain, shifted = BaseMethod(tiny_backbone), Shifted(tiny_backbone)
    before = plain.answer(inputs)
    during = shifted.answer(inputs)
    assert all(a.text != b.text for a, b in zip(before, during, strict=True))
    assert all(abs(a.nll - b.nll) > 1e-3 for a, b in zip(before, during, strict=True))
    assert plain.answer(inputs) == before  # and nothing stays


def test_right_answers_do_not_reach_the_decoder(
    tiny_backbone: Backbone, inputs: list[QuestionInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(backbone: Backbone, prompts: list[str], max_new_tokens: int) -> Decoded:
        seen.extend([*prompts, str(max_new_tokens)])
        return greedy_decode(backbone, prompts, max_new_tokens)

    monkeypatch.setattr("qa.method.greedy_decode", spy)
    RAGMethod(tiny_backbone, max_new_tokens=9).answer(inputs)
    assert len(seen) == len(inputs) + 1
    assert not any("Lisbon" in text for text in seen)
    assert seen[-1] == "9"


def test_no_questions_no_answers(tiny_backbone: Backbone) -> None:
    assert BaseMethod(tiny_backbone).answer([]) == []


def test_base_refuses_rag(tiny_backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="got rag=true; use method=rag"):
        BaseMethod(tiny_backbone, rag=True)


def test_rag_refuses_to_do_without(tiny_backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="got rag=false; use method=base"):
        RAGMethod(tiny_backbone, rag=False)


def test_max_new_tokens_must_be_positive(tiny_backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="max_new_tokens must be positive, got 0"):
        BaseMethod(tiny_backbone, max_new_tokens=0)


def long_prompt(*words: int, question: str = "Where?") -> QuestionInput:
    """A question with passages of the given numbers of words."""
    passages = [Passage(f"p{i}", "", "violins " * count) for i, count in enumerate(words)]
    return QuestionInput(Question("q7", question, ("Lisbon",)), Selection.uniform(passages))


@pytest.mark.parametrize(
    ("input", "rag", "said"),
    [
        (long_prompt(700), True, "split the passage 'p0', which has 70"),
        (
            long_prompt(5, 500, 9),
            True,
            "use fewer passages (k=2 or less), or split the passage 'p1'",
        ),
        (long_prompt(50, question="so " * 900), True, "shorten the question or leave it out"),
        (long_prompt(question="so " * 600), True, "shorten the question or leave it out"),
        (long_prompt(700, question="so " * 600), False, "shorten the question or leave it out"),
    ],
)
def test_a_prompt_that_is_too_long_names_question_and_passage(
    tiny_backbone: Backbone, input: QuestionInput, rag: bool, said: str
) -> None:
    method = (RAGMethod if rag else BaseMethod)(tiny_backbone)
    short = long_prompt(5)
    method.check_prompts([short])
    with pytest.raises(ValueError, match="the prompt of question 'q7' is too long: ") as error:
        method.check_prompts([short, input, short])
    assert said in str(error.value)
    assert "and 32 new ones exceed the 512 positions of tiny" in str(error.value)
    with pytest.raises(ValueError, match=r"is too long \(and so are 2 others\)"):
        method.check_prompts([input, short, input, input])
