"""The bodies of requests: OpenAI's, with what vLLM and SGLang add to them.

Fields that are not known are ignored, as OpenAI does; those that would change the answer, if they
were known, are refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from zojax.engine.requests import MAX_LOGPROBS
from zojax.errors import InputError
from zojax.generation import Sampling

_MOST = 2**31 - 1
_UNSUPPORTED = (
    *("suffix", "min_tokens", "bad_words", "use_beam_search", "prompt_embeds", "logits_processors"),
    *("guided_decoding_backend", "guided_whitespace_pattern"),
    *("tools", "functions", "repetition_penalty", "length_penalty"),
    *("prompt_logprobs", "allowed_token_ids", "truncate_prompt_tokens", "skip_special_tokens"),
    *("continue_final_message", "add_generation_prompt", "chat_template", "chat_template_kwargs"),
    *("tool_choice", "modalities", "audio"),
)
_NULL_MEANS_ALL = ("max_tokens",)
"""Where null means as much as fits; elsewhere it means what leaving the field out means."""
_HARMLESS: dict[str, Any] = {
    **{"suffix": "", "min_tokens": 0, "bad_words": [], "use_beam_search": False},
    **{"logits_processors": [], "tools": [], "functions": []},
    **{"repetition_penalty": 1, "length_penalty": 1, "prompt_logprobs": 0},
    **{"skip_special_tokens": True, "continue_final_message": False, "tool_choice": "none"},
    **{"add_generation_prompt": True, "chat_template_kwargs": {}, "modalities": ["text"]},
}
"""What says nothing of fields that are not supported, beside null."""
_MOST_TOKENS = 1 << 20
_MOST_TEXTS = 1 << 14
_MOST_BIASES = 1024

TokenId = Annotated[int, Field(ge=0, le=_MOST)]
# Lists end at their first error, or a body of nothing but errors would make a list of them.
Tokens = Annotated[list[TokenId], Field(max_length=_MOST_TOKENS, fail_fast=True)]
Texts = Annotated[list[str], Field(max_length=_MOST_TEXTS, fail_fast=True)]
ManyTokens = Annotated[list[Tokens], Field(max_length=_MOST_TEXTS, fail_fast=True)]
Count = Annotated[int, Field(ge=0, le=_MOST)]
Text = str | Tokens
Choice = Annotated[list[str], Field(min_length=1, max_length=1024, fail_fast=True)]


class Body(BaseModel):
    """A body. Numbers are not read from strings."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        """Says of all fields that may be left out that they may be null, too."""
        schema = handler.resolve_ref_schema(handler(core))
        for name, field in schema.get("properties", {}).items():
            if name not in schema.get("required", ()) and {"type": "null"} not in field.get(
                "anyOf", ()
            ):
                title, kept = field.pop("title", name), dict(field)
                field.clear()
                field.update({"title": title, "anyOf": [kept, {"type": "null"}]})
        return schema

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {k: v for k, v in body.items() if v is not None or k in _NULL_MEANS_ALL}


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class NamedSchema(BaseModel):
    """OpenAI's JSON schema: without ``strict``, what is not known of it is ignored."""

    schema_: dict[str, Any] = Field({"type": "object"}, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's way to say what an answer has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema: goes with type json_schema, and that with it")
        return self


class StructuredOutputs(BaseModel):
    """vLLM's way to say the same."""

    model_config = ConfigDict(extra="forbid")

    json_: str | dict[str, Any] | None = Field(None, alias="json")
    regex_: str | None = Field(None, alias="regex")
    choice_: Choice | None = Field(None, alias="choice")
    grammar_: str | None = Field(None, alias="grammar")
    json_object: bool | None = None


class Sampled(Body):
    """What all bodies that ask for a continuation have in common."""

    n: int = Field(1, ge=1, le=128)
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=-1, le=_MOST)
    min_p: float = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=16, fail_fast=True)] | None = None
    stop_token_ids: Annotated[Tokens, Field(max_length=8)] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    presence_penalty: float = Field(0.0, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float = Field(0.0, ge=-2, le=2, allow_inf_nan=False)
    logit_bias: (
        dict[
            Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
            Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)],
        ]
        | None
    ) = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_tokens_as_token_ids: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: Choice | None = None
    guided_grammar: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: Any) -> Any:
        for name in _UNSUPPORTED:
            if isinstance(body, dict) and not _says_nothing(name, body.get(name)):
                raise ValueError(f"{name} is not supported")
        biases = body.get("logit_bias") if isinstance(body, dict) else None
        if isinstance(biases, dict) and len(biases) > _MOST_BIASES:  # before each is looked at
            raise ValueError(f"logit_bias: give at most {_MOST_BIASES} tokens")
        return body

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(self.temperature, max(0, self.top_k), self.top_p, self.min_p)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings.

        Raises:
            InputError: one is empty.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if "" in stops:
            raise InputError("stop: a stop string is empty; give a text")
        return stops

    @property
    def biases(self) -> dict[int, float]:
        """What is added to tokens' logits."""
        return {int(token): bias for token, bias in (self.logit_bias or {}).items()}


