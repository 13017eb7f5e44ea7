"""One server for the tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backbone.model import Backbone
from tests.helpers.live import PASSAGES, reader_session
from tests.helpers.live_server import Running, running
from tests.helpers.tiny import make_backbone


@pytest.fixture(scope="session")
def live_backbone() -> Backbone:
    return make_backbone(max_position_embeddings=1024)


@pytest.fixture(scope="session")
def server(live_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    session = reader_session(live_backbone, tmp_path_factory.mktemp("live"))
    session.add(PASSAGES)
    with running(
        session, max_tokens=16, max_question=500, max_passage=2000, max_body=50_000
    ) as one:
        yield one
