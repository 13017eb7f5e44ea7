"""What scores come to, against numbers that were worked out by hand."""

from __future__ import annotations

import pytest
import torch

from backbone.likelihood import answer_nll
from backbone.tokens import encode_prompt
from genpoe.sequential import health, scoring
from genpoe.sequential.picture import draw_matrices
from genpoe.sequential.summary import (
    cells,
    locality_metrics,
    matrix_metrics,
    paired_states,
    retention,
)
from qa.data.dataset import Question
from qa.method import BaseMethod, QuestionInput
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone

# EM of two questions a cell: M[state][batch].
M = {0: (0, 50), 1: (100, 50), 2: (50, 100)}


def rows():
    for state, ems in M.items():
        for batch, em in enumerate(ems, 1):
            for number in range(2):
                right = float(em >= 50 * (number + 1))
                yield {
                    "state": state,
                    "batch": batch,
                    "kind": scoring.MAIN,
                    "edit": f"{batch}-{number}",
                    "id": "q",
                    "question": "Who?",
                    "answers": ["x"],
                    "prediction": "x" if right else "a b a b a b a",
                    "em": right,
                    "f1": right,
                    "prefix": right,
                    "nll": None if state == 2 and number else 2.0 - right,
                    "token_accuracy": right,
                    "found": bool(right),
                }


def test_cells_and_what_they_come_to():
    matrix = cells(list(rows()))
    assert {place: cell["em"] for place, cell in matrix.items()} == {
        (state, batch): em for state, ems in M.items() for batch, em in enumerate(ems, 1)
    }
    assert matrix[1, 2]["broken"] == 50
    assert matrix[1, 2]["recall"] == 50
    assert matrix[2, 1]["nll"] == 1.0  # what is not finite is left out
    found = matrix_metrics(matrix, 2)
    assert found["before/em"] == 25
    assert found["immediate/em"] == 100
    assert found["final/em"] == 75
    assert found["control/em"] == 50  # M[1, 2]
    assert found["headline/em"] == ((50 - 0) + (100 - 50)) / 2
    assert found["forgetting/em"] == ((100 - 50) + 0) / 2
    assert found["backward_transfer/em"] == 50 - 100
    assert found["forgetting/nll"] == ((1.0 - 1.0) + 0) / 2
    worse = {place: {**cell, "nll": 1.0 + place[0]} for place, cell in matrix.items()}
    assert matrix_metrics(worse, 2)["forgetting/nll"] == ((3.0 - 2.0) + 0) / 2
    assert retention(found) == 75


def test_states_are_paired_question_by_question():
    found = paired_states(list(rows()), 2, scoring.MAIN, 0)
    assert found["final_minus_just_before/em"] == 50
    assert found["final_minus_just_before/n"] == 4
    assert found["final_minus_just_before/em_low"] < 50 < found["final_minus_just_before/em_high"]
    assert found["final_minus_immediate/em"] == -25
    assert found["immediate_minus_before/em"] == 75


def test_locality_compares_with_the_untouched_backbone():
    def row(state, id, prediction):
        return {
            "kind": scoring.LOCALITY,
            "state": state,
            "id": id,
            "prediction": prediction,
            "em": float(prediction == "Paris"),
        }

    base = {"a": "Paris", "b": "Rome", "c": "Town1"}
    some = [row(0, id, answer) for id, answer in base.items()]
    some += [row(1, "a", "paris."), row(1, "b", "Town1"), row(1, "c", "Town1")]
    found = locality_metrics(some, base, [["Town1"], ["Rome"]])
    assert found[0] == {"locality": 100, "em": pytest.approx(100 / 3), "bleeding": 0}
    # "c" said so before, so nothing has bled into it.
    assert found[1]["locality"] == pytest.approx(200 / 3)
    assert found[1]["bleeding"] == pytest.approx(100 / 3)


def test_perplexity_and_divergence_by_their_definitions():
    backbone = make_backbone()
    passages = [Passage("a", "Tova", "was born in Lisbon."), Passage("b", "", "The sea by the sea")]
    total, count = 0.0, 0
    for text in ("Tova\nwas born in Lisbon.", "The sea by the sea"):
        ids = torch.tensor([encode_prompt(backbone.tokenizer, text)])
        labels = ids.clone()
        labels[:, 0] = -100
        n = ids.shape[1] - 1
        total += float(answer_nll(backbone, ids, torch.ones_like(ids), labels)) * n
        count += n
    expected = torch.tensor(total / count).exp().item()
    assert health.perplexity(backbone, passages) == pytest.approx(expected, rel=1e-4)
    inputs = [QuestionInput(Question(f"{i}", "Who?" * i, ("x",))) for i in (1, 2)]
    first = health.first_tokens(BaseMethod(backbone), inputs)
    assert first.exp().sum(-1).tolist() == pytest.approx([1, 1], abs=1e-5)
    prompt = BaseMethod(backbone).prompt(inputs[0])
    ids = torch.tensor([encode_prompt(backbone.tokenizer, prompt)])
    alone = backbone.model(ids).logits[0, -1].log_softmax(-1)
    assert torch.allclose(first[0], alone, atol=1e-4)
    assert health.divergence(first, first) == 0
    other = first.flip(0)
    by_hand = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(first, other, strict=True))
    assert health.divergence(first, other) == pytest.approx(by_hand / 2, rel=1e-4)


def test_broken_answers():
    assert all(map(health.is_broken, ("", "the sea the sea the sea", "a a a a a a a")))
    assert not any(map(health.is_broken, ("Lisbon", "the sea", "by the sea in the old town")))


def test_heat_maps_are_drawn(tmp_path):
    matrix = cells(list(rows()))
    draw_matrices({f"m{i}": matrix for i in range(5)}, tmp_path / "heatmap.png")
    assert (tmp_path / "heatmap.png").read_bytes().startswith(b"\x89PNG")
