"""A data set that was written as a folder is the same when it is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from qa.commands.export_data import export_data
from qa.data.dataset import SPLITS, QADataset
from tests.helpers.small_world import BIOS, composed


def test_what_was_written_is_read_as_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = composed("export_data", ["data=bios", *BIOS, f"paths.output_dir={tmp_path}"])
    metrics = export_data(config)
    made: Any = instantiate(config.data)
    read: QADataset = instantiate(
        composed("evaluate", ["data=local", f"data.dir={tmp_path / 'data'}"]).data
    )
    assert read.passages == made.passages
    assert read.splits == {name: some for name, some in made.splits.items() if name in SPLITS}
    assert metrics["passages"] == len(made.passages)
    assert metrics["dev"] == len(made.splits["dev"])
    assert f"to {tmp_path}" in capsys.readouterr().out
