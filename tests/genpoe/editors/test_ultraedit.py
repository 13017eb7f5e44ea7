"""UltraEdit against its closed form, written out token by token."""

from __future__ import annotations

from typing import Any

import torch

from backbone.edits import state_hash
from genpoe.editors.parts.facts import encode_fact
from genpoe.editors.ultraedit import UltraEdit, UltraEditSettings
from tests.helpers.taught import home_of, new_facts
from tests.helpers.tiny import make_backbone


def square():
    backbone = make_backbone(intermediate_size=32)  # o = i
    backbone.model.double()
    return backbone


def gradients(backbone, fact, module):
    """What a map reads, and the gradient of what it writes, at tokens that predict the target."""
    encoded = encode_fact(backbone, fact)
    ids = torch.tensor([encoded.prompt_ids + encoded.target_ids])
    found = {}

    def keep(_, inputs, output):
        found["u"] = inputs[0][0]
        found["y"] = output.requires_grad_()

    handle = module.register_forward_hook(keep)
    logits = backbone.model(ids).logits[0].log_softmax(-1)
    handle.remove()
    first, count = len(encoded.prompt_ids), len(encoded.target_ids)
    loss = -sum(logits[first + t - 1, encoded.target_ids[t]] for t in range(count)) / count
    (delta,) = torch.autograd.grad(loss, [found["y"]])
    return [(found["u"][first + t - 1], delta[0, first + t - 1]) for t in range(count)]


def test_ultraedit_is_its_closed_form():
    backbone, copy = square(), square()
    settings = UltraEditSettings([0, 1], ["gate", "down"], eta=0.03, batch_size=2)
    editor = UltraEdit(backbone, settings)
    before = state_hash(backbone)
    batches = [new_facts(), [home_of("Mia Blick", "sea of old"), home_of("Ann Stone", "fox")]]
    for facts in batches:
        editor.edit(facts)
    modules = [getattr(copy.layers[i].mlp, n) for i in (0, 1) for n in ("gate_proj", "down_proj")]
    seen: dict[Any, list[Any]] = {module: [] for module in modules}
    for facts in batches:
        tokens = {m: [t for f in facts for t in gradients(copy, f, m)] for m in modules}
        for module in modules:
            seen[module] += [torch.cat(token) for token in tokens[module]]
            joint = torch.stack(seen[module])
            mean, std = joint.mean(0), joint.std(0)
            columns = []
            for u, delta in tokens[module]:
                normal = (torch.cat([u, delta]) - mean) / (std + 1e-7)
                columns.append(-0.03 * (normal[:32] @ normal[:32]) * normal[32:])
            keys = torch.stack([u for u, _ in tokens[module]], 1)
            values = torch.stack(columns, 1)
            inverse = torch.linalg.inv(keys @ keys.T + torch.eye(32).double())
            with torch.no_grad():
                module.weight += values @ keys.T @ inverse
    for (name, found), wanted in zip(
        backbone.model.named_parameters(), copy.model.parameters(), strict=True
    ):
        assert torch.allclose(found, wanted, atol=1e-9), name
    editor.undo()
    assert state_hash(backbone) == before


def test_the_size_of_a_pass_changes_nothing():
    """One by one or eight at once."""
    found = []
    for size in (1, 8):
        backbone = square()
        UltraEdit(backbone, UltraEditSettings([0, 1], batch_size=size)).edit(new_facts())
        found.append([layer.mlp.down_proj.weight for layer in backbone.layers])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_statistics_go_on_over_batches_and_back_with_undo():
    backbone = square()
    editor = UltraEdit(backbone, UltraEditSettings([1]))
    (place,) = editor.places
    editor.edit(new_facts()[:1])
    first = editor.moments[place]
    assert first.count == 2
    editor.edit(new_facts()[1:])
    assert editor.moments[place].count == 6
    editor.undo(1)
    assert editor.moments[place] is first
    editor.undo()
    assert editor.moments[place].count == 0


def test_all_tokens_can_count():
    backbone = square()
    editor = UltraEdit(backbone, UltraEditSettings([1], tokens="all"))
    encoded = encode_fact(backbone, new_facts()[0])
    editor.edit(new_facts()[:1])
    assert editor.moments[editor.places[0]].count == len(encoded.prompt_ids + encoded.target_ids)
