"""``scripts/bank.py``: look after a bank from the command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from plumbing.cli import say_written, type_script
from plumbing.storage.files import json_text, write_json
from plumbing.storage.jsonl import read_jsonl, text_field
from qa.bank.errors import CONFLICTS, BankError, shown

# torch is imported by the functions: a page of help needs none.
if TYPE_CHECKING:
    from backbone.final_ffn import FinalFFN
    from dmoe.bank.bank import Bank
    from dmoe.experts.expert import ExpertSpec
    from qa.bank.bank import PassageBank

_Results = Iterator[dict[str, Any]]
_RUN = "hydra.run.dir="
_EPILOG = f"With {_RUN}RUN the numbers of the result are also written to RUN/metrics.json."


def bank_command(arguments: Sequence[str] | None = None, output: TextIO | None = None) -> None:
    """Run one command. It writes JSON lines, so that any passage id can be read back.

    With ``hydra.run.dir=RUN`` it also writes ``RUN/metrics.json``. This file holds the number of
    ``results`` (lines), and for each key the sum of its values. Lists and mappings count with their
    lengths.

    Args:
        arguments: The command line. None means the process's own.
        output: Where the lines go. None means standard output. If nobody reads the output any more,
            the command ends.

    Raises:
        ValueError: If the bank or another file is missing or does not fit, or if ``verify`` finds
            damage.
        OSError: If a file cannot be read or written.
    """
    given = sys.argv[1:] if arguments is None else arguments
    settings = _parser().parse_args([one for one in given if not one.startswith(_RUN)])
    run: Callable[[argparse.Namespace], _Results] = settings.run
    output = output or sys.stdout
    metrics: Counter[str] = Counter()  # stays empty if a command fails before it has a result
    try:
        for result in run(settings):
            metrics.update({"results": 1, **_numbers(result)})
            with _ended_with_its_reader(output):
                output.write(json_text(result) + "\n")
        with _ended_with_its_reader(output):
            output.flush()
        metrics.setdefault("results", 0)
    except ValueError:
        if run is _verify:  # at its error, `verify` has counted everything that is damaged
            _write_metrics(given, metrics)
        raise
    _write_metrics(given, metrics)
    _say_what_follows(settings, given)


def _write_metrics(arguments: Sequence[str], metrics: Mapping[str, float]) -> None:
    folders = [one.removeprefix(_RUN) for one in arguments if one.startswith(_RUN)]
    if folders and metrics:
        write_json(Path(folders[-1], "metrics.json"), metrics)


def _say_what_follows(settings: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Say on stderr, since stdout is for JSON, what has been written and what to type next."""
    written: dict[str | Path, list[str]] = {settings.dir: []} if settings.changes else {}
    following, folder = settings.following, settings.dir
    if target := getattr(settings, "target", None):
        written, folder = {target: []}, settings.dir if following == "info" else Path(target)
    run = [one.removeprefix(_RUN) for one in arguments if one.startswith(_RUN)]
    written |= {each: ["metrics.json"] for each in run[-1:]}
    say_written(written, [type_script("bank", [following, folder])], sys.stderr)


@contextmanager
def _ended_with_its_reader(output: TextIO) -> Iterator[None]:
    """End quietly, as other tools do, if the reader of the output (such as ``head``) has ended."""
    try:
        yield
    except BrokenPipeError:
        # Otherwise the output that is still buffered would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result. A pair of whole numbers gives one before and one after."""
    found: dict[str, float] = {}
    for key, value in result.items():
        match value:
            case bool() | str() | None:
                pass
            case int() | float():
                found[key] = value
            case (int(before), int(after)):
                found |= {f"{key}/before": before, f"{key}/after": after}
            case _:
                found[key] = len(value)
    return found


def _list(settings: argparse.Namespace) -> _Results:
    for id, sha256 in _opened(settings).entries():
        yield {"id": id, "passage_sha256": sha256}


def _info(settings: argparse.Namespace) -> _Results:
    bank = _opened(settings)
    yield {
        bank.spec.kind: len(bank),
        "shards": len(bank.view.shards),
        "generation": bank.view.manifest.generation,
        **bank.spec.to_json(),
    }


