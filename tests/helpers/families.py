"""Every family of models, tiny and random, through all that a backbone is used for.

    python -m tests.helpers.families

runs each family and writes the table into docs/backbones.md. `tests/test_families.py` compares that
table with what it finds.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch.nn import functional

from backbone.contract import check_contract
from backbone.final_ffn import FinalFFN
from backbone.model import Backbone, UnsupportedBackboneError
from backbone.tokens import encode_answer, encode_prompt
from dmoe.decoding import ConstantTrigger, OracleRouter
from dmoe.experts import Expert, ExpertSpec, Recipe
from dmoe.experts.expert import expert_at
from dmoe.method import DMoEMethod
from dmoe.training.grouped import GroupedTrainer
from dmoe.training.instances import encode_all
from dmoe.training.lessons import Instance
from dmoe.training.warmup import merge_expert
from genpoe.hypernet.mean import MeanSettings
from genpoe.method import GenPoEMethod
from genpoe.model import GenPoE
from genpoe.training.datamodule import QADataModule
from genpoe.training.module import GenPoEModule
from genpoe.training.settings import OptimSettings
from qa.data.bios import generate
from qa.method import AnsweringMethod, BaseMethod, QuestionInput, RAGMethod
from qa.passages.source import Selection
from qa.prompts import build_prompt
from tests.helpers.documented import DOCS
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_reader import make_reader

PAGE = DOCS / "backbones.md"
_BEGIN, _END = "<!-- families: begin -->\n", "<!-- families: end -->\n"
_HEAD = (
    "| family | such as | base, RAG | GenPoE | GenPoE, `hypernet=reader` | DMoE |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)

_WINDOW = {"sliding_window": 64}
_SPARSE = {
    **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    **{"shared_expert_intermediate_size": 16, "decoder_sparse_step": 1, "num_local_experts": 4},
}
# Multi-head latent attention, and a sparse block in the last layer.
_LATENT = {
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
    **{"v_head_dim": 8, "head_dim": 8, "num_key_value_heads": 4, "n_routed_experts": 4},
    **{"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16},
    **{"first_k_dense_replace": 1, "n_shared_experts": 1},
}
# The name of each family in transformers (model_type): models of it, and settings of a tiny one.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama 2 and 3, SmolLM2, Yi", {}),
    "mistral": ("Mistral", _WINDOW),
    "ministral": ("Ministral", _WINDOW),
    "qwen2": ("Qwen2, Qwen2.5", {}),
    "qwen3": ("Qwen3", {}),
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma 2", _WINDOW),
    "gemma3_text": ("Gemma 3", _WINDOW),
    "olmo": ("OLMo", {}),
    "olmo2": ("OLMo 2", {}),
    "olmo3": ("OLMo 3", _WINDOW),
    "smollm3": ("SmolLM3", {}),
    "stablelm": ("StableLM", {}),
    "starcoder2": ("StarCoder2", {}),
    "gpt_bigcode": ("StarCoder, SantaCoder", {"n_inner": 48}),
    "nemotron": ("Nemotron, Minitron", {}),
    "helium": ("Helium", {}),
    "exaone4": ("EXAONE 4", {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "granite": ("Granite", {"residual_multiplier": 0.22, "logits_scaling": 8.0}),
    "ernie4_5": ("ERNIE 4.5, dense", {}),
    "hunyuan_v1_dense": ("Hunyuan, dense", {}),
    "seed_oss": ("Seed-OSS", {}),
    "arcee": ("Arcee AFM", {}),
    "apertus": ("Apertus", {}),
    "diffllama": ("DiffLlama", {}),
    "phi3": ("Phi-3, Phi-4", {}),
    "glm": ("GLM-4-9B", {}),
    "glm4": ("GLM-4-0414", {}),
    "gpt2": ("GPT-2", {}),
    "gpt_neo": (
        "GPT-Neo",
        {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
    ),
    "gpt_neox": ("Pythia, GPT-NeoX", {}),
    "gptj": ("GPT-J", {"rotary_dim": 4, "n_inner": 48}),
    "codegen": ("CodeGen", {"rotary_dim": 4, "n_inner": 48}),
    "phi": ("Phi-1.5, Phi-2", {}),
    "falcon": ("Falcon", {"ffn_hidden_size": 48}),
    "cohere": ("Command R", {}),
    "cohere2": ("Command R7B, Aya", _WINDOW),
    "persimmon": ("Persimmon", {}),
    "bloom": ("BLOOM", {}),
    "mpt": ("MPT", {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "xglm": ("XGLM", {"ffn_dim": 48, "attention_heads": 4, "num_layers": 2, "d_model": 32}),
    "biogpt": ("BioGPT", {}),
    "olmoe": ("OLMoE", _SPARSE),
    "mixtral": ("Mixtral", _SPARSE),
    "qwen2_moe": ("Qwen1.5-MoE, Qwen2-57B-A14B", _SPARSE),
    "qwen3_moe": ("Qwen3-30B-A3B", _SPARSE),
    "phimoe": ("Phi-3.5-MoE", _SPARSE),
    "gpt_oss": ("gpt-oss", {**_SPARSE, **_WINDOW}),
    "granitemoe": ("Granite 3, sparse", _SPARSE),
    "deepseek_v2": ("DeepSeek-V2", _LATENT),
    "deepseek_v3": ("DeepSeek-V3, R1, Kimi K2", _LATENT),
    "glm4_moe": ("GLM-4.5", _LATENT),
    "lfm2": (
        "LFM2",
        {
            **{"layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
            **{"block_multiple_of": 1, "block_auto_adjust_ff_dim": False},
        },
    ),
    "mamba": ("Mamba", {"state_size": 4}),
    "bert": ("BERT, and other encoders", {"is_decoder": True}),
}

# What a refusal says, and what the table says instead.
_REASONS = {
    "is a sparse block": "its sparse block has a router of its own",
    "beside its attention": "its FFN runs beside the attention",
    "found no FFN": "its layers have no FFN module",
    "found no decoder layers": "no decoder",
    "does something else": "its FFN adds the residual itself",
    "reads a tree of tokens": "its layers cannot read a tree of tokens",
    "can be cut below a layer": "its decoder cannot be cut below a layer",
}


def run_family(name: str, tokenizer: Any, dataset: Any) -> tuple[str, ...]:
    """Use a tiny model of a family for everything; returns its row of the table.

    A use that the project refuses has "no" and the reason in the row. Any other error, and every
    number that an independent computation does not confirm, is raised.
    """
    models, settings = FAMILIES[name]
    uses = (
        *(_answers_alone_and_with_passages, _trains_and_answers, _reads_and_answers),
        _builds_and_answers,
    )
    try:
        backbone = make_backbone(name, tokenizer=tokenizer, **settings)
        check_contract(backbone)
    except UnsupportedBackboneError as error:
        return (f"`{name}`", models, f"no: {_reason(error)}", *["no"] * (len(uses) - 1))
    row = [f"`{name}`", models]
    for use in uses:
        try:
            use(backbone, dataset)
            row.append("yes")
        except UnsupportedBackboneError as error:
            row.append(f"no: {_reason(error)}")
    return tuple(row)


def _reason(error: Exception) -> str:
    return next(short for words, short in _REASONS.items() if words in str(error))


def _answers_alone_and_with_passages(backbone: Backbone, dataset: Any) -> None:
    for method in (BaseMethod(backbone, max_new_tokens=4), RAGMethod(backbone, max_new_tokens=4)):
        _answers(method, _inputs(dataset))


def _trains_and_answers(backbone: Backbone, dataset: Any) -> None:
    """Train a hypernetwork for two steps, and answer with what it generates."""
    hypernet = MeanSettings(rank=2, layer=1, hidden_width=8).build(backbone)
    module = GenPoEModule(backbone, hypernet, OptimSettings(lr=1e-2, warmup_steps=1))
    data = QADataModule(dataset, backbone.tokenizer, passages_per_batch=2, questions_per_passage=2)
    before = [parameter.detach().clone() for parameter in hypernet.parameters()]
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
            default_root_dir=folder, num_sanity_val_steps=0, limit_val_batches=0,
        ).fit(module, datamodule=data)  # fmt: skip
        moved = [bool((a != b).any()) for a, b in zip(before, hypernet.parameters(), strict=True)]
        assert any(moved)
    _answers_with(GenPoE(backbone, hypernet.eval()), dataset)


def _reads_and_answers(backbone: Backbone, dataset: Any) -> None:
    """Answer with a hypernetwork that reads, whose weights are random."""
    _answers_with(make_reader(backbone), dataset)


def _answers_with(genpoe: GenPoE, dataset: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "hypernet.ckpt")
        genpoe.save(path)
        method = GenPoEMethod(genpoe.backbone, str(path), max_new_tokens=4)
    base = _answers(BaseMethod(genpoe.backbone, max_new_tokens=4), _inputs(dataset))
    assert _answers(method, _inputs(dataset)) != base


def _builds_and_answers(backbone: Backbone, dataset: Any) -> None:
    """Train an expert for the first question's passage, and answer under it."""
    ffn = FinalFFN(backbone)
    spec = ExpertSpec(targets=[t for t in ("gate", "up", "down") if t in ffn.sizes])
    inputs = _inputs(dataset)
    lessons = [Instance(build_prompt(i.question.question), i.question.answers[0]) for i in inputs]
    encoded = encode_all(backbone.tokenizer, lessons, "answer", 512)
    id = inputs[0].selection.passages[0].id
    trained = GroupedTrainer(ffn, spec, Recipe(lr=1e-2, epochs=6)).train([id], [encoded])
    assert trained.last_loss < trained.first_loss
    expert = expert_at(trained.experts, 0)
    method = DMoEMethod(
        backbone, _OneExpert(id, expert, spec.scaling), OracleRouter, ConstantTrigger(True), 1,
        max_new_tokens=4,
    )  # fmt: skip
    predictions = method.answer(inputs)
    merged = Backbone(copy.deepcopy(backbone.model), backbone.tokenizer, backbone.name)
    merge_expert(FinalFFN(merged), expert, spec)
    with torch.inference_mode():
        wanted = [_nll(merged if n == 0 else backbone, method, i) for n, i in enumerate(inputs)]
    _compare([prediction.nll for prediction in predictions], wanted)


