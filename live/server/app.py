"""The routes of the server; `live.server.gate` stands before them."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from live.answer import MODES, Ask, Token
from live.experts import NoExpertError
from live.page import PageFile, page_files
from live.passages import as_passage
from live.server.engine import Begun, Engine, Event, Job, Said
from live.server.errors import ApiError
from live.server.gate import Gate, too_large
from live.server.metrics import Metrics
from live.server.protocol import (
    ChatRequest,
    NewPassages,
    knowledge_json,
    model_json,
    no_model,
    no_passage,
    parsed,
    passage_json,
    usage_json,
)
from live.server.settings import ServerSettings
from live.session import KnowledgeSession

T = TypeVar("T")
_MOST_LISTED = 1000  # passages


def make_app(session: KnowledgeSession, settings: ServerSettings) -> FastAPI:
    """Make the application. Its engine starts and ends with it.

    Args:
        session: The session that it serves, which nobody else uses from now on.
        settings: How it listens, and what it takes.

    Returns:
        The application; ``app.state.engine`` is its engine.
    """
    metrics = Metrics()
    engine = Engine(session, settings.max_batch, settings.max_queue, metrics)
    metrics.watch("passages", "Passages that are there", lambda: len(session.passages))
    metrics.watch("questions_waiting", "Questions that wait", lambda: engine.load[0])
    metrics.watch("questions_running", "Questions being answered", lambda: engine.load[1])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)
        session.close()

    # The pages that FastAPI would add load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.engine = engine
    app.add_middleware(Gate, settings=settings, engine=engine, metrics=metrics)
    app.add_exception_handler(ApiError, _on_error)
    app.add_exception_handler(HTTPException, _on_error)
    app.add_exception_handler(Exception, _on_error)
    _add_chat(app, engine, settings)
    _add_passages(app, engine, metrics, settings)
    _add_state(app, engine, metrics)
    _add_page(app)
    return app


async def _on_error(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        what = {404: "there is no such path", 405: "this path has no such method"}
        said = what.get(error.status_code, str(error.detail))
        error = ApiError(error.status_code, said, headers=headers)
    if not isinstance(error, ApiError):  # it is in the log with its traceback
        error = ApiError(500, "the server failed at this request; its log says why")
    return JSONResponse(error.body, error.status, error.headers)


async def _body(request: Request, settings: ServerSettings) -> bytes:
    """The body of a request of JSON.

    Raises:
        ApiError: If it is said to be something else, or comes too slowly, or is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # other pages cannot send this one without asking
        raise ApiError(415, f"expected Content-Type: application/json, got {kind[:80]!r}")
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > settings.max_body:
                    raise too_large(settings.max_body)
    except TimeoutError as error:
        raise ApiError(
            408,
            f"the body did not come within {settings.body_seconds:g} s",
            headers={"Connection": "close"},
        ) from error
    return bytes(body)


async def _unless_left(request: Request, job: Job, work: Coroutine[Any, Any, T]) -> T:
    """Wait for something, but drop the question as soon as the client has left.

    Raises:
        ApiError: If the client has left; nobody reads it.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ApiError(499, "the client has left")
    except BaseException:
        job.is_dropped = True
        raise
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    """Wait until the client has closed its connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_chat(app: FastAPI, engine: Engine, settings: ServerSettings) -> None:
    created = int(time.time())

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [model_json(mode, created) for mode in MODES]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Any:
        if name not in MODES:
            raise no_model(name)
        return model_json(name, created)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = parsed(await _body(request, settings), ChatRequest)
        question = asked.question(settings.max_question)
        job = engine.submit(Ask(question, asked.mode, asked.tokens(settings.max_tokens)))
        completion = Completion(job)
        if not asked.stream:
            return JSONResponse(await _unless_left(request, job, completion.whole()))
        await _unless_left(request, job, completion.begin())
        return StreamingResponse(completion.chunks(), media_type="text/event-stream")


