"""A writer that asks an OpenAI-compatible endpoint: ``POST <url>/chat/completions``.

Servers of open models (vLLM, llama.cpp, Ollama) have such endpoints as well. The requests are made
with the standard library alone.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from plumbing.mounts import SettingValueError
from plumbing.settings import typed
from qa.writing.writer import RefusedError, WriterError, WritingRequest

# HTTP codes of an endpoint that is busy or too slow: the request is sent again.
_AGAIN = {408, 409, 429, 500, 502, 503, 504}
# HTTP codes of a single bad request, which is too long or has content that the endpoint rejects.
_REFUSED = {400, 413, 422}
_ATTEMPTS = 1000  # Attempts at a prompt, which have seeds of their own, are fewer than this.


class EndpointError(WriterError):
    """The endpoint cannot be reached, or its answer is not a completion."""


class EndpointWriter:
    """A writer that asks a model behind an endpoint.

    Args:
        url: The part of the URL before ``/chat/completions``, such as ``http://localhost:8000/v1``.
        model: The model's name at the endpoint.
        api_key_env: The environment variable that holds the key. If it is not set, no key is sent.
        batch_size: How many requests are made at the same time.
        temperature: The temperature of the attempts after the first. The first attempt has 0.
        timeout: How many seconds to wait for an answer.
        tries: How often a request is sent, at most, while the endpoint is busy.
        pause: How many seconds to wait before the second try. Each further wait is twice as long.
        body: Keys to add to the JSON of each request, or to replace there. The value null leaves a
            key out, which helps if an endpoint refuses every request because of that key.
        seed: The seed of the sampling, as far as the endpoint heeds it.

    Raises:
        ValueError: If a number is out of range, or the URL does not begin with http:// or https://.
    """

    @typed
    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        batch_size: int = 8,
        temperature: float = 0.7,
        timeout: float = 120.0,
        tries: int = 4,
        pause: float = 1.0,
        body: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise SettingValueError("url", f"expected an http(s) URL, got {url!r}")
        positive = {
            "batch_size": batch_size,
            "tries": tries,
            "timeout": timeout,
            "temperature": temperature,
        }
        for name, value in positive.items():
            if value <= 0:
                raise SettingValueError(name, f"{name} must be positive, got {value}")
        if pause < 0:
            raise SettingValueError("pause", f"pause must not be negative, got {pause}")
        self.batch_size = batch_size
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._key_env = api_key_env
        self._temperature = temperature
        self._seed = seed
        self._timeout = timeout
        self._tries = tries
        self._pause = pause
        self._body = dict(body or {})

    @property
    def fingerprint(self) -> str:
        """The URL, model, temperature, seed and further keys of the requests, without the key."""
        body = f" {json.dumps(self._body, sort_keys=True)}" if self._body else ""
        seed = f" seed {self._seed}" if self._seed else ""  # answers of before the setting stay
        return f"{self._url} {self._model} {self._temperature}{seed}{body}"

    def write(self, requests: Sequence[WritingRequest]) -> list[str | WriterError]:
        """Answer all requests at the same time, as `Writer.write` describes.

        Endpoints cannot be made to begin an answer with a request's ``opening``, so it is ignored.
        If the model says nothing (because it declines, or used up its tokens for thinking), the
        answer is "". Thinking in a field of its own, such as ``reasoning_content``, is not read. If
        the endpoint cannot be reached, denies access or answers something else than a completion,
        an `EndpointError` stands in the answer's place.
        """
        with ThreadPoolExecutor(max(1, len(requests))) as pool:
            return list(pool.map(self._answer_or_reason, requests))

    def _answer_or_reason(self, request: WritingRequest) -> str | WriterError:
        try:
            return self._answer(request)
        except WriterError as error:
            return error

    def _answer(self, request: WritingRequest) -> str:
        body = {
            "model": self._model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "temperature": self._temperature if request.attempt else 0.0,
            "max_tokens": request.max_new_tokens,
            "seed": _ATTEMPTS * self._seed + request.attempt,
            **self._body,
        }
        kept = {key: value for key, value in body.items() if value is not None}
        answer = self._post(json.dumps(kept).encode())
        text = _content(answer)
        if text is None:
            raise EndpointError(
                f"{self._url}: expected choices[0].message.content, got {str(answer)[:200]}; is it "
                "an OpenAI-compatible endpoint?"
            )
        return text

    def _post(self, body: bytes) -> Any:
        """Send a request, again while the endpoint is busy, and return the JSON of its answer.

        Raises:
            RefusedError: If the endpoint refuses this one request.
            EndpointError: If the endpoint gives no answer.
        """
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self._key_env, "").strip():
            headers["Authorization"] = f"Bearer {key}"
        problem = ""
        for attempt in range(self._tries):
            if attempt:
                time.sleep(self._pause * 2 ** (attempt - 1))
            try:
                request = urllib.request.Request(self._url, body, headers)
                with urllib.request.urlopen(request, timeout=self._timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}: {_beginning(error)}"
                if error.code in _REFUSED:
                    raise RefusedError(f"the endpoint refused it, {problem}") from None
                if error.code not in _AGAIN:
                    break
            except (OSError, ValueError, http.client.HTTPException) as error:
                # The endpoint was not reached, was too slow, was cut off, or sent no JSON.
                problem = str(error) or repr(error)
        raise EndpointError(
            f"{self._url}: expected a completion, got {problem}; check augmenter.writer.url, the "
            f"model's name, and the key in ${self._key_env}. What has been answered is kept."
        )


def _content(answer: Any) -> str | None:
    """The text of a completion, "" if it says nothing, and None if it is not a completion."""
    try:
        message = dict(answer["choices"][0]["message"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    text = message.get("content")
    if isinstance(text, list):  # parts, of which some may be thinking
        parts = [part for part in text if isinstance(part, Mapping) and part.get("type") == "text"]
        return "".join(str(part.get("text") or "") for part in parts)
    # Some endpoints leave the content out instead of sending null.
    if text is None and {"content", "role"} & message.keys():
        return ""
    return text if isinstance(text, str) else None


def _beginning(error: urllib.error.HTTPError) -> str:
    """The beginning of an endpoint's own error message, on one line."""
    with error:
        try:
            return " ".join(error.read(400).decode(errors="replace").split())
        except (OSError, http.client.HTTPException):
            return ""
