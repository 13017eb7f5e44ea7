"""The curl lines of docs/live.md work in the order in which they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from backbone.model import Backbone
from tests.helpers.documented import DOCS
from tests.helpers.live import reader_session
from tests.helpers.live_server import running

PAGE = (DOCS / "live.md").read_text("utf-8").replace("\\\n", " ")
LINES = re.findall(r"^curl .*$", PAGE, re.MULTILINE)


def test_the_lines_work(live_backbone: Backbone, tmp_path: Path) -> None:
    assert len(LINES) == 7
    with running(reader_session(live_backbone, tmp_path)) as server:
        for line in LINES:
            words = shlex.split(line)
            (url,) = (word for word in words if word.startswith("http://127.0.0.1:8000"))
            body = words[words.index("-d") + 1] if "-d" in words else None
            method = words[words.index("-X") + 1] if "-X" in words else "POST" if body else "GET"
            path = url.removeprefix("http://127.0.0.1:8000")
            sent = None if body is None else body.encode()
            status, answer, _ = server.ask(method, path, sent)
            assert status in (200, 201, 204), answer
        assert len(server.session.passages) == 0