def _verify(settings: argparse.Namespace) -> _Results:
    from qa.bank.upkeep import verify

    report = verify(settings.dir)
    found = asdict(report)
    yield {found.pop("kind"): found.pop("rows"), **found}
    if not report.sound:
        raise BankError(
            f"{settings.dir}: {len(report.damaged)} {report.kind} and {len(report.files)} other "
            "parts are damaged, see above; remove these rows and make them again, and mend the "
            "rest by `bank.py compact`"
        )


def _compact(settings: argparse.Namespace) -> _Results:
    from qa.bank.upkeep import compact

    bank = _opened(settings)
    yield asdict(compact(bank, settings.drop_damaged)) | {bank.spec.kind: len(bank)}


def _merge(settings: argparse.Namespace) -> _Results:
    from qa.bank.merging import merge

    bank = _opened(settings)
    for source in settings.sources:
        yield {"source": source, "copied": merge(bank, source, settings.on_conflict)}


def _remove(settings: argparse.Namespace) -> _Results:
    ids = [*settings.id, *(_read_ids(settings.ids) if settings.ids else ())]
    if not ids:
        raise BankError("expected passage ids to remove, got none; give --id ID or --ids FILE")
    bank = _opened(settings)
    bank.remove(ids)
    yield {"removed": len(ids), bank.spec.kind: len(bank)}


def _export(settings: argparse.Namespace) -> _Results:
    from qa.bank.hub import save_pretrained

    bank = _opened(settings)
    yield {bank.spec.kind: len(save_pretrained(bank, settings.target))}


def _push(settings: argparse.Namespace) -> _Results:
    from qa.bank.hub import push_to_hub

    yield {"commit": push_to_hub(_opened(settings), settings.repo_id, settings.private)}


def _opened(settings: argparse.Namespace) -> PassageBank:
    """The bank, of whatever kind it is."""
    from qa.bank.bank import PassageBank

    return PassageBank.open(settings.dir)


def _export_peft(settings: argparse.Namespace) -> _Results:
    from backbone.lora.record import AdapterRecord
    from dmoe.bank.bank import Bank
    from dmoe.experts.peft import export_adapter

    bank = Bank.open(settings.dir)
    expert = {name: tensors[0] for name, tensors in bank.get([settings.id]).items()}
    ffn = _final_ffn(bank, settings)
    record = AdapterRecord(ffn.backbone.name, ffn.backbone.fingerprint, bank.spec.prompt)
    export_adapter(settings.target, expert, _expert_spec(bank), ffn, record)
    yield {"exported": 1}


def _export_model(settings: argparse.Namespace) -> _Results:
    from backbone.loading import load_backbone
    from dmoe.bank.bank import Bank
    from dmoe.experts.merged import save_merged

    bank = Bank.open(settings.dir, read_only=True)
    backbone = load_backbone(settings.backbone or bank.spec.backbone, dtype="float32")
    weights = settings.weight or None
    save_merged(settings.target, bank, settings.id, backbone, weights, settings.dtype)
    yield {"merged": len(settings.id)}


def _import_peft(settings: argparse.Namespace) -> _Results:
    from dmoe.bank.bank import Bank
    from dmoe.experts.peft import import_adapter
    from retrieval.corpus.formats import read_passages

    bank = Bank.open(settings.dir)
    passages = [each for each in read_passages(settings.passages) if each.id == settings.id]
    if not passages:
        raise BankError(
            f"{settings.passages}: expected the passage {shown(settings.id)}, found none "
            "with this id; check --id and --passages"
        )
    expert, spec = import_adapter(settings.folder, _final_ffn(bank, settings))
    if spec != (wanted := _expert_spec(bank)):
        raise BankError(
            f"{settings.folder}: expected {wanted}, as the bank's experts have it, got {spec}; "
            "import the adapter into a bank with its settings"
        )
    batch = {name: tensor[None] for name, tensor in expert.items()}
    bank.add(passages, batch, settings.replace)
    yield {"imported": 1, "experts": len(bank)}


def _expert_spec(bank: Bank) -> ExpertSpec:
    from dmoe.experts.expert import ExpertSpec

    targets = {name.partition(".")[0] for name in bank.layout.shapes}
    return ExpertSpec(bank.layout.rank, bank.spec.alpha, sorted(targets))


