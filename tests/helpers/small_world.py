"""A world in which every command of the documentation runs in a second or two.

A random-weight model of two layers, a few invented entities, and all that commands ask for: an
index, a bank, a checkpoint, adapters. Each is made by its own command when one first asks for it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from tests.helpers.documented import ROOT, Command

CONF = ROOT / "conf"
# Editors' layers that a model of two layers has.
EDITED_LAYERS = {
    "method=ultraedit": "editor.recipes.tuned.layers=[0,1]",
    "method=grace": "editor.recipes.tuned.layer=1",
    "method=mend": "editor.recipes.tuned={layers: [1], rank: 4}",
}
BIOS = (
    *("data.train_entities=8", "data.dev_entities=4", "data.distractor_entities=2"),
    *("data.test_entities=2", "data.unseen_entities=2"),
)

TWINS = ("data.train_pairs=4", "data.dev_pairs=2", "data.test_pairs=2")


def composed(script: str, overrides: Sequence[str], with_hydra: bool = False) -> Any:
    """The configuration of a script with these overrides; the last of two for a key counts."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(script, list(overrides), return_hydra_config=with_hydra)


@contextmanager
def as_hydra_runs(config: Any) -> Iterator[None]:
    """Take Hydra's own part out of a configuration, and tell it to whoever asks Hydra."""
    hydra = HydraConfig.instance()
    hydra.set_config(config)
    OmegaConf.set_readonly(config, False)
    with open_dict(config):
        del config["hydra"]
    try:
        yield
    finally:
        hydra.cfg = None


def function_of(script: str) -> Callable[..., Any]:
    """The function that ``scripts/<script>.py`` calls, by the dotted name that stands there."""
    source = (ROOT / "scripts" / f"{script}.py").read_text("utf-8")
    named = re.search(r'(?:command|tool)\(\s*(?:"\w+",\s*)?"([\w.]+)"', source)
    assert named is not None
    module, _, name = named[1].rpartition(".")
    return getattr(import_module(module), name)


