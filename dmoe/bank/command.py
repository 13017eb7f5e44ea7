"""``scripts/bank.py``: look after a bank from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from dmoe.bank.bank import Bank
from dmoe.bank.compaction import compact
from dmoe.bank.errors import BankError
from dmoe.bank.hub import push_to_hub, save_pretrained
from dmoe.bank.merging import CONFLICTS, merge
from dmoe.bank.verification import verify

_Results = Iterator[dict[str, Any]]


def bank_command(arguments: Sequence[str] | None = None, output: TextIO | None = None) -> None:
    """Run one command; it writes JSON, an object a line, so that any passage id can be read back.

    Args:
        arguments: The command line; None: the process's own.
        output: Where to; None: standard output.

    Raises:
        BankError: If the bank is missing, unfit, or (``verify``) damaged.
        OSError: If a file cannot be read or written.
    """
    settings = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], _Results] = settings.run
    for result in run(settings):
        (output or sys.stdout).write(json.dumps(result) + "\n")


def _list(settings: argparse.Namespace) -> _Results:
    bank = Bank.open(settings.dir)
    for id, sha256 in bank.entries():
        yield {"id": id, "passage_sha256": sha256}


def _info(settings: argparse.Namespace) -> _Results:
    bank = Bank.open(settings.dir)
    yield {
        "experts": len(bank),
        "shards": len(bank.view.shards),
        "generation": bank.view.manifest.generation,
        **bank.spec.to_json(),
    }


def _verify(settings: argparse.Namespace) -> _Results:
    report = verify(settings.dir)
    yield asdict(report)
    if not report.sound:
        raise BankError(
            f"{settings.dir}: {len(report.damaged)} experts and {len(report.files)} other parts "
            "are damaged, see above; remove these experts and build them again, and mend the rest "
            "by `bank.py compact`"
        )


def _compact(settings: argparse.Namespace) -> _Results:
    bank = Bank.open(settings.dir)
    yield asdict(compact(bank, settings.drop_damaged)) | {"experts": len(bank)}


def _merge(settings: argparse.Namespace) -> _Results:
    bank = Bank.open(settings.dir)
    for source in settings.sources:
        yield {"source": source, "copied": merge(bank, source, settings.on_conflict)}


def _remove(settings: argparse.Namespace) -> _Results:
    ids = [*settings.id, *(_read_ids(settings.ids) if settings.ids else ())]
    if not ids:
        raise BankError("expected passage ids to remove, got none; give --id ID or --ids FILE")
    bank = Bank.open(settings.dir)
    bank.remove(ids)
    yield {"removed": len(ids), "experts": len(bank)}


def _export(settings: argparse.Namespace) -> _Results:
    yield {"experts": len(save_pretrained(Bank.open(settings.dir), settings.target))}


def _push(settings: argparse.Namespace) -> _Results:
    yield {"commit": push_to_hub(Bank.open(settings.dir), settings.repo_id, settings.private)}


def _read_ids(path: str) -> Iterator[str]:
    """Ids of JSON lines, as ``list`` writes them."""
    from retrieval.jsonl import read_jsonl, text_field

    for number, row in read_jsonl(path):
        yield text_field(row, "id", f"{path}:{number}", may_be_blank=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bank.py", description="Look after a bank of experts.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], _Results], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        sub.add_argument("dir", metavar="DIR", type=Path, help="the bank's folder")
        return sub

    command("info", _info, "say what the experts are, and how many")
    command("list", _list, "write the id and the passage's hash of every expert, as JSON lines")
    command("verify", _verify, "check every byte that counts; exit code 2 if one is damaged")
    sub = command("compact", _compact, "pack small and holey shards anew, delete what is not used")
    sub.add_argument("--drop-damaged", action="store_true", help="leave damaged experts out")
    sub = command("merge", _merge, "copy the experts of other banks into this one")
    sub.add_argument("sources", metavar="SOURCE", nargs="+", help="the other banks' folders")
    sub.add_argument("--on-conflict", choices=CONFLICTS, default="error", help="default: error")
    sub = command("remove", _remove, "remove experts; `compact` frees their room")
    sub.add_argument("--id", action="append", default=[], help="a passage id; may be repeated")
    sub.add_argument("--ids", metavar="FILE", help="JSON lines with an id each, as `list` writes")
    sub = command("export", _export, "copy the bank, packed and checked, into a new folder")
    sub.add_argument("target", metavar="TARGET", help="the new folder")
    sub = command("push", _push, "upload the bank to the Hugging Face hub")
    sub.add_argument("repo_id", metavar="OWNER/NAME", help="the repository; made when missing")
    sub.add_argument("--private", action="store_true", default=None, help="make it private")
    return parser
