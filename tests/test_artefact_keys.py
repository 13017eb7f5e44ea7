"""Caches and artefacts know all that made them: one thing is changed, and none is used again.

What else decides an artefact (a text, a rank, a rate, k) is changed in the tests of its own part;
``docs/artefacts.md`` says which key holds what. The fingerprint itself is tested in
``tests/backbone/identity``.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tokenizers import normalizers

from backbone import embedded
from backbone.final_ffn import FinalFFN
from backbone.lora.adapter import LoraAdapter, LoraSettings
from backbone.lora.record import AdapterRecord
from backbone.lora.settings import AdapterError
from backbone.model import Backbone
from backbone.split import SplitBackbone, Trunk
from benchmarks.papers.cells import key_of
from dmoe.ablation.key import settings_key
from dmoe.augmentation import prompts as augmentation_prompts
from dmoe.bank import Bank, BankError, BankSpec, ExpertLayout
from dmoe.baselines.prag.adapters import PassageAdapters
from dmoe.baselines.prag.layer_ffns import LayerFFNs
from dmoe.baselines.sft_lora.method import SFTLoRAMethod
from dmoe.baselines.sft_lora.module import SFTModule
from dmoe.commands.ablation import Cell, _augmentations
from dmoe.decoding import ConstantTrigger, OracleRouter
from dmoe.experts.expert import ExpertSpec, expert_at
from dmoe.experts.peft import export_adapter, import_adapter
from dmoe.experts.recipe import Recipe
from dmoe.method import load_dmoe
from dmoe.training.instances import encode_all
from dmoe.training.lessons import Lesson, prompt_of
from dmoe.training.warmup import warm_backbone
from genpoe.codes import CodeBank, CodeSpec
from genpoe.editors.parts.covariance import covariance_key
from genpoe.editors.trained.mend import MEND, MENDNetworks
from genpoe.editors.trained.module import EditorModule
from genpoe.editors.trained.networks import TrainedSettings
from genpoe.hypernet.mean import MeanSettings
from genpoe.model import BackboneMismatchError, GenPoE
from genpoe.training.answer_states import AnswerStates
from genpoe.training.frozen_states import frozen_states
from plumbing.storage.jsonl import write_jsonl
from plumbing.storage.manifest import write_manifest
from plumbing.training.checkpoint import AtomicCheckpointIO, CheckpointError
from qa.evaluation.pairing import differences
from qa.evaluation.run_folder import read_run
from qa.prompts import PROMPT_OF_0_1, build_prompt, prompt_template
from qa.writing.asking import Asker
from qa.writing.prompts import Prompt
from qa.writing.writer import BackboneWriter, WritingRequest
from retrieval.passage import Passage
from tests.helpers.tiny import make_backbone, save_backbone
from tests.helpers.tiny_reader import make_reader

CONF = str(Path(__file__).parents[1] / "conf")

pytestmark = pytest.mark.usefixtures("no_sync")

PASSAGE = Passage("p0", "Tova Blick", "Tova Blick was born in Lisbon.")
PAIRS = (("Where was Tova Blick born?", "Lisbon"),)
SPEC, RECIPE = ExpertSpec(2, 4.0), Recipe(lr=1e-2)
EDITOR = TrainedSettings([0], rank=2, normalise=False)


def an_edited_row(backbone: Backbone) -> None:
    with torch.no_grad():
        backbone.embedding.weight[301] += 0.5


def an_added_token(backbone: Backbone) -> None:
    backbone.tokenizer.add_tokens(["Lisbon"])


def a_normaliser(backbone: Backbone) -> None:
    backbone.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


@pytest.fixture
def backbone(tiny_tokenizer: Any) -> Backbone:
    return make_backbone(tokenizer=copy.deepcopy(tiny_tokenizer), vocab_size=400)


@pytest.fixture(params=[an_edited_row, an_added_token])
def changed(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Backbone:
    """The backbone with one thing that is another."""
    backbone = make_backbone(tokenizer=copy.deepcopy(tiny_tokenizer), vocab_size=400)
    request.param(backbone)
    return backbone


@pytest.fixture
def same(tiny_tokenizer: Any) -> Backbone:
    """The backbone, made once more."""
    return make_backbone(tokenizer=copy.deepcopy(tiny_tokenizer), vocab_size=400)


def set_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa.prompts.INSTRUCTION", "Answer in Latin.")


def test_the_prompt_is_known_by_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as this holds, what version 0.1 made is as good as new."""
    assert prompt_template() == PROMPT_OF_0_1
    filled = prompt_template().format(title=PASSAGE.title, text=PASSAGE.text, question="Who?")
    assert filled == build_prompt("Who?", [PASSAGE])
    set_instruction(monkeypatch)
    assert "Answer in Latin." in prompt_template()