class World:
    """What stands behind the placeholders of the documentation.

    Args:
        root: An empty folder.
        backbone: A folder with a tiny model and its tokenizer.
    """

    def __init__(self, root: Path, backbone: Path) -> None:
        self._root, self._backbone = root, backbone
        self._runs = 0
        self.configs: dict[Path, Any] = {}  # of what ran in this process, by run folder

    def run(self, command: Command) -> Path:
        """Run a command at small size; returns its run folder."""
        return self._run(command.script, self._filled(command))

    def words(self, command: Command) -> tuple[list[str], Path]:
        """What a process of its own is told for the same, and its run folder."""
        given, output = self._filled(command), self.new_folder
        small = self._small(command.script, given)
        return [*given, *small, f"hydra.run.dir={output}"], output

    @property
    def environment(self) -> dict[str, str]:
        """The environment of such a process."""
        return os.environ | {"PYTHONPATH": str(ROOT)}

    def _filled(self, command: Command) -> list[str]:
        made = r"(?<=bank\.dir=)BANK$|(?<=index_dir=)INDEX$"  # by these commands, so not there yet
        overrides = [
            re.sub(made, str(self.new_folder), word)
            if command.script.startswith(("build_", "encode_"))
            else word
            for word in command.overrides
        ]
        return [self._fill(override) for override in overrides]

    def _run(self, script: str, overrides: Sequence[str]) -> Path:
        self._runs += 1
        output = self._root / f"run{self._runs}"
        given = [word for word in overrides if not word.startswith("hydra.run.dir=")]
        if script == "bank":
            function_of("bank")([*given, f"hydra.run.dir={output}"])
            return output
        small = self._small(script, given)
        if script in ("ablation", "reader_study"):  # they compose from the command line themselves
            words = [*given, *small, f"hydra.run.dir={output}"]
            script_line = [sys.executable, f"scripts/{script}.py", *words]
            subprocess.run(script_line, cwd=ROOT, env=self.environment, check=True)
            return output
        output.mkdir()
        config = composed(script, [*given, *small, f"paths.output_dir={output}"], with_hydra=True)
        self.configs[output] = config.copy()
        with as_hydra_runs(config):
            function_of(script)(config)
        return output

    def _small(self, script: str, given: Sequence[str]) -> list[str]:
        small = [] if "report" in script else [f"paths.cache_dir={self._root / 'cache'}"]
        data = [word for word in given if word.startswith("data=")]
        reports = ("report", "sequential_report")
        without = script in (*reports, "build_index", "augment") or "squad" in " ".join(given)
        if script == "twins" or "twins" in " ".join(given):
            small += TWINS
        elif data == ["data=bios"] or (not data and not without):
            small += BIOS
        modelless = ("build_index", "evaluate_retrieval", "export_data", "train_reranker")
        if script not in (*reports, *modelless):
            small += [f"backbone.name={self._backbone}", "backbone.dtype=float32"]
        if any(word.startswith("retriever=") for word in given) and "evaluate" in script:
            small.append("pipeline.n=4")
        small += [layers for method, layers in EDITED_LAYERS.items() if method in given]
        width = () if "hypernet=shared" in given else ("hypernet.hidden_width=8",)
        hypernet = ("hypernet.rank=2", "hypernet.layer=1", *width)
        if "reader" in " ".join([script, *given]):
            layers = ("hypernet.layer=1", "hypernet.read_layer=1", "hypernet.query_layers=[1]")
            hypernet = (*layers, "hypernet.common_rank=2", *width)
        trainer = ("trainer.devices=1", "trainer.accelerator=cpu")
        batching = ("batching.train_limit=12", "batching.val_limit=4", "logger=csv")
        answering = ("limit=2", "max_new_tokens=2")
        return small + {
            "ablation": [*answering, *trainer],
            "build_experts": [*trainer],
            "crossed": [*answering, "batch_size=2"],
            "evaluate": [*answering, "batch_size=2"],
            "evaluate_retrieval": ["limit=2", "ks=[1,2]"],
            "look": [*answering],
            "mean_study": [],
            "measure_covariances": ["editor.recipes.tuned.layers=[0]"],
            "quickstart": [
                *("reader.hypernet.read_layer=1", "reader.hypernet.query_layers=[1]"),
                *("reader.hypernet.common_rank=2", "reader.hypernet.layer=1"),
                *(*hypernet, *batching, *trainer, "trainer.max_epochs=1"),
                *("evaluation.limit=2", "evaluation.limit_rag=2", "evaluation.max_new_tokens=2"),
            ],
            "reader_study": [
                *hypernet,
                *(*batching, *trainer, "trainer.max_epochs=1", "study.seeds=[0]"),
                "study.without=[nothing,lexical]",
            ],
            "train_editor": [
                *("editor.recipes.tuned.layers=[1]", "facts.limit=12", "facts.held_out=2"),
                *("editor.recipes.tuned.rank=4", *trainer, "trainer.max_epochs=1"),
            ],
            "sequential_edit": [
                *("edits=2", "batch=1", "pairs=1", "cell=1", "final=1", "rag_cell=1"),
                *("locality=2", "health=1", "max_new_tokens=2"),
            ],
            "train_hypernet": [*hypernet, *batching, *trainer, "trainer.max_epochs=1"],
            "train_reranker": [
                *("mining.limit=6", "mining.val_limit=2", "mining.depth=4", *trainer),
                *("batching.batch_size=2", "batching.negatives=1"),
            ],
            "train_sft_lora": [*trainer, "recipe.epochs=1"],
            "train_warmup": ["instances.limit=4"],
            "tune_editor": [
                *("edits=2", "trials.ultraedit.eta=[1.0e-3]", "trials.ultraedit.layers=[[0,1]]")
            ],
            "twins": [*answering, "batch_size=2"],
            "write_facts": ["material.pairs=1"],
        }.get(script, [])

    def _fill(self, override: str) -> str:
        for placeholder, name in _PLACEHOLDERS.items():
            found = re.search(placeholder, override)
            if found:
                before, after = override[: found.start()], override[found.end() :]
                override = f"{before}{getattr(self, name)}{after}"
        return override

    @cached_property
    def folder(self) -> Path:
        """A data set as a folder."""
        from hydra.utils import instantiate

        from qa.data.dataset import save_folder

        dataset = instantiate(composed("evaluate", BIOS).data)
        save_folder(dataset, self._root / "data")
        return self._root / "data"

    @cached_property
    def passages(self) -> Path:
        """A corpus."""
        return self.folder / "passages.jsonl.gz"

    @cached_property
    def table(self) -> Path:
        """A data set as a CSV file."""
        path = self._root / "table.csv"
        path.write_text(
            "split,question,answer,title,text\n"
            "dev,Where was Tova Blick born?,Lisbon,Tova Blick,Tova Blick was born in Lisbon.\n"
            "dev,What did Olen Marsk write?,Salt,Olen Marsk,Olen Marsk wrote Salt.\n",
            "utf-8",
        )
        return path

    @cached_property
    def table_corpus(self) -> Path:
        """The passages of that CSV file."""
        path = self._root / "corpus.jsonl"
        path.write_text(
            '{"id": "csv-0", "title": "Tova Blick", "text": "Tova Blick was born in Lisbon."}\n'
            '{"id": "csv-1", "title": "Olen Marsk", "text": "Olen Marsk wrote Salt."}\n',
            "utf-8",
        )
        return path

    @cached_property
    def index(self) -> Path:
        """A BM25 index of the corpus."""
        return self._index(self.passages, "bm25")

    @cached_property
    def augmentations(self) -> Path:
        """The run folder of an augmentation."""
        made = ["data=bios", "augmenter=questions", "augmenter.split=dev"]
        return self._run("augment", made)

    @cached_property
    def surrogate_index(self) -> Path:
        """A BM25 index of the surrogates."""
        return self._index(self.augmentations / "surrogates.jsonl", "surrogates")

    @property
    def new_folder(self) -> Path:
        """A path where nothing is yet."""
        self._runs += 1
        return self._root / f"new{self._runs}"

    def _index(self, corpus: Path, name: str) -> Path:
        made = [f"corpus.path={corpus}", f"retriever.index_dir={self._root / name}"]
        self._run("build_index", ["retriever=bm25", *made])
        return self._root / name

    @cached_property
    def _bank(self) -> Path:
        folder = self._root / "bank"
        self._run("build_experts", ["data=bios", "instances.split=dev", f"bank.dir={folder}"])
        return folder

    @property
    def bank(self) -> Path:
        """A bank of its own for each that asks, since commands change banks."""
        self._runs += 1
        return Path(shutil.copytree(self._bank, self._root / f"bank{self._runs}"))

    @property
    def bank_without(self) -> Path:
        """A bank that lacks the expert of `passage_id`."""
        folder = self.bank
        function_of("bank")(["remove", str(folder), "--id", self.passage_id])
        return folder

    @property
    def passage_id(self) -> str:
        """A passage that has an expert."""
        from dmoe.bank.bank import Bank

        return next(id for id, _ in Bank.open(self._bank).entries())

    @cached_property
    def peft_adapter(self) -> Path:
        """An expert as a PEFT adapter."""
        folder = self._root / "peft"
        given = ["export-peft", str(self.bank), str(folder), "--id", self.passage_id]
        function_of("bank")(given)
        return folder

    @cached_property
    def checkpoint(self) -> Path:
        """A trained hypernetwork."""
        return self._run("train_hypernet", ["experiment=genpoe/bios"]) / "checkpoints/last.ckpt"

    @cached_property
    def reader(self) -> Path:
        """A trained hypernetwork that reads."""
        given = ["experiment=genpoe/bios_reader"]
        return self._run("train_hypernet", given) / "checkpoints/last.ckpt"

    @cached_property
    def codes(self) -> Path:
        """A bank of codes."""
        folder = self._root / "codes"
        self._run("encode_passages", [f"ckpt_path={self.reader}", f"bank.dir={folder}"])
        return folder

    @cached_property
    def editor(self) -> Path:
        """A trained editor."""
        return self._run("train_editor", ["editor=mend"]) / "checkpoints/last.ckpt"

    @cached_property
    def sft_adapter(self) -> Path:
        """An adapter of SFT-LoRA."""
        return self._run("train_sft_lora", ["data=bios", "instances.split=dev"]) / "adapter"

    @cached_property
    def warm_adapter(self) -> Path:
        """An adapter of the warm-up stage."""
        return self._run("train_warmup", ["data=bios"]) / "adapter"

    @cached_property
    def reranker(self) -> Path:
        """A trained reranker."""
        made = [f"data.dir={self.folder}", f"corpus.path={self.passages}"]
        made += ["data=squad", "retriever=bm25", f"retriever.index_dir={self.index}"]
        return self._run("train_reranker", made) / "reranker"

    @cached_property
    def facts(self) -> Path:
        """A file with a fact of each passage."""
        from hydra.utils import instantiate

        from plumbing.storage.jsonl import write_jsonl

        dataset = instantiate(composed("evaluate", BIOS).data)
        path = self._root / "facts.jsonl"
        keys = ("id", "passage_id", "question", "target")
        write_jsonl(
            path, [dict(zip(keys, (p, p, "Who?", "sea"), strict=True)) for p in dataset.passages]
        )
        return path

    @cached_property
    def rankings(self) -> Path:
        """A file of passages that a retriever found for the training questions."""
        from plumbing.storage.jsonl import write_jsonl
        from qa.data.dataset import load_folder

        dataset = load_folder(self.folder)
        path, ids = self._root / "rankings.jsonl", list(dataset.passages)
        write_jsonl(path, ({"id": q.id, "passage_ids": ids} for q in dataset.split("train")))
        return path

    @cached_property
    def first_run(self) -> Path:
        """A run folder of an evaluation."""
        return self._run("evaluate", ["method=rag"])

    @cached_property
    def second_run(self) -> Path:
        """Another one."""
        return self._run("evaluate", ["method=base"])

    @cached_property
    def stream(self) -> Path:
        """A run folder of sequential editing."""
        return self._run("sequential_edit", ["method=none"])

    @cached_property
    def other_stream(self) -> Path:
        """Another one with the same stream."""
        return self._run("sequential_edit", ["method=ultraedit"])


