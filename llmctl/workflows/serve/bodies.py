"""The bodies of requests: every field is followed or refused, none is ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Self, TypeVar

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from llmctl.engines.spec import Sampling
from llmctl.workflows.serve.refusals import Refusal

B = TypeVar("B", bound="Body")

MOST_CHOICES: Final = 128
MOST_STOPS: Final = 16
MOST_BEAMS: Final = 16
MOST_TOP: Final = 20
MOST_WINDOWS: Final = 10_000
"""Windows of a request for likelihoods; one is a pass of the model."""
LONGEST_STOP: Final = 1000
LARGEST_SEED: Final = 2**63 - 1

_WITHOUT_EFFECT: Final[Mapping[str, tuple[Any, ...]]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "best_of": (1,),
    "suffix": ("",),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
}
"""Fields of OpenAI's interface that are not supported, with the values that ask for nothing."""
_LABELS_OF_CLIENTS: Final = ("user", "safety_identifier", "prompt_cache_key")
"""Names by which a client marks its requests. They say nothing about the answer."""
_UNSUPPORTED: Final = (
    *("audio", "prediction", "reasoning_effort", "verbosity", "web_search_options", "prompt_cache_retention"),
    *("include", "chunking_strategy", "keywords", "languages", "known_speaker_names", "known_speaker_references"),
)


class Body(BaseModel):
    """Base of all bodies: strict types, unknown fields are errors, null is as good as absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: each for name, each in value.items() if each is not None}


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]], BeforeValidator(_one_or_several)]


class Asking(Body):
    """What all bodies have in common: how answers are chosen."""

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    stop: Texts = Field(default=[], max_length=MOST_STOPS)
    seed: int | None = Field(None, ge=-LARGEST_SEED, le=LARGEST_SEED)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(None, ge=1, le=2**31)

    @property
    def longest(self) -> int | None:
        """The maximum length of an answer in tokens, where the request has one."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many log-probabilities beside that of the chosen token are wanted at each place; None: none at all."""
        return None

    def chooses(self) -> str | None:
        """The first field that asks for another answer than the most likely one, or for a part of it."""
        greedy = self.temperature == 0
        asked = {
            "temperature": bool(self.temperature),
            "top_p": not greedy and self.top_p is not None,
            "top_k": not greedy and self.top_k is not None,
            "min_p": not greedy and self.min_p is not None,
            "repetition_penalty": self.repetition_penalty != 1,
            "stop": bool(self.stop),
            "n": self.n > 1,
            "logprobs": self.top is not None,
        }
        return next((name for name, is_asked in asked.items() if is_asked), None)

    def sampling(self, longest: int, seed: int) -> Sampling:
        """How the answer is chosen, of at most `longest` tokens."""
        greedy = self.temperature == 0
        return Sampling(
            max_new_tokens=longest,
            temperature=self.temperature,
            top_k=None if greedy else self.top_k,
            top_p=None if greedy else self.top_p,
            min_p=None if greedy else self.min_p,
            repetition_penalty=self.repetition_penalty,
            num_samples=1 if greedy else self.n,
            stop=tuple(self.stop),
            batch_size=1,  # a client that leaves in the middle of a recording frees its place after a window
            seed=seed,
        )


class StreamOptions(Body):
    include_usage: bool = False


class Streamed(Asking):
    """What the two interfaces of OpenAI have in common."""

    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _check_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise FieldFault("stream_options", "is for streams: set stream to true")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


Prompt = str | list[int]
"""A text, or the ids of its tokens."""