class Completion:
    """The answer to a question in OpenAI's form, whole or in chunks.

    Args:
        job: The question.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": job.ask.mode,
        }
        self._begun = Begun(0, ())
        self._tokens: list[Token] = []

    async def begin(self) -> None:
        """Wait until the question is taken on.

        Raises:
            ApiError: If it is not.
        """
        event = await self._next()
        if isinstance(event, Begun):
            self._begun = event

    async def _next(self) -> Event:
        event = await self._job.events.get()
        if isinstance(event, ApiError):
            raise event
        return event

    async def _said(self) -> AsyncIterator[Said]:
        """The tokens; whoever leaves early need not wait for the rest."""
        try:
            while True:
                event = await self._next()
                if isinstance(event, Said):
                    if event.token is not None:
                        self._tokens.append(event.token)
                    yield event
                    if event.finish is not None:
                        return
        finally:
            self._job.is_dropped = True

    @property
    def _usage(self) -> dict[str, int]:
        return usage_json(self._begun.prompt_tokens, len(self._tokens))

    async def whole(self) -> dict[str, Any]:
        """The whole answer.

        Raises:
            ApiError: If it is not taken on, or fails.
        """
        await self.begin()
        finish = None
        async for said in self._said():
            finish = said.finish
        text = "".join(token.text for token in self._tokens)
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage,
            "knowledge": knowledge_json(self._tokens, self._begun.shown),
        }

    async def chunks(self) -> AsyncIterator[str]:
        """The answer token by token, as server-sent events; the last one has the usage."""
        role: dict[str, str] = {"role": "assistant"}
        try:
            async for said in self._said():
                if said.token is not None:
                    delta = {**role, "content": said.token.text}
                    yield self._chunk(delta, [said.token])
                    role = {}
                if said.finish is not None:
                    yield self._chunk(
                        {**role, **({"content": ""} if role else {})}, [], said.finish
                    )
        except ApiError as error:
            yield f"data: {json.dumps(error.body)}\n\n"
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, str], tokens: list[Token], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [choice],
            "knowledge": knowledge_json(tokens, self._begun.shown),
        }
        if finish is not None:
            chunk["usage"] = self._usage
        return f"data: {json.dumps(chunk)}\n\n"


def _add_passages(app: FastAPI, engine: Engine, metrics: Metrics, settings: ServerSettings) -> None:
    session = engine.session

    @app.get("/passages")
    async def listed(limit: str = "100", after: str | None = None) -> Any:
        if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= _MOST_LISTED):
            raise ApiError(400, f"limit must be in 1 … {_MOST_LISTED}, got {limit[:80]!r}", "limit")
        try:
            found, following = session.passages.page(int(limit), after)
        except KeyError as error:
            raise ApiError(
                400,
                f"there is no passage with the id {str(after)[:80]!r} any longer; begin without "
                "after",
                "after",
            ) from error
        passages = [passage_json(passage) for passage in found]
        return {"passages": passages, "total": len(session.passages), "next": following}

    @app.get("/passages/{id}")
    async def one(id: str) -> Any:
        try:
            return passage_json(session.passages[id])
        except KeyError as error:
            raise no_passage(id) from error

    @app.post("/passages")
    async def add(request: Request) -> Response:
        given = parsed(await _body(request, settings), NewPassages).pairs(settings)

        def change() -> list[dict[str, Any]]:
            wanted = {as_passage(pair).id for pair in given}
            new = {id for id in wanted if id not in session.passages}
            if len(session.passages) + len(new) > settings.max_stored:
                raise ApiError(
                    409,
                    f"the session holds at most {settings.max_stored} passages (max_stored); "
                    "remove some",
                    "passages",
                    "too_many_passages",
                )
            added = session.add(given, read=False)
            metrics.changes.labels("add").inc(len(new))
            return [{**passage_json(each), "added": each.id in new} for each in added]

        try:
            told = await engine.call(change)
        except NoExpertError as error:
            raise ApiError(409, str(error), "passages", "no_expert") from error
        # They are there. Between two tokens one passage is read, so that nobody waits for all.
        if session.experts.reads:
            with suppress(ApiError):  # the server stops; else they are read when they are found
                for id in [each["id"] for each in told if each["added"]]:
                    await engine.call_between(partial(session.read, [id]))
        return JSONResponse({"passages": told}, 201)

    @app.delete("/passages/{id}")
    async def remove(id: str) -> Response:
        def change() -> None:
            session.remove([id])
            metrics.changes.labels("remove").inc()

        try:
            await engine.call(change)
        except KeyError as error:
            raise no_passage(id) from error
        return Response(status_code=204)


def _add_state(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        waiting, running = engine.load
        state = "stopping" if engine.is_draining else "ok"
        told = {
            "status": state,
            "backbone": engine.session.backbone.name,
            "passages": len(engine.session.passages),
            "waiting": waiting,
            "running": running,
        }
        return JSONResponse(told, 503 if engine.is_draining else 200)

    @app.get("/metrics")
    async def counters() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    for path, file in page_files().items():
        app.add_api_route(path, _sender(file), methods=["GET", "HEAD"])


def _sender(file: PageFile) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def send() -> Response:
        return Response(file.body, media_type=file.media_type)

    return send