# Tried one after the other, so that the longer ones come first.
_PLACEHOLDERS = {
    r"(?<=data\.path=)FILE$": "table",
    r"(?<=^facts=)FILE$": "facts",
    r"(?<=corpus\.path=)CORPUS$": "table_corpus",
    r"(?<=router\.retriever\.index_dir=)INDEX$": "surrogate_index",
    r"(?<=backbone\.adapter=)RUN/adapter$": "warm_adapter",
    r"(?<=adapter_dir=)RUN/adapter$": "sft_adapter",
    r"\bRUN/reranker$": "reranker",
    r"\b(READER|logs/quickstart/reader)/checkpoints/last\.ckpt$": "reader",
    r"\bCODES$": "codes",
    r"\bEDITOR/checkpoints/last\.ckpt$": "editor",
    r"\b(CKPT|(RUN|logs/quickstart)/checkpoints/last\.ckpt)$": "checkpoint",
    r"\bSTREAM1\b": "stream",
    r"\bSTREAM2\b": "other_stream",
    r"\bRUN1\b": "first_run",
    r"\bRUN2\b": "second_run",
    r"\bAUG\b": "augmentations",
    r"\bINDEX2?$": "index",
    r"\bRANKED/rankings\.jsonl$": "rankings",
    r"^ID$": "passage_id",
    r"^TARGET$": "new_folder",
    r"^FOLDER$": "peft_adapter",
    r"\bBANK2?$": "bank",
    r"(?<=backbone\.name=)DIR$": "_backbone",
    r"(?<=dir=)DIR$": "folder",
    r"(?<=corpus\.path=)FILE$|^FILE$": "passages",
}
