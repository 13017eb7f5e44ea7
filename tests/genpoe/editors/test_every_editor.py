"""What every editor must do: make edits true, take them back to the bit, and refuse bad input."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from backbone.edits import WeightEdits, state_hash
from genpoe.editors.alphaedit import AlphaEdit, AlphaEditSettings
from genpoe.editors.editor import EditError
from genpoe.editors.ft_lora import FTLoRA, FTLoRASettings
from genpoe.editors.grace import GRACE, GRACESettings
from genpoe.editors.memit import MEMIT, MEMITSettings
from genpoe.editors.parts.facts import FactError
from genpoe.editors.parts.values import ValueSettings
from genpoe.editors.rome import ROME, ROMESettings
from genpoe.editors.trained.malmen import MALMEN, MALMENNetworks
from genpoe.editors.trained.mend import MEND, MENDNetworks
from genpoe.editors.trained.networks import TrainedSettings
from genpoe.editors.ultraedit import UltraEdit, UltraEditSettings
from plumbing.mounts import SettingValueError
from tests.helpers.taught import new_facts, taught_backbone, taught_covariances
from tests.helpers.tiny import make_backbone

VALUE = ValueSettings(contexts=2, context_tokens=(3,))
# Untrained: MEND then takes a step down the gradient, and MALMEN the like.
NETWORKS: dict[str, Any] = {"rank": 4, "normalise": False}
MAKERS = {
    "ultraedit": lambda b: UltraEdit(b, UltraEditSettings([0, 1], ["up", "down"], eta=0.01)),
    "memit": lambda b: MEMIT(b, MEMITSettings([0], 1e-3, VALUE), taught_covariances()),
    "rome": lambda b: ROME(b, ROMESettings(0, value=VALUE)),
    "alphaedit": lambda b: AlphaEdit(
        b, AlphaEditSettings([0], 0.8, mu=1e-3, value=VALUE), taught_covariances()
    ),
    "ft_lora": lambda b: FTLoRA(b, FTLoRASettings(passes=15)),
    "grace": lambda b: GRACE(b, GRACESettings(1, radius=0.05, steps=25)),
    "mend": lambda b: MEND(b, MENDNetworks(b, TrainedSettings([0, 1], eta=0.3, **NETWORKS))),
    "malmen": lambda b: MALMEN(b, MALMENNetworks(b, TrainedSettings([0, 1], eta=3, **NETWORKS))),
}
BY_GRADIENT = ("ultraedit", "mend", "malmen")
OF_SUBJECTS = ("memit", "rome", "alphaedit")
# They take one step and promise a lower loss; after a few batches of the same it is there.
TURNS = {"ultraedit": 4, "mend": 6, "malmen": 6}


@pytest.fixture(scope="module")
def backbone():
    return taught_backbone()


@pytest.fixture(params=MAKERS)
def editor(request, backbone):
    """Each editor on the same backbone, whose every bit is as before when the test ends."""
    before = state_hash(backbone), backbone.fingerprint
    hooks = hooked(backbone)
    made: Any = MAKERS[request.param](backbone)
    made.name = request.param
    yield made
    made.undo()
    assert (state_hash(backbone), backbone.fingerprint) == before
    assert hooked(backbone) == hooks
    assert not any(p.requires_grad or p.grad is not None for p in backbone.model.parameters())


def hooked(backbone):
    """How many hooks the model has."""
    modules = list(backbone.model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_edits_are_made_true_and_taken_back_to_the_bit(backbone, editor):
    """The edited model is another one, and only while it is edited."""
    before = state_hash(backbone)
    with torch.inference_mode():  # as while questions are answered
        for _ in range(TURNS.get(editor.name, 1)):
            report = editor.edit(new_facts(2))
    assert min(report.nll_before if editor.name not in TURNS else (math.inf,)) > 1
    assert all(math.exp(-nll) > 0.9 for nll in report.nll_after), report
    assert report.ids == tuple(fact.id for fact in new_facts(2))
    if editor.name == "grace":
        assert (state_hash(backbone), dict(report.moved)) == (before, {})
    else:
        assert state_hash(backbone) != before
        assert all(moved > 0 for moved in report.moved.values())
    editor.undo()
    assert state_hash(backbone) == before


def interrupt_after(passes, backbone):
    """Raise an interruption in a forward pass of the model."""
    count = iter(range(passes))

    def stop(*_):
        if next(count, None) is None:
            raise KeyboardInterrupt

    return backbone.final_norm.register_forward_hook(stop)


@pytest.mark.parametrize("passes", [1, 4])
def test_an_interruption_leaves_nothing_half_edited(backbone, editor, passes):
    editor.edit(new_facts()[:1])
    before, state, batches = state_hash(backbone), copy.deepcopy(editor._state()), editor.batches
    handle = interrupt_after(passes, backbone)
    if editor.name in BY_GRADIENT and passes == 4:  # they need three passes
        handle.remove()
        return
    with pytest.raises(KeyboardInterrupt):
        editor.edit(new_facts()[1:])
    handle.remove()
    assert state_hash(backbone) == before
    assert editor.batches == batches
    assert str(editor._state()) == str(state)


def test_an_interruption_between_two_layers_leaves_nothing(backbone, monkeypatch):
    settings = MEMITSettings([0, 1], 1e-3, replace(VALUE, steps=2))
    editor = MEMIT(backbone, settings, taught_covariances())
    before, write, written = state_hash(backbone), editor.edits.write, []

    def stop(weights):
        write(weights)
        written.append(state_hash(backbone))
        raise KeyboardInterrupt

    monkeypatch.setattr(editor.edits, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        editor.edit(new_facts()[:1])
    assert written != [before]
    assert state_hash(backbone) == before
    assert editor.edits.commits == 0


def test_the_second_run_in_a_process_is_the_first_one(backbone, editor):
    """Nothing is left of an earlier run."""

    def run(one):
        one.edit(new_facts(1))
        found = state_hash(backbone), str(one._state())
        one.undo()
        return found

    assert run(editor) == run(MAKERS[editor.name](backbone))


def test_an_empty_batch_changes_nothing(backbone, editor):
    """A stream of empty edits."""
    before = state_hash(backbone)
    for _ in range(3):
        assert editor.edit([]).ids == ()
    assert (state_hash(backbone), editor.batches) == (before, 3)


def test_bad_facts_are_refused_before_anything_is_done(backbone, editor, monkeypatch):
    monkeypatch.setattr(WeightEdits, "write", None)
    one, *_ = new_facts()
    cases = [
        (replace(one, target=""), "has no target"),
        (replace(one, prompt=" "), "has no prompt"),
    ]
    if editor.name in OF_SUBJECTS:
        cases.append((replace(one, subject=None), "has no subject, and this editor needs one"))
        cases.append((replace(one, subject="Nobody"), "must occur in its prompt, got the subject"))
    for bad, message in cases:
        with pytest.raises(FactError, match=message):
            editor.edit([*new_facts()[1:], bad])
    with pytest.raises(FactError, match="two edits of a batch have the id"):
        editor.edit([one, one])
    assert editor.batches == 0


def test_a_loss_that_is_not_finite_stops_the_edit(backbone, editor, monkeypatch):
    """The first value that is not finite is an error, which names the edit."""
    monkeypatch.setattr(
        "genpoe.editors.parts.rows.functional.cross_entropy",
        lambda logits, labels, reduction: logits.gather(1, labels[:, None])[:, 0] * math.nan,
    )
    with pytest.raises(EditError, match=r"the loss of the edit '.*' is nan at step 1"):
        editor.edit(new_facts())
    assert editor.batches == 0


def test_layers_out_of_range(backbone):
    for make in (
        lambda: UltraEdit(backbone, UltraEditSettings([0, 2])),
        lambda: MEMIT(backbone, MEMITSettings([2]), taught_covariances()),
        lambda: AlphaEdit(backbone, AlphaEditSettings([2]), taught_covariances()),
        lambda: ROME(backbone, ROMESettings(2)),
        lambda: GRACE(backbone, GRACESettings(2)),
        lambda: MENDNetworks(backbone, TrainedSettings([2])),
    ):
        with pytest.raises(SettingValueError, match=r"layers? must be in 0\.\.1 .* got 2"):
            make()


def test_float16_is_refused():
    backbone = make_backbone()
    backbone.model.half()
    with pytest.raises(ValueError, match="is in float16, in which updates overflow"):
        FTLoRA(backbone, FTLoRASettings())


def test_bfloat16_has_a_master_copy():
    """Many small edits add up, though each alone is lost in bfloat16."""
    backbone = make_backbone()
    backbone.model.bfloat16()
    before = state_hash(backbone)
    editor = UltraEdit(backbone, UltraEditSettings([1]))
    (place,) = editor.places
    start = editor._weight(place).clone()
    step = torch.full_like(start, 1e-4) * start.abs().clamp(min=1e-6)
    for _ in range(60):
        editor._write({place: editor._weight(place) + step})
    assert torch.allclose(editor._weight(place) - start, 60 * step, rtol=1e-2)
    wanted = (start + 60 * step).bfloat16()
    assert float((place.weight == wanted).float().mean()) > 0.99
    editor.edits.rollback()
    assert state_hash(backbone) == before


def test_an_edit_that_changes_nothing_is_an_error(backbone, monkeypatch):
    """There is no edit without a change."""
    editor = MAKERS["ultraedit"](backbone)
    monkeypatch.setattr(
        editor, "update", lambda place, inputs, gradients: torch.zeros(place.weight.shape).double()
    )
    with pytest.raises(EditError, match=r"and 2 others changed no weight in torch\.float32"):
        editor.edit(new_facts())
    assert editor.batches == 0


def test_a_loss_that_stands_still_is_said(backbone):
    """What did not get better is named."""
    value = replace(VALUE, steps=2, lr=1e-9)
    editor = ROME(backbone, ROMESettings(0, value=value))
    with editor.edited(new_facts()) as report:
        assert report.stuck == tuple(fact.id for fact in new_facts())
    with MAKERS["rome"](backbone).edited(new_facts()[:1]) as report:
        assert report.stuck == ()


def test_undo_goes_back_to_any_batch(backbone, editor, caplog):
    caplog.set_level(logging.INFO)
    states = [state_hash(backbone)]
    for fact in new_facts()[:2]:
        editor.edit([fact])
        states.append(state_hash(backbone))
    editor.undo(1)
    assert state_hash(backbone) == states[1]
    with pytest.raises(ValueError, match=r"batches must be in 0\.\.1, got 2"):
        editor.undo(2)
    editor.undo()
    assert state_hash(backbone) == states[0]
