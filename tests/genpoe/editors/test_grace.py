"""GRACE's codebook, by hand, and while text is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from backbone.decoding import greedy_decode, score_answers
from genpoe.editors.grace import GRACE, GRACESettings
from genpoe.editors.parts.facts import encode_fact
from genpoe.editors.parts.radius import radius_between
from genpoe.editors.parts.rows import rows_of
from plumbing.mounts import SettingValueError
from tests.helpers.taught import home_of, new_facts, taught_backbone, taught_facts


@pytest.fixture(scope="module")
def backbone():
    return taught_backbone()


@pytest.fixture
def placed(backbone, monkeypatch):
    """A codebook whose queries are at given places of a line, and whose values are not trained."""
    editor: Any = GRACE(backbone, GRACESettings(1, radius=1.0))
    places: dict[Any, float] = {}

    def queries(prompts):
        found = torch.zeros(len(prompts), 48)
        found[:, 0] = torch.tensor([places[tuple(prompt)] for prompt in prompts])
        return found

    monkeypatch.setattr(editor, "queries", queries)
    monkeypatch.setattr(
        editor, "_trained", lambda fact: torch.full((32,), float(len(fact.fact.id)))
    )

    def put(name, place, town):
        fact = home_of(name, town)
        places[tuple(encode_fact(backbone, fact).prompt_ids)] = place
        return editor.edit([fact])

    editor.put = put
    return editor


def balls(editor):
    return [(round(float(e.key[0]), 4), round(e.radius, 4)) for e in editor.entries]


def test_entries_are_added_widened_and_split(placed):
    placed.put("a", 0.0, "sea")
    assert balls(placed) == [(0.0, 1.0)]
    placed.put("b", 2.5, "sea")  # further than both radii
    assert balls(placed) == [(0.0, 1.0), (2.5, 1.0)]
    placed.put("c", 1.2, "sea")  # the same target, 1.2 from the first
    assert balls(placed) == [(0.0, 1.2), (2.5, 1.0)]
    placed.put("d", 0.6, "fox")  # another target
    assert balls(placed) == [(0.0, 0.3), (2.5, 1.0), (0.6, 0.3)]
    split = placed.entries[0].radius + placed.entries[2].radius
    assert 0.6 - 2e-5 < split < 0.6  # no query lies in both balls
    assert [e.id for e in placed.entries] == ["a", "b", "d"]  # keys, targets and ids stay together
    placed.undo(3)
    assert balls(placed) == [(0.0, 1.2), (2.5, 1.0)]
    placed.undo(2)
    assert balls(placed) == [(0.0, 1.0), (2.5, 1.0)]
    placed.undo()
    assert balls(placed) == []


def test_targets_are_compared_token_by_token(placed):
    placed.put("a", 0.0, "sea fox")
    placed.put("b", 0.5, "fox sea")  # the same tokens, and the same mean, in another order
    assert len(placed.entries) == 2


def test_a_correction_takes_over_the_entry_of_its_prompt(placed):
    placed.put("a", 0.0, "sea")
    placed.put("b", 0.6, "fox")
    before = balls(placed)
    placed.put("a", 1e-6, "dog")  # the same prompt, read in another batch
    assert balls(placed) == before
    assert placed.entries[0].target != placed.entries[1].target
    placed.put("a", 0.0, "dog")  # once more, and nothing changes
    assert balls(placed) == before


def test_a_corrected_fact_is_answered_until_it_is_undone(backbone):
    name = taught_facts()[0].id
    prompt = home_of(name, "fox").prompt
    editor = GRACE(backbone, GRACESettings(1, radius=0.05))

    def answer():
        with editor.acting():
            return greedy_decode(backbone, [prompt], 8).texts[0].split()[0]

    editor.edit([home_of(name, "fox")])
    assert answer() == "fox"
    editor.edit([home_of(name, "dog")])
    assert answer() == "dog"
    assert [entry.radius for entry in editor.entries] == [0.05]
    editor.undo(1)
    assert answer() == "fox"


def test_a_key_hits_itself_and_nothing_happens_outside(backbone):
    facts = new_facts()
    editor = GRACE(backbone, GRACESettings(1, radius=0.05))
    prompts = [fact.prompt for fact in taught_facts()]
    rows = rows_of(backbone, [encode_fact(backbone, fact) for fact in taught_facts()])
    ends = (rows.labels != -100).int().argmax(1) - 1
    with torch.no_grad():
        plain = rows.hidden(backbone)
        report = editor.edit(facts)
        assert max(report.nll_after) < 0.1 < min(report.nll_before)
        with editor.acting(ends):
            edited = rows.hidden(backbone)
    changed = [prompts[i] for i in range(16) if not torch.equal(edited[i], plain[i])]
    assert changed == [fact.prompt for fact in facts]
    outside = [i for i in range(16) if prompts[i] not in changed]
    assert torch.equal(edited[outside], plain[outside])
    with torch.no_grad():
        assert torch.equal(rows.hidden(backbone), plain)  # behind the block


def test_the_same_tokens_with_and_without_a_cache(backbone):
    """The query is taken once, when the prompt is read."""
    facts = [home_of("Tova Blick", "old town by the sea"), home_of("Ann Oakes", "quick fox")]
    editor = GRACE(backbone, GRACESettings(0, radius=0.05, steps=30))
    editor.edit(facts)
    prompts = [fact.prompt for fact in [*facts, *taught_facts()[2:4]]]
    with editor.acting():
        cached = greedy_decode(backbone, prompts, 8)
        nll = score_answers(backbone, cached, [*(f.target for f in facts), "sea", "fox"])
    plain = greedy_decode(backbone, prompts, 8).texts
    assert all(cached.texts[i] != plain[i] for i in (0, 1))
    assert cached.texts[2:] == plain[2:]
    tokenizer = backbone.tokenizer
    for number, prompt in enumerate(prompts):
        ids = tokenizer(prompt)["input_ids"]
        with editor.acting(), torch.no_grad():
            written: list[int] = []
            for _ in range(8):  # each token anew, from the beginning
                row = torch.tensor([ids + written])
                written.append(int(backbone.model(row, use_cache=False).logits[0, -1].argmax()))
                if written[-1] in backbone.stop_token_ids:
                    break
        text = tokenizer.decode(written, skip_special_tokens=True).strip()
        assert text == cached.texts[number]
    with editor.acting():
        alone = greedy_decode(backbone, prompts[:1], 8)
        own = score_answers(backbone, alone, [facts[0].target])
    assert torch.allclose(nll[:1], own, atol=1e-5)


def test_a_radius_between_rephrasings_and_strangers_by_hand():
    clear = radius_between(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0]))
    assert (clear.radius, clear.missed, clear.hit) == (3.0, 0.0, 0.0)
    mixed = radius_between(torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([2.5, 5.0, 8.0, 9.0]))
    assert (mixed.radius, mixed.missed, mixed.hit) == (4.0, 0.25, 0.25)


def test_an_automatic_radius_comes_from_examples(backbone):
    """It is the same distance in another order, and lets a rephrasing in that a stranger is not."""
    names = taught_facts()[:12]
    examples = [replace(f, rephrasings=(f.prompt.replace("Say", "Now say"),)) for f in names]
    editor = GRACE(backbone, GRACESettings(1, radius="auto"), examples)
    found = editor.measure()
    assert found["radius"] > 0
    assert found["radius_missed"] == pytest.approx(found["radius_hit"], abs=1 / 12)
    again = GRACE(backbone, GRACESettings(1, radius="auto"), examples[::-1])
    assert again.radius.radius == pytest.approx(editor.radius.radius, rel=1e-5)
    assert GRACE(backbone, GRACESettings(1, radius=2.0)).measure() == {"radius": 2.0}
    editor.edit(names[:1])
    assert editor.entries[0].radius == editor.radius.radius
    editor.undo()


@pytest.mark.parametrize("radius", ["automatic", 0.0])
def test_a_radius_that_is_none_is_refused(backbone, radius):
    with pytest.raises(SettingValueError, match="radius must be a positive number or auto"):
        GRACESettings(1, radius=radius)
    with pytest.raises(SettingValueError, match="radius=auto needs at least 10 training facts"):
        GRACE(backbone, GRACESettings(1, radius="auto"), taught_facts())


def test_a_layer_out_of_range_is_refused(backbone):
    with pytest.raises(SettingValueError, match=r"layer must be in 0\.\.1 .* got 7"):
        GRACE(backbone, GRACESettings(7))
