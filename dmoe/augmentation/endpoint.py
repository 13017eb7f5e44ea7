"""Any OpenAI-compatible endpoint as a writer: ``POST <url>/chat/completions``.

Servers of open models (vLLM, llama.cpp, Ollama) speak it as well. The standard library is enough.
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

from dmoe.augmentation.writer import RefusedError, WriterError, WritingRequest
from plumbing.mounts import SettingValueError
from plumbing.settings import typed

_AGAIN = {408, 409, 429, 500, 502, 503, 504}  # worth another try: busy, or too slow
_REFUSED = {400, 413, 422}  # this one request: it is too long, or the endpoint dislikes its content


class EndpointError(WriterError):
    """An endpoint that cannot be reached, or answers something else than a completion."""


class EndpointWriter:
    """A model behind an endpoint as a writer.

    Args:
        url: Up to what stands before ``/chat/completions``, such as ``http://localhost:8000/v1``.
        model: Its name there.
        api_key_env: The environment variable with the key; without one, no key is sent.
        batch_size: Requests at the same time.
        temperature: Of the attempts after the first; the first has 0.
        timeout: Seconds to wait for an answer.
        tries: How often one request is sent, at most, while the endpoint is busy.
        pause: Seconds before the second try; doubled for each further one.
        body: Further keys of a request's JSON, or other values of those that are sent; null leaves
            a key out. An endpoint that dislikes a key refuses every request.

    Raises:
        ValueError: If a number is out of range, or the URL is none.
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
        self._timeout = timeout
        self._tries = tries
        self._pause = pause
        self._body = dict(body or {})

    @property
    def fingerprint(self) -> str:
        """Endpoint, model, temperature and what else is asked; the key is no part of it."""
        body = f" {json.dumps(self._body, sort_keys=True)}" if self._body else ""
        return f"{self._url} {self._model} {self._temperature}{body}"

    def write(self, requests: Sequence[WritingRequest]) -> list[str | WriterError]:
        """See `Writer.write`; all requests at the same time, and their openings left to the model.

        A model that says nothing (it declines, or its tokens went into thinking) answers "". An
        endpoint that cannot be reached, turns us away or answers something else is an
        `EndpointError`.
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
            "seed": request.attempt,
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
        """The JSON that the endpoint answers, tried again while it is busy.

        Raises:
            RefusedError: If it will not answer this request.
            EndpointError: If it answers none.
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
                problem = str(error) or repr(error)  # not reached, cut off, too slow, or no JSON
        raise EndpointError(
            f"{self._url}: expected a completion, got {problem}; check augmenter.writer.url, the "
            f"model's name, and the key in ${self._key_env}. What has been answered is kept."
        )


def _content(answer: Any) -> str | None:
    """What a completion says, "" if nothing; None where it is no completion."""
    try:
        message = dict(answer["choices"][0]["message"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    text = message.get("content")
    if text is None and {"content", "role"} & message.keys():  # some leave it out instead of null
        return ""
    return text if isinstance(text, str) else None


def _beginning(error: urllib.error.HTTPError) -> str:
    """The first words of what an endpoint says of an error, on one line."""
    with error:
        try:
            return " ".join(error.read(400).decode(errors="replace").split())
        except (OSError, http.client.HTTPException):
            return ""