class CompletionBody(Streamed):
    """`POST /v1/completions`."""

    prompts: list[Prompt] = Field(alias="prompt", min_length=1)
    echo: bool = False
    max_tokens: int | None = Field(None, ge=0, le=2**31)
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP)

    @model_validator(mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """A single prompt as a list of one."""
        if not isinstance(value, Mapping) or "prompt" not in value:
            return value
        prompt = value["prompt"]
        several = prompt if isinstance(prompt, list) and prompt and not _is_number(prompt[0]) else [prompt]
        for each in several:
            if not (isinstance(each, str) or (isinstance(each, list) and each and all(map(_is_token, each)))):
                raise FieldFault(
                    "prompt", "must be a text, a list of texts, token ids, or a list of lists of token ids"
                )
        return {**value, "prompt": several}

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise FieldFault("max_tokens", "must be at least 1 without echo")
        return self

    @property
    def longest(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def top(self) -> int | None:
        return self.logprobs


class TaskBody(Asking):
    """`POST /v1/tasks/TASK`. `records`: rows as `generate --input` reads them, or texts."""

    records: list[Any] = Field(min_length=1)
    num_beams: int = Field(1, ge=1, le=MOST_BEAMS)
    length_penalty: float = Field(1.0, ge=-10, le=10)

    @model_validator(mode="after")
    def _check_records(self) -> Self:
        for number, each in enumerate(self.records):
            if not isinstance(each, dict | str):
                raise FieldFault(f"records[{number}]", "must be an object or a text")
        if self.num_beams > 1 and (name := super().chooses()):
            raise FieldFault(name, "cannot be combined with num_beams")
        return self

    def chooses(self) -> str | None:
        return "num_beams" if self.num_beams > 1 else super().chooses()

    def sampling(self, longest: int, seed: int) -> Sampling:
        return replace(super().sampling(longest, seed), num_beams=self.num_beams, length_penalty=self.length_penalty)


class LikelihoodBody(Body):
    """`POST /v1/tasks/TASK/likelihoods`. `records` with their answers; `window` and `stride` in tokens, as in `eval`."""

    model: str | None = None
    records: list[dict[str, Any] | str] = Field(min_length=1, max_length=MOST_WINDOWS)
    window: int | None = Field(None, ge=1)
    stride: int | None = Field(None, ge=1)


class FieldFault(ValueError):
    """A fault of one field, found by a validator."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field, self.problem = field, problem


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def parse(kind: type[B], data: bytes) -> B:
    """The body of a request. Raises `Refusal` with the field at fault."""
    try:
        value = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise Refusal(400, "the body must be a JSON object", code="invalid_json")
    return checked(kind, value)


def checked(kind: type[B], value: dict[str, Any]) -> B:
    """The fields of a request as its body. Raises `Refusal` with the field at fault."""
    fields = {each.alias or name for name, each in kind.model_fields.items()}
    for name in [name for name in value if name not in fields]:
        if not _asks_for_nothing(name, value[name]):
            known = name in _WITHOUT_EFFECT or name in _UNSUPPORTED
            problem = "is not supported by this server" if known else "is not a known parameter"
            raise Refusal(400, f"{shown(name)} {problem}", param=shown(name), code="unsupported_parameter")
        del value[name]
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _refused(error) from error


def _asks_for_nothing(name: str, value: Any) -> bool:
    if value is None:
        return name in _WITHOUT_EFFECT or name in _UNSUPPORTED or name in _LABELS_OF_CLIENTS
    if name in _LABELS_OF_CLIENTS:
        return isinstance(value, str)
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in _WITHOUT_EFFECT.get(name, ())
    )


def shown(text: str) -> str:
    """A word of a client in a message: short, without control characters."""
    return "".join(each if each.isprintable() else "?" for each in text[:60])


_PROBLEMS: Final[Mapping[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "is not a known parameter",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "literal_error": "must be {expected}",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}


def _refused(error: ValidationError) -> Refusal:
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    where = _path(first["loc"])
    if isinstance(cause, FieldFault):
        where = f"{where}.{cause.field}" if where else cause.field
        return Refusal(400, f"{where} {cause.problem}", param=where)
    problem = _PROBLEMS.get(first["type"], first["msg"][:1].lower() + first["msg"][1:]).format(**first.get("ctx", {}))
    return Refusal(400, f"{where} {problem}", param=where)


def _path(location: Sequence[int | str]) -> str:
    """`("messages", 0, "content")` -> `messages[0].content`."""
    found = ""
    for part in location:
        if isinstance(part, int):
            found += f"[{part}]"
        else:
            found += f".{shown(part)}" if found else shown(part)
    return found