def _final_ffn(bank: Bank, settings: argparse.Namespace) -> FinalFFN:
    """The final FFN of the bank's backbone, which gives the names and shapes of its modules."""
    from backbone.final_ffn import FinalFFN
    from backbone.loading import load_backbone
    from dmoe.training.warmup import warm_backbone

    name = settings.backbone or bank.spec.backbone
    warm = settings.warmup
    backbone = warm_backbone(warm, name) if warm else load_backbone(name)
    bank.check_backbone(backbone)
    return FinalFFN(backbone)


def _read_ids(path: str) -> Iterator[str]:
    """Read passage ids from JSON lines, as ``list`` writes them."""
    for number, row in read_jsonl(path):
        yield text_field(row, "id", f"{path}:{number}", may_be_blank=True)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line as every other command does: on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            2, f"error: {' '.join(message.split())}; {self._help_command()} shows how to call it\n"
        )

    def _help_command(self) -> str:
        # `bank.py merge`, or `bank.py` alone if the command itself is wrong
        name, *command = self.prog.split()
        return " ".join(["python", f"scripts/{name}", *command, "--help"])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bank.py", description="Look after a bank of experts or of codes.", epilog=_EPILOG
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str,
        run: Callable[[Any], _Results],
        help: str,
        following: str,
        changes: bool = False,  # whether it writes to the bank itself
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, epilog=_EPILOG)
        sub.set_defaults(run=run, following=following, changes=changes)
        sub.add_argument("dir", metavar="DIR", type=Path, help="the bank's folder")
        return sub

    command("info", _info, "say what the rows are, and how many", "verify")
    command(
        "list", _list, "write the id and the passage's hash of every row, as JSON lines", "info"
    )
    command(
        "verify", _verify, "check the files' checksums; exit code 2 if something is damaged", "info"
    )
    sub = command(
        "compact",
        _compact,
        "rewrite shards that are small or have gaps, and delete unused files",
        "verify",
        True,
    )
    sub.add_argument("--drop-damaged", action="store_true", help="leave damaged rows out")
    sub = command("merge", _merge, "copy the rows of other banks into this one", "verify", True)
    sub.add_argument("sources", metavar="SOURCE", nargs="+", help="the other banks' folders")
    sub.add_argument("--on-conflict", choices=CONFLICTS, default="error", help="default: error")
    sub = command("remove", _remove, "remove rows; `compact` frees their space", "compact", True)
    sub.add_argument("--id", action="append", default=[], help="a passage id; may be repeated")
    sub.add_argument("--ids", metavar="FILE", help="JSON lines with an id each, as `list` writes")
    sub = command(
        "export", _export, "copy the bank, packed and checked, into a new folder", "verify"
    )
    sub.add_argument("target", metavar="TARGET", help="the new folder")
    sub = command("push", _push, "upload the bank to the Hugging Face hub", "info")
    sub.add_argument("repo_id", metavar="OWNER/NAME", help="the repository; made when missing")
    sub.add_argument("--private", action="store_true", default=None, help="make it private")
    sub = command("export-peft", _export_peft, "write an expert as a PEFT adapter", "info")
    sub.add_argument("target", metavar="TARGET", help="the new folder")
    _add_peft(sub)
    sub = command(
        "export-model", _export_model, "merge experts into the model, and write it whole", "info"
    )
    sub.add_argument("target", metavar="TARGET", help="the new folder")
    sub.add_argument("--id", action="append", required=True, help="a passage; may be repeated")
    sub.add_argument(
        "--weight",
        action="append",
        type=float,
        help="the weight of the expert at the same place; default: equal weights that sum to 1",
    )
    sub.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    sub.add_argument(
        "--backbone", metavar="NAME", help="name or folder; default: what the bank says"
    )
    sub = command(
        "import-peft",
        _import_peft,
        "add a PEFT adapter of the final FFN as an expert",
        "verify",
        True,
    )
    sub.add_argument("folder", metavar="FOLDER", help="what PEFT's save_pretrained wrote")
    _add_peft(sub)
    sub.add_argument("--passages", metavar="FILE", required=True, help="the corpus; JSON lines")
    sub.add_argument(
        "--replace", action="store_true", help="replace the expert that the passage already has"
    )
    return parser


def _add_peft(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--id", required=True, help="the passage id")
    sub.add_argument(
        "--backbone", metavar="NAME", help="name or folder; default: what the bank says"
    )
    sub.add_argument(
        "--warmup", metavar="ADAPTER", help="a warm-up adapter to merge into the backbone first"
    )