class _OneExpert:
    """A bank in memory."""

    def __init__(self, id: str, expert: Expert, scaling: float) -> None:
        self._id, self._expert, self.scaling = id, expert, scaling

    def __contains__(self, id: object) -> bool:
        return id == self._id

    def __iter__(self) -> Any:
        return iter([self._id])

    def get(self, ids: Sequence[str]) -> Mapping[str, torch.Tensor]:
        return {name: torch.stack([tensor] * len(ids)) for name, tensor in self._expert.items()}


def _inputs(dataset: Any) -> list[QuestionInput]:
    """Two questions of unequal lengths about different passages, each with its own passage."""
    by_length = sorted(dataset.split("dev"), key=lambda question: len(question.question))
    chosen = [by_length[0], by_length[-1]]
    return [QuestionInput(each, Selection.uniform(dataset.gold(each)[:1])) for each in chosen]


@torch.inference_mode()
def _answers(method: AnsweringMethod, inputs: Sequence[QuestionInput]) -> list[float]:
    """Answer a batch; it must be what each row gives alone, and the model's own likelihood."""
    together = method.answer(inputs)
    alone = [method.answer([each])[0] for each in inputs]
    assert [each.text for each in together] == [each.text for each in alone]
    _compare([each.nll for each in together], [each.nll for each in alone])
    wanted = [_nll(method.backbone, method, each) for each in inputs]
    _compare([each.nll for each in together], wanted)
    return [each.nll for each in together]


