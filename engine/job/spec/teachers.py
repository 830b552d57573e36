"""The teachers of `generate`: one block per kind, each with the fields that this kind reads."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from engine.job.spec.base import Block, EnvironmentVariable, Name, identity, placement
from engine.job.spec.engines import EngineSpec, Model

API_KINDS = ("openai", "anthropic")
BATCH_WINDOW_H = 24  # hours within which both vendors end a batch
BATCHED_ROWS = 100_000  # requests that wait in batches at a time, and so in memory
# What bounds an answer, in servers' words.
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_SEVERAL = ("n", "best_of")  # answers to one request, all charged


class SamplingSpec(Block):
    """How training prompts are answered. Validation prompts are always answered greedily, once."""

    temperature: float = identity(0.7, ge=0, le=2)
    """0 is greedy."""
    top_p: float = identity(1.0, gt=0, le=1)
    """Nucleus: smallest set of tokens with this much probability."""
    max_tokens: int = identity(512, ge=1)
    """Longest answer in tokens."""
    samples: int = identity(1, ge=1, le=1024)
    """Answers per training prompt."""
    stop_loops: bool = identity(True)
    """End an answer that repeats itself (status `loop`): 4 to 32 tokens, eight times in a row.
    Teachers of kind vllm."""
    reproducible: bool = identity(True)
    """A seed per request, from (job seed, prompt, teacher, sample). Off is faster in large
    batches."""


class PriceSpec(Block):
    """What an API charges, in US dollars per million tokens."""

    input: float = placement(ge=0)
    """Prompt tokens."""
    output: float = placement(ge=0)
    """Generated tokens, reasoning included."""
    batch_discount: float = placement(0.5, ge=0, lt=1)
    """Share of both prices that an answer through `batch: true` costs less."""

    def of_batch(self) -> PriceSpec:
        """What answers in batches cost."""
        share = 1 - self.batch_discount
        return PriceSpec(input=self.input * share, output=self.output * share)


class AnyTeacher(Block):
    """What every teacher has, whoever runs it."""

    name: Name = identity()
    """The name under which its rows are stored."""
    model: str = placement()
    """Folder or hub name of the model, or the API's model name. Identity is the weights' content
    or the revision."""
    system: str | None = identity(None)
    """System message for this teacher alone, put before conversations that have none."""
    sampling: SamplingSpec | None = identity(None)
    """How this teacher answers, in place of generate.sampling."""
    weight: float = identity(1.0, gt=0)
    """Share of the prompts under `route: split`, relative to the other teachers."""
    routes: list[str] = identity([])
    """Under `route: by`, the values of `route_by` that this teacher answers; a teacher without any
    takes what no other one names."""


class VllmTeacherSpec(AnyTeacher, EngineSpec):
    """A teacher whose weights are here: vLLM runs it."""

    kind: Literal["vllm"] = identity("vllm")
    """vLLM runs the model here."""
    revision: str | None = identity(None)
    """Hub commit; pin it for a reproducible run."""
    reasoning_parser: str | None = identity(None)
    """vLLM's name of the parser that tells reasoning from answer, e.g. deepseek_r1; none: the text
    is all answer."""
    tool_parser: str | None = identity(None)
    """vLLM's name of the parser that reads calls of tools out of an answer, e.g. hermes or
    llama3_json; wanted where prompts offer tools."""
    trust_remote_code: bool = identity(False)
    """Run Python code that comes with the model. Only for models that you have read."""

    def to_model(self) -> Model:
        """What its engine runs."""
        return Model(
            self.name,
            self.model,
            self.revision,
            self,
            self.trust_remote_code,
            self.reasoning_parser,
            self.tool_parser,
        )


class ApiTeacher(AnyTeacher):
    """A teacher behind somebody's API."""

    own_limit: ClassVar[str]  # the protocol's field for the longest answer

    kind: str = identity()
    """Which protocol the API speaks."""
    base_url: str | None = placement(None)
    """Address of the API, if it is not the vendor's own."""
    api_key_env: EnvironmentVariable = placement()
    """Name of the environment variable that holds the API key; never the key."""
    extra_body: dict[str, Any] = identity({})
    """Further fields of each API request, e.g. {return_tokens_as_token_ids: true} where the server
    is vLLM."""
    concurrency: int = placement(16, ge=1)
    """Most requests to an API at a time; fewer while it answers 429."""
    requests_per_minute: int | None = placement(None, ge=1)
    """Budget of requests that the API grants."""
    tokens_per_minute: int | None = placement(None, ge=1)
    """Budget of tokens, in and out, that the API grants."""
    prices: PriceSpec | None = placement(None)
    """What the API charges; with it, cost is shown, kept in the manifest and bounded by
    generate.max_cost_usd."""
    batch: bool = placement(False)
    """Ask through the vendor's batch API: files of requests, answered within 24 hours at
    prices.batch_discount. A run that was ended goes on with the batches that it has made."""
    batch_rows: int | None = placement(None, ge=1, le=100_000)
    """Most requests in one batch; none: as many as the vendor takes (50,000 or 100,000)."""

    @property
    def charged(self) -> PriceSpec | None:
        """What its answers cost the way that it is asked."""
        return self.prices.of_batch() if self.prices and self.batch else self.prices

    def asked_live(self) -> Self:
        """The same teacher, each request by itself."""
        return self.model_copy(update={"batch": False, "batch_rows": None})

    @model_validator(mode="after")
    def _batches_have_fields_of_their_own(self) -> ApiTeacher:
        if self.batch_rows and not self.batch:
            raise ValueError(
                f"batch_rows={self.batch_rows} is not read without batch: true; leave it out, or"
                " set batch: true"
            )
        for name in ("requests_per_minute", "tokens_per_minute"):
            if self.batch and getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)} is not read with batch: true; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _limits_of_answers_are_numbers(self) -> ApiTeacher:
        for name in (*_LIMITS, *_SEVERAL):
            given = self.extra_body.get(name)
            if given is not None and not _is_whole(given):
                raise ValueError(
                    f"extra_body.{name}={given!r}; give a whole number from 1, or leave it out"
                )
        return self

    @model_validator(mode="after")
    def _the_address_holds_no_password(self) -> ApiTeacher:
        url = urlsplit(self.base_url or "")
        if url.username or url.password:
            raise ValueError(
                "base_url holds a user or password, which would end up in logs; name the key's"
                " variable in api_key_env"
            )
        return self

    def most_tokens(self, max_tokens: int) -> int:
        """Tokens that the answers to one request with `max_tokens` may have in all: `extra_body`
        wins, and may ask for several."""
        limits = {self.own_limit: max_tokens}
        for name in _LIMITS:
            if self.extra_body.get(name) is not None:
                limits[name] = self.extra_body[name]
        answers = max(int(self.extra_body.get(name) or 1) for name in _SEVERAL)
        return int(max(limits.values())) * answers