def _says_nothing(name: str, value: Any) -> bool:
    """Whether a field that is not supported is as if it were left out.

    >>> [_says_nothing("min_tokens", value) for value in (None, 0, 1, False)]
    [True, True, False, False]
    """
    if value is None:
        return True
    harmless = _HARMLESS.get(name)
    is_same_kind = isinstance(value, bool) == isinstance(harmless, bool)  # since True == 1
    return harmless is not None and is_same_kind and value == harmless


class CompletionBody(Sampled):
    """The body of ``/v1/completions``."""

    prompt: str | Tokens | Texts | ManyTokens
    max_tokens: Count | None = 16
    best_of: int | None = Field(None, ge=1, le=128)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    add_special_tokens: bool = True

    @property
    def prompts(self) -> list[Text]:
        """The prompts, one or several.

        Raises:
            InputError: there is none.
        """
        prompt: Any = self.prompt
        one = isinstance(prompt, str) or (prompt and isinstance(prompt[0], int))
        if not prompt and not one:
            raise InputError("prompt: give a text, tokens, or a list of them")
        found: Any = [prompt] if one else prompt
        return found


class ScoreBody(Body):
    """The body of ``/v1/score``: ``prompt`` and ``candidates``, or SGLang's fields."""

    prompt: Text | None = None
    candidates: Texts | ManyTokens | None = None
    query: Text | None = None
    items: str | Texts | ManyTokens | None = None
    label_token_ids: Tokens | None = None
    item_first: bool = False
    apply_softmax: bool = False

    @model_validator(mode="after")
    def _is_one_kind(self) -> "ScoreBody":
        ours = self.prompt is not None and bool(self.candidates)
        theirs = self.query is not None and bool(self.items) and bool(self.label_token_ids)
        if ours == theirs:
            raise ValueError("give prompt and candidates, or query, items and label_token_ids")
        return self


class Message(BaseModel):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list["ContentPart"], Field(max_length=1024, fail_fast=True)]

    @property
    def text(self) -> str:
        """What is said."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ContentPart(BaseModel):
    """A part of a turn; only text is understood."""

    type: Literal["text"]
    text: str


Messages = Annotated[list[Message], Field(min_length=1, max_length=1024, fail_fast=True)]


class ChatBody(Sampled):
    """The body of ``/v1/chat/completions``."""

    messages: Messages
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)


class TokenizeBody(Body):
    """The body of ``/tokenize``: a text, which gets BOS unless that is refused, or a chat."""

    prompt: str | None = None
    messages: Messages | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _is_one_kind(self) -> "TokenizeBody":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self


class DetokenizeBody(Body):
    """The body of ``/detokenize``."""

    tokens: Tokens


class LoadAdapterBody(BaseModel):
    """The body of ``/v1/load_lora_adapter``."""

    model_config = ConfigDict(strict=True)

    lora_name: str = Field(pattern=r"^[\w.\-]{1,128}$")
    lora_path: str = Field(min_length=1, max_length=4096)
    load_inplace: bool = False


class UnloadAdapterBody(BaseModel):
    """The body of ``/v1/unload_lora_adapter``."""

    lora_name: str