def _nll(backbone: Backbone, method: AnsweringMethod, input: QuestionInput) -> float:
    """The likelihood of an answer, by one pass of the model over all tokens."""
    prompt = encode_prompt(backbone.tokenizer, method.prompt(input))
    answer = encode_answer(backbone.tokenizer, input.question.answers[0])
    ids = torch.tensor([[*prompt, *answer]])
    acting = method.injected([input]) if isinstance(method, GenPoEMethod) else nullcontext()
    with acting:
        logits = backbone.model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return float(functional.cross_entropy(logits.float(), ids[0, len(prompt) :]))


def _compare(ours: Sequence[float], wanted: Sequence[float]) -> None:
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(wanted), rtol=1e-3, atol=1e-3)


def make_dataset() -> Any:
    """A few invented entities, with a passage and questions on each."""
    return generate(seed=0, train_entities=6, dev_entities=4, distractor_entities=0)


def table(rows: Sequence[Sequence[str]]) -> str:
    """The table of the documentation."""
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def documented_table() -> str:
    """The table that the documentation has now."""
    return PAGE.read_text("utf-8").partition(_BEGIN)[2].partition(_END)[0]


def main() -> None:
    """Run every family, and write the table into the documentation."""
    from tests.helpers.tiny import make_tokenizer

    tokenizer, dataset = make_tokenizer(), make_dataset()
    rows = [run_family(name, tokenizer, dataset) for name in FAMILIES]
    before, _, rest = PAGE.read_text("utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    PAGE.write_text(f"{before}{_BEGIN}{table(rows)}{_END}{after}", "utf-8")


if __name__ == "__main__":
    main()