def spec_of(backbone: Backbone, **recipe: Any) -> BankSpec:
    layout = ExpertLayout(SPEC.shapes(FinalFFN(backbone).sizes), "float32")
    formats = recipe.setdefault("formats", ["qa"])
    prompt = {} if (asked := prompt_of(formats)) is None else {"prompt": asked}
    return BankSpec(backbone.name, backbone.fingerprint, layout, SPEC.alpha, prompt | recipe)


def test_bank(backbone: Backbone, same: Backbone, changed: Backbone, tmp_path: Path) -> None:
    Bank.create(tmp_path / "bank", spec_of(backbone))
    Bank.create(tmp_path / "bank", spec_of(same), exist_ok=True, backbone=same)
    Bank.open(tmp_path / "bank", same)
    differing = changed.identity.difference(backbone.fingerprint)
    with pytest.raises(BankError, match=f"what differs: {differing}; use that model"):
        Bank.open(tmp_path / "bank", changed)
    with pytest.raises(BankError, match=f"what differs: {differing}; use that model"):
        Bank.create(tmp_path / "bank", spec_of(changed), exist_ok=True, backbone=changed)


def test_bank_of_another_prompt(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("asks", "old", "texts")]
    specs = [spec_of(backbone), spec_of(backbone), spec_of(backbone, formats=["passage"])]
    del specs[1].recipe["prompt"]  # as version 0.1 wrote it
    for folder, spec in zip(folders, specs, strict=True):
        Bank.create(folder, spec)
    specs[1] = spec_of(backbone)
    Bank.create(folders[1], specs[1], exist_ok=True, backbone=backbone)
    set_instruction(monkeypatch)
    for folder in folders[:2]:
        with pytest.raises(BankError, match=r"recipe\.prompt: .*Latin.* here, .*short phrase"):
            Bank.create(folder, spec_of(backbone), exist_ok=True, backbone=backbone)
    texts = spec_of(backbone, formats=["passage"])  # no question is asked in these
    Bank.create(folders[2], texts, exist_ok=True, backbone=backbone)


@pytest.mark.parametrize(
    ("recipe", "warns"), [({}, True), ({"prompt": None}, True), ({"formats": ["passage"]}, False)]
)
def test_dmoe_with_a_bank_of_another_prompt(
    recipe: dict[str, Any],
    warns: bool,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = spec_of(backbone, **recipe)
    if "prompt" in recipe:
        del spec.recipe["prompt"]  # as version 0.1 wrote it
    expert = {name: torch.zeros(1, *shape) for name, shape in spec.layout.shapes.items()}
    Bank.create(tmp_path / "bank", spec).add([PASSAGE], expert)
    load = functools.partial(
        load_dmoe, backbone, tmp_path / "bank", router=OracleRouter, trigger=ConstantTrigger(True)
    )
    load()
    assert "prompt" not in caplog.text
    set_instruction(monkeypatch)
    load()
    assert (f"the bank {tmp_path / 'bank'} was trained under the prompt" in caplog.text) == warns


def codes_of(genpoe: GenPoE, keys: str = "int8") -> CodeSpec:
    return CodeSpec.of(genpoe.backbone, genpoe.hypernet, genpoe.max_passage_tokens, keys)


def test_bank_of_codes(
    backbone: Backbone, same: Backbone, changed: Backbone, tmp_path: Path
) -> None:
    genpoe = make_reader(backbone)
    bank = CodeBank.create(tmp_path, codes_of(genpoe))
    bank.add([PASSAGE], genpoe.code(genpoe.tokens([PASSAGE])))
    make_reader(same, dropout=0.5).use_codes(CodeBank.open(tmp_path, same))
    CodeBank.create(tmp_path, codes_of(make_reader(same)), exist_ok=True, backbone=same)
    differing = changed.identity.difference(backbone.fingerprint)
    with pytest.raises(BankError, match=f"what differs: {differing}; use that model"):
        make_reader(changed).use_codes(bank)
    for other, said in (
        (make_reader(backbone, seed=1), "hypernet_sha256: "),
        (make_reader(backbone, lexical=False), r"hypernet\.lexical: "),
        (GenPoE(backbone, genpoe.hypernet, 7), "max_passage_tokens: 7 here, 512 in the bank"),
    ):
        with pytest.raises(BankError, match=said):
            other.use_codes(bank)
        with pytest.raises(BankError, match=said):
            CodeBank.create(tmp_path, codes_of(other), exist_ok=True, backbone=backbone)
    for spec, said in (
        (codes_of(genpoe, "float16"), "keys: 'float16' here, 'int8' in the bank"),
        (replace(codes_of(genpoe), backbone_dtype="bfloat16"), "backbone_dtype: 'bfloat16' here"),
    ):
        with pytest.raises(BankError, match=said):
            CodeBank.create(tmp_path, spec, exist_ok=True, backbone=backbone)
    assert not list(bank.missing([PASSAGE]))
    assert list(bank.missing([replace(PASSAGE, title="Tova")]))


def make_genpoe(backbone: Backbone) -> GenPoE:
    settings = MeanSettings(layer=1, rank=2, hidden_width=8, embedding_scaling="none")
    return GenPoE(backbone, settings.build(backbone).eval())


def test_genpoe_checkpoint(
    backbone: Backbone, same: Backbone, changed: Backbone, tmp_path: Path
) -> None:
    make_genpoe(backbone).save(tmp_path / "last.ckpt")
    GenPoE.from_checkpoint(tmp_path / "last.ckpt", same)
    differing = changed.identity.difference(backbone.fingerprint)
    with pytest.raises(BackboneMismatchError, match=f"what differs: {differing}; choose that"):
        GenPoE.from_checkpoint(tmp_path / "last.ckpt", changed)


def save_editor(backbone: Backbone, path: Path) -> None:
    networks = MENDNetworks(backbone, EDITOR)
    module = EditorModule(backbone, networks)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)


