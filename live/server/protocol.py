"""The bodies of requests, checked, and the bodies of answers, in OpenAI's form.

Every answer to a question has the field ``knowledge`` beside OpenAI's own fields: where each token
came from. Plain clients ignore it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from live.answer import MODES, Mode, Token
from live.server.errors import ApiError
from live.server.settings import ServerSettings
from retrieval.passage import Passage

M = TypeVar("M", bound=BaseModel)

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class TextPart(BaseModel):
    """A part of a message's content; only text is read."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of the conversation. The last one of the user is the question."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        """The text of the content."""
        content = self.content or ""
        return content if isinstance(content, str) else "\n".join(part.text for part in content)


class StreamOptions(BaseModel):
    """Options of a stream. The last chunk always has the usage."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool = True


class ChatRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``.

    Decoding is greedy, so what concerns sampling is accepted and changes nothing. What cannot be
    done is refused unless it is null or false.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    n: Literal[1] | None = None
    store: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    stop: None = None
    tools: None = None
    tool_choice: None = None
    response_format: None = None
    logit_bias: None = None

    @property
    def mode(self) -> Mode:
        """The mode that the model's name chooses.

        Raises:
            ApiError: If there is no such model.
        """
        for mode in MODES:
            if mode == self.model:
                return mode
        raise no_model(self.model)

    def question(self, limit: int) -> str:
        """The last message of the user.

        Raises:
            ApiError: If there is none, or if it is empty or longer than the limit.
        """
        asked = [message.text for message in self.messages if message.role == "user"]
        if not asked:
            raise ApiError(400, "expected a message of the role user, got none", "messages")
        if not asked[-1].strip():
            raise ApiError(400, "the last message of the user is empty; ask something", "messages")
        if len(asked[-1]) > limit:
            raise ApiError(
                400,
                f"the question has {len(asked[-1])} characters, and at most {limit} are read; "
                "shorten it",
                "messages",
                "question_too_long",
            )
        return asked[-1]

    def tokens(self, limit: int) -> int:
        """How many tokens the answer may have.

        Raises:
            ApiError: If these are more than the limit.
        """
        asked = self.max_completion_tokens or self.max_tokens or limit
        if asked > limit:
            name = "max_completion_tokens" if self.max_completion_tokens else "max_tokens"
            raise ApiError(400, f"{name} must be at most {limit}, got {asked}", name)
        return asked


class NewPassage(BaseModel):
    """A passage to add. Its id is made from its content."""

    model_config = ConfigDict(strict=True, extra="forbid")
    title: str = ""
    text: str


class NewPassages(BaseModel):
    """The body of ``POST /passages``."""

    model_config = ConfigDict(strict=True, extra="forbid")
    passages: Annotated[list[NewPassage], Field(min_length=1)]

    def pairs(self, settings: ServerSettings) -> list[tuple[str, str]]:
        """Titles and texts.

        Raises:
            ApiError: If there are too many passages, or one is empty or too long.
        """
        given = self.passages
        if len(given) > settings.max_passages:
            raise ApiError(
                400,
                f"at most {settings.max_passages} passages are added at once, got {len(given)}; "
                "send several requests",
                "passages",
            )
        for place, each in enumerate(given):
            size = len(each.title) + len(each.text)
            if not each.text.strip():
                raise ApiError(400, "the text of the passage is empty", f"passages.{place}.text")
            if size > settings.max_passage:
                raise ApiError(
                    400,
                    f"the passage has {size} characters, and at most {settings.max_passage} are "
                    "taken; split it",
                    f"passages.{place}.text",
                    "passage_too_long",
                )
        return [(each.title, each.text) for each in given]


def parsed(body: bytes, model: type[M]) -> M:
    """Read the body of a request.

    Raises:
        ApiError: If it is no JSON, or not of the model's form; the message names the field.
    """
    try:
        value = json.loads(body)
        if not is_sound(value):
            raise ValueError("it holds half of a surrogate pair, which is no text")
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"expected a JSON object as the body: {reason}") from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _invalid(error) from error


def is_sound(value: Any) -> bool:
    """True if all texts in a value of JSON can be written in UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in first["loc"] if not _names_a_type(part))
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"there is no field {param!r} here; leave it out", param, "unknown")
    came = "" if first["type"] == "missing" else f", got {_shown(first['input'])}"
    where = f"{param}: " if param else ""
    return ApiError(400, f"{where}{first['msg']}{came}", param or None, first["type"])


def _names_a_type(part: Any) -> bool:
    """True of what pydantic adds to the place of an error in a union."""
    return isinstance(part, str) and (part == "str" or part.startswith("list["))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"


def no_model(name: str) -> ApiError:
    """There is no model of a name."""
    return ApiError(
        404,
        f"there is no model {name[:80]!r}; the models are {', '.join(MODES)}",
        "model",
        "model_not_found",
    )


def no_passage(id: str) -> ApiError:
    """There is no passage with an id."""
    return ApiError(404, f"there is no passage with the id {id[:80]!r}", "id", "passage_not_found")


def model_json(mode: str, created: int) -> dict[str, Any]:
    """A model in OpenAI's form."""
    return {"id": mode, "object": "model", "created": created, "owned_by": "genpoe-dmoe"}


def passage_json(passage: Passage) -> dict[str, str]:
    """A passage."""
    return {"id": passage.id, "title": passage.title, "text": passage.text}


def token_json(token: Token) -> dict[str, Any]:
    """A token with its uncertainty in nats and the experts that acted on it."""
    return {
        "text": token.text,
        "uncertainty": round(token.uncertainty, 4),
        "triggered": token.triggered,
        "experts": [
            {
                "passage_id": each.passage.id,
                "title": each.passage.title,
                "weight": round(each.weight, 4),
            }
            for each in token.experts
        ],
    }


def knowledge_json(tokens: Sequence[Token], shown: Sequence[Passage]) -> dict[str, Any]:
    """Where tokens came from: their experts, and the passages in the prompt."""
    return {
        "tokens": [token_json(token) for token in tokens],
        "passages": [{"id": passage.id, "title": passage.title} for passage in shown],
    }


def usage_json(prompt_tokens: int, tokens: int) -> dict[str, int]:
    """How many tokens were read and written."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }
