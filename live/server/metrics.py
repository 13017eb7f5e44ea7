"""What ``/metrics`` shows to Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one server.

    Attributes:
        requests: HTTP requests by path and status.
        tokens: Tokens of answers by mode.
        answers: Answers by mode and by why they ended.
        refused: Questions that met a full queue.
        changes: Passages that were added or removed.
        first_token_seconds: From a question to its first token.
        answer_seconds: From a question to its end.
        step_seconds: One step of decoding: a token of each row of a batch.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self.requests = Counter(
            "genpoe_requests", "HTTP requests", ["path", "status"], registry=own
        )
        self.tokens = Counter("genpoe_tokens", "Tokens of answers", ["mode"], registry=own)
        self.answers = Counter("genpoe_answers", "Answers", ["mode", "finish"], registry=own)
        self.refused = Counter(
            "genpoe_questions_refused", "Questions that met a full queue", registry=own
        )
        self.changes = Counter(
            "genpoe_passage_changes", "Passages added or removed", ["change"], registry=own
        )
        self.first_token_seconds = self._histogram(
            "first_token_seconds", "From a question to its first token"
        )
        self.answer_seconds = self._histogram("answer_seconds", "From a question to its end")
        self.step_seconds = self._histogram("step_seconds", "A token of each row of a batch")

    def _histogram(self, name: str, about: str) -> Histogram:
        return Histogram(f"genpoe_{name}", about, buckets=_SECONDS, registry=self._registry)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show a value that is asked for whenever somebody looks."""
        Gauge(f"genpoe_{name}", about, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)