def test_editor_checkpoint(
    backbone: Backbone,
    same: Backbone,
    changed: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "last.ckpt"
    save_editor(backbone, path)
    MEND.load(same, EDITOR, path)
    differing = changed.identity.difference(backbone.fingerprint)
    with pytest.raises(BackboneMismatchError, match=f"what differs: {differing}; choose that"):
        MEND.load(changed, EDITOR, path)
    assert "prompt" not in caplog.text
    set_instruction(monkeypatch)
    MEND.load(same, EDITOR, path)
    assert f"the editor of {path} was trained under the prompt" in caplog.text


def test_covariances(backbone: Backbone, same: Backbone, changed: Backbone) -> None:
    key = covariance_key(backbone, [0, 1], ["one", "two"], 64)
    assert covariance_key(same, [1, 0], ["one", "two"], 64) == key
    others = [
        covariance_key(same, [0], ["one", "two"], 64),
        covariance_key(same, [0, 1], ["two", "one"], 64),
        covariance_key(same, [0, 1], ["one", "two"], 63),
    ]
    same.model.bfloat16()
    others.append(covariance_key(same, [0, 1], ["one", "two"], 64))
    assert len({key, *others}) == 5
    weights_are_others = changed.identity.weights != backbone.identity.weights
    assert (covariance_key(changed, [0, 1], ["one", "two"], 64) != key) == weights_are_others


def test_genpoe_checkpoint_of_another_prompt(
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "last.ckpt"
    make_genpoe(backbone).save(path)
    GenPoE.from_checkpoint(path, backbone)
    assert not caplog.records
    set_instruction(monkeypatch)
    loaded = GenPoE.from_checkpoint(path, backbone)
    assert "was trained under the prompt '{title}" in caplog.text
    loaded.save(tmp_path / "again.ckpt")  # it keeps what it was trained under
    assert torch.load(tmp_path / "again.ckpt", weights_only=True)["prompt"] == PROMPT_OF_0_1


def backbones_in(
    monkeypatch: pytest.MonkeyPatch, part: type[SplitBackbone | Trunk], name: str
) -> list[Backbone]:
    """The backbones with which a method of a cut decoder is called from now on."""
    called: list[Backbone] = []
    method = getattr(part, name)

    def noted(self: Any, *inputs: Any) -> torch.Tensor:
        called.append(self.backbone)
        return method(self, *inputs)

    monkeypatch.setattr(part, name, noted)
    return called


def test_frozen_states(
    backbone: Backbone,
    same: Backbone,
    changed: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed = backbones_in(monkeypatch, SplitBackbone, "below")
    for each in (backbone, same, changed, changed):
        frozen_states(SplitBackbone(each, 1), [[5, 6, 7]], 1, tmp_path)
    assert computed == [backbone, changed]


def test_states_at_answers(
    backbone: Backbone,
    same: Backbone,
    changed: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed = backbones_in(monkeypatch, Trunk, "residual")

    def states(backbone: Backbone) -> None:
        encode = backbone.tokenizer.encode
        asked = [(encode(build_prompt(question)), encode(answer)) for question, answer in PAIRS]
        AnswerStates(FinalFFN(backbone), [1], asked, tmp_path)

    for each in (backbone, same, changed, changed):
        states(each)
    set_instruction(monkeypatch)
    states(backbone)
    assert computed == [backbone, changed, backbone]


def test_prag_adapter(
    backbone: Backbone,
    same: Backbone,
    changed: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = {"passage_id": "p0", "rewrite": None}
    row["qa"] = [{"question": question, "answer": answer} for question, answer in PAIRS]  # type: ignore[assignment]
    write_jsonl(tmp_path / "augmentations.jsonl", [row])

    def trained(backbone: Backbone, recipe: Recipe = RECIPE) -> int:
        source, cache = tmp_path / "augmentations.jsonl", tmp_path / "cache"
        ffns = LayerFFNs(backbone, 1)
        adapters = PassageAdapters(ffns, source, ["qa"], SPEC, recipe, cache)
        adapters.load([PASSAGE])
        return adapters.trained

    assert [trained(each) for each in (backbone, same, changed, changed)] == [1, 0, 1, 0]
    set_instruction(monkeypatch)
    assert trained(same) == 1


def test_sft_lora_adapter(
    backbone: Backbone,
    same: Backbone,
    changed: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "adapter"
    LoraAdapter.new(backbone, LoraSettings(2)).save(folder, prompt_of(["qa"]))
    differing = changed.identity.difference(backbone.fingerprint)
    with pytest.raises(AdapterError, match=f"what differs: {differing}; use that model"):
        SFTLoRAMethod(changed, folder)
    SFTLoRAMethod(same, folder)
    assert not caplog.records
    set_instruction(monkeypatch)
    SFTLoRAMethod(same, folder)
    assert f"the adapter of {folder} was trained under the prompt" in caplog.text


def sft_module(backbone: Backbone, alpha: float = 4.0) -> SFTModule:
    lesson = Lesson(PASSAGE, PAIRS)
    instances = encode_all(backbone.tokenizer, lesson.instances(["qa"]), "answer", 64)
    return SFTModule(backbone, LoraAdapter.new(backbone, LoraSettings(2, alpha)), instances, RECIPE)


def test_sft_lora_run_that_goes_on(
    backbone: Backbone, same: Backbone, changed: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sft_module(backbone)
    checkpoint: dict[str, Any] = {"hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    sft_module(same).on_load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=r"had another (backbone|instances)"):
        sft_module(changed).on_load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="had another alpha"):
        sft_module(same, alpha=8.0).on_load_checkpoint(checkpoint)
    old = checkpoint | {"hyper_parameters": {**module.hparams}}
    del old["hyper_parameters"]["alpha"]  # as version 0.1 wrote it
    sft_module(same).on_load_checkpoint(old)
    set_instruction(monkeypatch)
    with pytest.raises(CheckpointError, match="had another instances"):
        sft_module(same).on_load_checkpoint(checkpoint)


def test_warm_up_and_exported_expert(
    backbone: Backbone,
    changed: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ffn = FinalFFN(backbone)
    expert = expert_at({n: torch.ones(1, *s) for n, s in SPEC.shapes(ffn.sizes).items()}, 0)
    record = AdapterRecord(backbone.name, backbone.fingerprint, prompt_of(["qa"]))
    export_adapter(tmp_path / "adapter", expert, SPEC, ffn, record)
    import_adapter(tmp_path / "adapter", ffn)
    with pytest.raises(AdapterError, match="what differs"):
        import_adapter(tmp_path / "adapter", FinalFFN(changed))
    save_backbone(backbone, tmp_path / "model")
    warm = warm_backbone(tmp_path / "adapter", str(tmp_path / "model"), dtype="float32")
    assert warm.identity.difference(backbone.fingerprint).startswith("what was merged")
    assert not caplog.records
    set_instruction(monkeypatch)
    again = warm_backbone(tmp_path / "adapter", str(tmp_path / "model"), dtype="float32")
    assert again.fingerprint == warm.fingerprint
    assert "the warm-up" in caplog.text
    save_backbone(changed, tmp_path / "model")
    with pytest.raises(AdapterError, match="what differs"):
        warm_backbone(tmp_path / "adapter", str(tmp_path / "model"), dtype="float32")


def a_chat_template(backbone: Backbone) -> None:
    backbone.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def another_stop(backbone: Backbone) -> None:
    backbone.model.generation_config.eos_token_id = [5]


def bfloat16(backbone: Backbone) -> None:
    backbone.model.to(torch.bfloat16)


CHANGES = [an_edited_row, an_added_token, a_normaliser, a_chat_template, another_stop, bfloat16]


@pytest.mark.parametrize("change", CHANGES)
def test_answers_of_an_augmenting_backbone(change: Any, backbone: Backbone, same: Backbone) -> None:
    change(backbone)
    assert BackboneWriter(backbone).fingerprint != BackboneWriter(same).fingerprint


def test_answers_that_version_0_1_cached(backbone: Backbone, tmp_path: Path) -> None:
    writer = BackboneWriter(backbone)
    request = WritingRequest((("user", "Who?"),), 4, 0)
    asker = Asker(writer, tmp_path)
    old = asker._key(request, fingerprint=f"{backbone.weights.legacy} 0.7 0")
    asker._cache.append([(old, "an old answer")])
    key = asker._key(request)
    assert asker._read({key: _wanted(request)}) == {key: "an old answer"}
    an_edited_row(backbone)
    edited = Asker(BackboneWriter(backbone), tmp_path)
    assert edited._key(request) != key


def _wanted(request: WritingRequest) -> Any:
    from qa.writing.asking import _Wanted

    return _Wanted(request, "p0")


def test_cells_banks_and_augmentations_of_an_ablation(monkeypatch: pytest.MonkeyPatch) -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("ablation", ["ablation=k", "augmenter=questions", "paths.output_dir=out"])
    cell, made = Cell({}, config).key, _augmentations(config)
    built = settings_key(config, ["recipe"], prompt_template())
    set_instruction(monkeypatch)
    assert Cell({}, config).key != cell
    assert settings_key(config, ["recipe"], prompt_template()) != built
    assert _augmentations(config) == made
    other = Prompt("Say it again: {passage}")
    monkeypatch.setattr(augmentation_prompts, "PAPER_REWRITE", other)
    assert _augmentations(config) != made


def test_cells_of_a_papers_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_text("one")
    words = ["method=rag", f"backbone.name={tmp_path}"]
    before = key_of("evaluate", words, {})
    assert key_of("evaluate", words, {}) == before
    (tmp_path / "weights").write_text("another")
    after = key_of("evaluate", words, {})
    set_instruction(monkeypatch)
    assert len({before, after, key_of("evaluate", words, {})}) == 3


def test_the_record_of_a_hash_is_no_part_of_an_ablations_key(tmp_path: Path) -> None:
    config = OmegaConf.create({"backbone": {"name": str(tmp_path)}})
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = settings_key(config, ["backbone"])
    (tmp_path / ".weights-hash.json").write_text("{}")
    assert settings_key(config, ["backbone"]) == before
    (tmp_path / "tokenizer.json").write_text("{}")
    assert settings_key(config, ["backbone"]) != before


def test_run_folders_that_asked_under_other_prompts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = {"old": None, "same": PROMPT_OF_0_1, "other": "{question}"}
    for name, prompt in prompts.items():
        row = {"id": "q0", "answers": ["a"], "em": 1.0, "nll": 1.0}
        write_jsonl(tmp_path / name / "predictions.jsonl", [row])
        (tmp_path / name / "metrics.json").write_text('{"em": 100.0, "nll": 1.0, "n": 1}')
        if prompt is not None:
            content = json.dumps({"prompt": prompt})
            (tmp_path / name / "made_with.json").write_text(content)
    old, same, other = (read_run(tmp_path / name) for name in prompts)
    with caplog.at_level(logging.WARNING):
        differences(old, same)
        assert not caplog.records
        differences(old, other)
    assert "asked under other prompts" in caplog.text


def test_the_conversion_of_the_embedded_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    files = ["model.safetensors"]
    for settings, is_intact in (
        (embedded._made_with(), True),
        ({"source_sha256": embedded.GGUF_SHA256}, True),  # as version 0.1 wrote it
        ({"source_sha256": "another file"}, False),
        ({}, False),
    ):
        write_manifest(tmp_path, settings, files)
        assert embedded._intact(tmp_path) == is_intact
    write_manifest(tmp_path, embedded._made_with(), files)
    monkeypatch.setattr("transformers.__version__", "another")
    assert not embedded._intact(tmp_path)