class OpenAITeacherSpec(ApiTeacher):
    """A teacher behind any server of OpenAI's chat protocol."""

    own_limit: ClassVar[str] = "max_completion_tokens"

    kind: Literal["openai"] = identity("openai")
    """Calls an API of OpenAI's chat protocol."""
    api_version: str | None = placement(None)
    """Version of an Azure OpenAI endpoint; with it, `base_url` is the resource's address."""

    @model_validator(mode="after")
    def _a_priced_answer_has_a_limit(self) -> OpenAITeacherSpec:
        taken_out = self.own_limit in self.extra_body
        if self.prices and taken_out and not any(self.extra_body.get(name) for name in _LIMITS):
            raise ValueError(
                "extra_body takes the limit of an answer out, so no cost could be bounded; set"
                " max_tokens there"
            )
        return self


class AnthropicTeacherSpec(ApiTeacher):
    """Claude, or a server of the Anthropic messages protocol."""

    own_limit: ClassVar[str] = "max_tokens"

    kind: Literal["anthropic"] = identity("anthropic")
    """Calls an API of Anthropic's messages protocol."""


class FakeTeacherSpec(AnyTeacher, EngineSpec):
    """A teacher for tests, in the place of an engine or of an API."""

    kind: Literal["fake"] = identity("fake")
    """Repeats the prompt's words; for tests."""
    fake: dict[str, Any] = identity({})
    """Its knobs (see backends/fake.py)."""
    concurrency: int = placement(16, ge=1)
    """Most requests at a time."""
    prices: PriceSpec | None = placement(None)
    """What its answers are said to cost."""

    @model_validator(mode="after")
    def _one_replica_spends_the_budget(self) -> FakeTeacherSpec:
        if self.prices and self.replicas != 1:
            raise ValueError(
                f"prices with replicas={self.replicas}: each replica would spend a budget of its"
                " own; leave one of them out"
            )
        return self

    def most_tokens(self, max_tokens: int) -> int:
        """Tokens that the answer to one request may have."""
        return max_tokens


TeacherSpec = Annotated[
    VllmTeacherSpec | OpenAITeacherSpec | AnthropicTeacherSpec | FakeTeacherSpec,
    Field(discriminator="kind"),
]


def _is_whole(value: Any) -> bool:
    return type(value) in (int, float) and value >= 1 and value == int(value)
