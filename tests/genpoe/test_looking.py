"""Where the experts look: the weights that are written are those that acted."""

from __future__ import annotations

import json

import pytest
import torch

from genpoe.commands.look import look
from genpoe.hypernet.mean import MeanSettings
from genpoe.looking import Glance, draw, glance
from genpoe.model import GenPoE
from plumbing.mounts import SettingValueError
from qa.data.dataset import Question
from qa.prompts import build_prompt, encode_passage
from tests.helpers.small_world import BIOS, composed
from tests.helpers.tiny import save_backbone
from tests.helpers.tiny_reader import PASSAGES, make_reader

ASKED = Question("q", "Where was Tova Blick born?", ("Lisbon",))


def test_the_weights_are_those_of_the_decoding_that_wrote_the_answer(tiny_backbone):
    genpoe = make_reader(tiny_backbone)
    found = glance(genpoe, ASKED, PASSAGES[:2], 5)
    tokenizer = tiny_backbone.tokenizer
    ids = tokenizer(build_prompt(ASKED.question), add_special_tokens=False)["input_ids"]
    for number, token in enumerate(found.written):  # anew for each token, without a cache
        with genpoe.injected(PASSAGES[:2]), torch.inference_mode():
            logits = tiny_backbone.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            looked = genpoe.expert_layer.looked
        assert looked is not None
        assert tokenizer.decode([int(logits.argmax())]) == token
        assert found.null[number] == pytest.approx(float(looked.null_NT[0, -1]), abs=1e-5)
        for k, passage in enumerate(PASSAGES[:2]):
            size = len(encode_passage(tokenizer, passage, 512))
            weights = looked.units_NTKS[0, -1, k, :size].tolist()
            assert found.weights[number][k] == pytest.approx(weights, abs=1e-5)
            assert len(found.words[k]) == size
        total = found.null[number] + sum(map(sum, found.weights[number]))
        assert total == pytest.approx(1, abs=1e-4)
        ids.append(int(logits.argmax()))
    assert 1 <= len(found.written) <= 5


def test_another_hypernetwork_looks_at_no_words(tiny_backbone):
    hypernet = MeanSettings(layer=1, rank=2, hidden_width=8).build(tiny_backbone)
    with pytest.raises(SettingValueError, match="set ckpt_path to a checkpoint of hypernet=reader"):
        glance(GenPoE(tiny_backbone, hypernet), ASKED, PASSAGES[:1], 2)


def test_a_word_is_drawn_in_the_colour_of_its_token_of_the_answer(tmp_path):
    """The picture changes where the weight is, and there alone."""
    from matplotlib.image import imread

    def drawn(weights):
        words = ["Tova", " was", " born", " in", " Lisbon"]
        seen = Glance("Where?", ("Lisbon",), [" Lisbon"], [1 - sum(weights)], [words], [[weights]])
        draw([seen], tmp_path / "look.png")
        return torch.tensor(imread(tmp_path / "look.png"))[..., :3]

    plain, first, last = (drawn(w) for w in ([0.0] * 5, [0.8, 0, 0, 0, 0], [0, 0, 0, 0, 0.8]))
    passage = slice(plain.shape[0] // 2, None)  # the last line of the block
    columns = [
        (each[passage] - plain[passage]).abs().sum((0, 2)).nonzero().flatten()
        for each in (first, last)
    ]
    assert columns[0].min() >= 0
    assert columns[0].max() < columns[1].min()


def test_the_command_writes_the_weights_and_the_picture(tiny_backbone, tmp_path):
    folder = save_backbone(tiny_backbone, tmp_path / "backbone")
    make_reader(tiny_backbone).save(tmp_path / "last.ckpt")
    given = [*BIOS, f"backbone.name={folder}", "backbone.dtype=float32", "backbone.device=cpu"]
    given += ["max_new_tokens=2", "limit=2", f"paths.output_dir={tmp_path}"]
    found = look(composed("look", [*given, f"ckpt_path={tmp_path / 'last.ckpt'}", "k=1"]))
    written = json.loads((tmp_path / "look.json").read_text())
    assert [each["question"] for each in written] == [each.question for each in found]
    assert len(written) == 2
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SettingValueError, match="got none; set ckpt_path"):
        look(composed("look", given))
