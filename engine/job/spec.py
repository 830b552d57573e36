"""JobSpec: every knob of a run, typed and documented, in one frozen tree.

Each field is marked `identity` (it changes what is produced, so it is part of the folder's hash) or
`placement` (it changes where or how fast, never what). The string under a field is its help text.
This module reads no file and knows no machine; `jobfile.py` turns YAML into a JobSpec.
"""

from __future__ import annotations

import string
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

Task = Literal["nli", "conversation", "qa", "math", "summarization"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
EnvironmentVariable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
API_KINDS = ("openai", "anthropic")


def identity(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes what a stage produces."""
    return Field(default, json_schema_extra={"role": "identity"}, **constraints)


def placement(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes where, how fast or how patiently a stage works, never its result."""
    return Field(default, json_schema_extra={"role": "placement"}, **constraints)


class Block(BaseModel):
    """Base of every block: frozen, no unknown fields, no silent type conversion."""

    # Defaults are validated too: an int written for a float would otherwise have another identity
    # than what a file says.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    def identity_fields(self) -> dict[str, Any]:
        """The block's identity as plain JSON values; nested blocks likewise, placement fields left
        out."""
        return {
            name: _identity_value(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if (field.json_schema_extra or {}).get("role") == "identity"
        }


def _identity_value(value: Any, free: bool = False) -> Any:
    """`free` values stand in maps whose fields have no types: 20 and 20.0 are one there too."""
    if isinstance(value, Block):
        return value.identity_fields()
    if isinstance(value, list | tuple):
        return [_identity_value(item, free) for item in value]
    if isinstance(value, dict):
        return {key: _identity_value(item, free=True) for key, item in value.items()}
    if isinstance(value, float) and (value == 0 or free) and value.is_integer():
        return int(value) if free else 0.0  # -0.0 too
    return value


class FieldMap(Block):
    """Names of the columns in the source files."""

    id: str | None = identity(None)
    """Column of the row's own id, kept as `source_id`; none: file name and line number."""
    prompt: str = identity("prompt")
    """Column of a single user turn."""
    messages: str = identity("messages")
    """Column of a whole conversation in OpenAI chat form; it wins over `prompt` where both are
    present."""
    reference: str = identity("reference")
    """Column of the gold answer, if there is one."""
    system: str | None = identity(None)
    """Column of a system message that is put before `prompt`."""


class PromptsSpec(Block):
    """Source files -> prompts: normalised, with stable ids, split and sharded."""

    train: str | list[str] = placement()
    """Training prompts: JSONL, JSON arrays, CSV, TSV (each also .gz or .zst), Parquet or a
    `datasets` folder saved to disk; or a folder of them. Identity is their content, not their
    path."""
    validation: str | list[str] | None = placement(None)
    """Validation prompts; none: `validation_fraction` is taken from the training prompts."""
    validation_fraction: float = identity(0.05, ge=0, lt=1)
    """Seeded fraction of the training prompts held out when no validation file is given."""
    fields: FieldMap = identity(FieldMap())
    """Column names in the source files."""
    template: str | None = identity(None)
    """Builds the prompt from columns by name: "Premise: {premise}\\nHypothesis: {hypothesis}";
    none: the prompt or messages column."""
    system: str | None = identity(None)
    """System message put before every conversation that has none."""
    on_conflict: Literal["error", "first"] = identity("error")
    """Equal messages with different references: stop, or keep the first."""
    limit: int | None = identity(None, ge=1)
    """Read at most this many rows of each source file."""
    shard_rows: int = placement(4096, ge=1)
    """Rows per Parquet file."""

    @model_validator(mode="after")
    def _template_names_columns(self) -> PromptsSpec:
        try:
            parts = list(string.Formatter().parse(self.template or "{prompt}"))
        except ValueError:
            parts = []
        names = [(name, how) for _, name, *how in parts if name is not None]
        plain = (["", None], [None, None])  # neither a format nor a conversion
        if not names or not all(
            name.strip() and not name.isdigit() and not set(name) & set(".[]") and how in plain
            for name, how in names
        ):
            raise ValueError(
                f"prompts.template={self.template!r}; write column names in braces, such as"
                f" {{premise}}"
            )
        return self

    def sources(self) -> list[str]:
        """The source files behind a mark of their split, which is no file: a file that changes
        sides changes the identity."""
        found = []
        for split, paths in (("train", self.train), ("validation", self.validation or [])):
            found += [f"{split}:", *([paths] if isinstance(paths, str) else paths)]
        return found


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


_LIMITS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
)  # what bounds an answer, in servers' words
_SEVERAL = ("n", "best_of")  # answers to one request, all charged


class TeacherSpec(Block):
    """One teacher: what it is (identity) and how it is spread over devices (placement)."""

    name: Name = identity()
    """The name under which its rows are stored."""
    kind: Literal["vllm", "openai", "anthropic", "fake"] = identity("vllm")
    """`vllm` runs the model here; `openai` and `anthropic` call an API; `fake` is for tests."""
    model: str = placement()
    """Folder or hub name of the model, or the API's model name. Identity is the weights' content or
    the revision."""
    revision: str | None = identity(None)
    """Hub commit; pin it for a reproducible run."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = identity("auto")
    """Type in which the engine computes."""
    quantization: str | None = identity(None)
    """vLLM's name of a quantisation method; none: what the checkpoint says."""
    kv_cache_dtype: str = identity("auto")
    """Type of the KV cache, e.g. fp8; auto: that of the model."""
    max_model_len: int | None = identity(None, ge=16)
    """Longest prompt plus answer in tokens; none: the model's own limit."""
    system: str | None = identity(None)
    """System message for this teacher alone, put before conversations that have none."""
    sampling: SamplingSpec | None = identity(None)
    """How this teacher answers, in place of generate.sampling."""
    reasoning_parser: str | None = identity(None)
    """vLLM's name of the parser that tells reasoning from answer, e.g. deepseek_r1; none: the text
    is all answer."""
    weight: float = identity(1.0, gt=0)
    """Share of the prompts under `route: split`, relative to the other teachers."""
    routes: list[str] = identity([])
    """Under `route: by`, the values of `route_by` that this teacher answers; a teacher without any
    takes what no other one names."""
    trust_remote_code: bool = identity(False)
    """Run Python code that comes with the model. Only for models that you have read."""
    engine_args: dict[str, Any] = identity({})
    """Further engine arguments, handed to vLLM as they are; for what has no field here."""
    tensor_parallel: int = placement(1, ge=1)
    """Devices that one replica's tensors are split over."""
    pipeline_parallel: int = placement(1, ge=1)
    """Groups of such devices that one replica's layers are split over; may span nodes."""
    data_parallel: int = placement(1, ge=1)
    """Copies of the attention layers inside one replica, each with its own share of the batch
    (large MoE models)."""
    expert_parallel: bool = placement(False)
    """Spread whole experts over a replica's devices in place of slices of each (MoE models)."""
    replicas: int | list[int] = placement(1)
    """Copies of the engine that share the prompts: a number, or [fewest, most] that grow as the
    cluster has room."""
    accelerator_type: str | None = placement(None)
    """Ray's name of the GPU that replicas must get, e.g. H200."""
    max_num_seqs: int | None = placement(None, ge=1)
    """Sequences that one engine decodes at a time; none: 128 on a CPU, vLLM's own choice on a GPU
    (H100, H200: 1,024)."""
    kv_cache_gib: float | None = placement(None, gt=0)
    """KV cache of one replica in GiB; none: 1 GiB on a CPU, vLLM's own choice on a GPU."""
    gpu_memory_utilization: float = placement(0.9, gt=0, le=1)
    """Fraction of a GPU's memory that the engine may take."""
    base_url: str | None = placement(None)
    """Address of the API, if it is not the vendor's own."""
    api_version: str | None = placement(None)
    """Version of an Azure OpenAI endpoint; with it, `base_url` is the resource's address."""
    api_key_env: EnvironmentVariable | None = placement(None)
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
    fake: dict[str, Any] = identity({})
    """Knobs of the `fake` kind (see backends/fake.py)."""

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> TeacherSpec:
        if self.kind in API_KINDS and not self.api_key_env:
            raise ValueError(
                f"kind {self.kind} needs api_key_env, the name of an environment variable that"
                " holds the key"
            )
        if self.kind in API_KINDS and self.replicas != 1:
            raise ValueError(
                f"replicas={self.replicas}, but an API teacher has one client; raise its"
                " concurrency instead"
            )
        if self.prices and self.replicas != 1:
            raise ValueError(
                f"prices with replicas={self.replicas}: each replica would spend a budget of its"
                " own; leave one of them out"
            )
        for name in (*_LIMITS, *_SEVERAL):
            given = self.extra_body.get(name)
            if given is not None and not (
                type(given) in (int, float) and given >= 1 and given == int(given)
            ):
                raise ValueError(
                    f"extra_body.{name}={given!r}; give a whole number from 1, or leave it out"
                )
        limit_is_gone = "max_completion_tokens" in self.extra_body and not any(
            self.extra_body.get(name) for name in _LIMITS
        )
        if self.prices and self.kind == "openai" and limit_is_gone:
            raise ValueError(
                "extra_body takes the limit of an answer out, so no cost could be bounded; set"
                " max_tokens there"
            )
        url = urlsplit(self.base_url or "")
        if url.username or url.password:
            raise ValueError(
                "base_url holds a user or password, which would end up in logs; name the key's"
                " variable in api_key_env"
            )
        numbers = self.replicas if isinstance(self.replicas, list) else [self.replicas]
        if len(numbers) not in (1, 2) or numbers != sorted(numbers) or numbers[0] < 1:
            raise ValueError(
                f"replicas={self.replicas}; give a number from 1, or [fewest, most] such as [2, 8]"
            )
        return self

    @property
    def replica_range(self) -> tuple[int, int]:
        """Fewest and most replicas."""
        return (
            (self.replicas[0], self.replicas[-1])
            if isinstance(self.replicas, list)
            else (self.replicas, self.replicas)
        )

    def most_tokens(self, max_tokens: int) -> int:
        """Tokens that the answers to one request with `max_tokens` may have in all: `extra_body`
        wins, and may ask for several."""
        own = "max_tokens" if self.kind == "anthropic" else "max_completion_tokens"
        limits = {own: max_tokens} | {
            name: self.extra_body[name] for name in _LIMITS if self.extra_body.get(name) is not None
        }
        return int(max(limits.values())) * max(
            int(self.extra_body.get(name) or 1) for name in _SEVERAL
        )

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel


class CaptureSpec(Block):
    """What is kept of the teacher's distribution."""

    top_k: int = identity(0, ge=0, le=1024)
    """Log-probabilities stored per generated token; 0 stores none."""
    dtype: Literal["float32", "float16"] = identity("float16")
    """Type of the stored log-probabilities (codec: plain)."""
    codec: Literal["plain", "packed"] = identity("plain")
    """`plain`: flat Arrow lists; `packed`: half the size, a little less exact
    (engine/rows/codec.py)."""
    packed_bits: int = identity(8, ge=4, le=8)
    """Bits of one packed log-probability: 8 is near exact, 5 takes 13 % fewer bytes
    (benchmarks/signal)."""


class GenerateSpec(Block):
    """Prompts -> completions: who answers which prompt, and how."""

    teachers: list[TeacherSpec] = identity(min_length=1)
    """The teachers; with `route: all` the first one is the reference for retention."""
    route: Literal["all", "split", "by"] = identity("all")
    """`all`: every teacher answers every prompt; `split`: one each, drawn by `weight`; `by`: one
    each, by the prompt's `route_by`."""
    route_by: str | None = identity(None)
    """What `route: by` looks at: task, source, or a field of the source rows such as language."""
    sampling: SamplingSpec = identity(SamplingSpec())
    """How training prompts are answered."""
    capture: CaptureSpec = identity(CaptureSpec())
    """Top-k log-probabilities of the answers."""
    shard_rows: int = placement(512, ge=1)
    """Most rows in one scheduling unit; shards are smaller when there are few rows."""
    rows_in_flight: int | None = placement(None, ge=1)
    """Rows that one replica holds at a time, so that its batch never drains; none: twice its batch,
    or an API's concurrency."""
    part_rows: int = placement(512, ge=1)
    """Rows after which a part is closed and committed."""
    part_seconds: float = placement(60, gt=0)
    """Age after which a part is closed and committed."""
    start_timeout_s: float = placement(7200, gt=0)
    """Longest start of a replica in seconds; one that hangs longer is ended, and the stage with it
    where no replica has started."""
    request_timeout_s: float = placement(600, gt=0)
    """Deadline of one answer in seconds (of one try, for an API); past it the row is `error` and
    the next run tries again."""
    max_attempts: int = placement(5, ge=1)
    """Tries of a request to an API that fails for the moment, before its row is `error`. (A local
    engine's failures are its death.)"""
    max_cost_usd: float | None = placement(None, gt=0)
    """Stop asking, resumably, before the answers of all teachers with `prices` cost more than
    this."""
    max_failed_fraction: float = placement(0.0, ge=0, le=1)
    """Rows that may end in `error` before the stage counts as failed."""
    min_teacher_score: float | None = placement(None, ge=0, le=1)
    """Least score of each teacher on its validation answers that have references; below it the job
    ends here. None: a warning below 0.2."""

    @model_validator(mode="after")
    def _teachers_agree(self) -> GenerateSpec:
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) < len(names):
            raise ValueError(
                f"teachers share a name: {names}; each row is stored under its teacher's name"
            )
        if (self.route == "by") != bool(self.route_by):
            raise ValueError(
                f"route={self.route}, route_by={self.route_by}; `route: by` and `route_by: <field>`"
                " come together"
            )
        values = [value for teacher in self.teachers for value in teacher.routes]
        if self.route == "by" and (
            len(set(values)) < len(values)
            or sum(not teacher.routes for teacher in self.teachers) > 1
        ):
            raise ValueError(
                f"routes of the teachers overlap: {values}; each value goes to one teacher, and one"
                " teacher may take the rest"
            )
        return self

    @model_validator(mode="after")
    def _a_limit_of_cost_knows_the_prices(self) -> GenerateSpec:
        unknown = [
            teacher.name
            for teacher in self.teachers
            if teacher.kind in API_KINDS and not teacher.prices
        ]
        if self.max_cost_usd and unknown:
            raise ValueError(
                f"max_cost_usd={self.max_cost_usd:g}, but {unknown} have no prices; give them, or"
                " leave the limit out"
            )
        return self

    def sampling_of(self, teacher: TeacherSpec) -> SamplingSpec:
        """How `teacher` answers training prompts."""
        return teacher.sampling or self.sampling


class CurateSpec(Block):
    """Completions -> examples: keep, or drop with a reason."""

    min_tokens: int = identity(1, ge=0)
    """Shortest answer kept, in tokens."""
    max_tokens: int | None = identity(None, ge=1)
    """Longest answer kept, in tokens."""
    keep_truncated: bool = identity(False)
    """Keep answers that ran into max_tokens; a student taught by them learns not to stop."""
    dedup: Literal["exact", "none"] = identity("exact")
    """Drop answers to the same prompt that are equal to an earlier one."""
    check_reference: bool = identity(True)
    """Drop answers whose final answer differs from the reference, where the task has one to
    compare."""


class LoraSpec(Block):
    """Low-rank adapters in place of full training (peft), merged into the student at export."""

    rank: int = identity(16, ge=1, le=1024)
    """Rank of each adapter."""
    alpha: float = identity(32.0, gt=0)
    """Scale: an adapter's update counts alpha / rank."""
    dropout: float = identity(0.0, ge=0, lt=1)
    """Dropout of the adapters' inputs."""
    targets: Literal["all-linear"] | list[str] = identity("all-linear")
    """Names of the modules that get an adapter; `all-linear`: every linear layer but the output
    head."""
    quantize: Literal["none", "nf4"] = identity("none")
    """`nf4`: QLoRA, the frozen weights in 4 bits (bitsandbytes, GPUs only)."""


class WhiteBoxSpec(Block):
    """A teacher whose weights are here while the student trains: frozen, sharded with zero_stage:
    3, else a copy per worker."""

    model: str = placement()
    """Folder or hub name of the teacher. Identity is its content or the revision."""
    revision: str | None = identity(None)
    """Hub commit of the teacher."""


Pairs = Annotated[
    list[Annotated[list[int], Field(min_length=2, max_length=2)]], Field(min_length=1)
]


class HiddenSpec(Block):
    """Matching of hidden states with those of train.teacher."""

    layers: Pairs = identity()
    """[student layer, teacher layer] pairs; 1 is the first layer's output, 0 the embeddings."""
    loss: Literal["mse", "cosine"] = identity("mse")
    """Mean squared error, or 1 - cosine, per target token."""
    weight: float = identity(1.0, gt=0)
    """Factor of this term."""


class AttentionTransferSpec(Block):
    """Matching of attention maps, averaged over heads, with those of train.teacher."""

    layers: Pairs = identity()
    """[student layer, teacher layer] pairs; layers count from 1."""
    weight: float = identity(1.0, gt=0)
    """Factor of this term."""


class GatesSpec(Block):
    """Checks before the first step, each seconds long."""

    rescored_examples: int = placement(8, ge=0)
    """Examples whose stored signal is compared with a forward pass of the teacher, where it is at
    hand; 0: none."""
    max_drift: float = placement(0.1, gt=0)
    """Largest mean |difference| in nats that comparison may show: engine and trainer must see the
    same teacher."""
    min_captured_mass: float = placement(0.5, ge=0, lt=1)
    """Least mean probability that the stored top-k holds per token."""
    max_loss_error: float = placement(0.02, gt=0)
    """Largest relative difference between the first batch's loss and a float64 dense computation on
    a slice of it."""


class TrainSpec(Block):
    """Examples -> checkpoint."""

    student: str = placement()
    """Folder or hub name of the student. Identity is its content or the revision."""
    revision: str | None = identity(None)
    """Hub commit of the student."""
    init: Literal["pretrained", "random"] = identity("pretrained")
    """`random` needs only a config.json and starts from seeded random weights."""
    tokenizer: str | None = placement(None)
    """Folder or hub name of the student's tokenizer, if it does not lie with the student."""
    loss: Literal[
        "sft",
        "forward_kl",
        "reverse_kl",
        "jsd",
        "skew_forward_kl",
        "skew_reverse_kl",
        "adaptive_kl",
        "tvd",
        "uld",
    ] = identity("sft")
    """`sft`: cross-entropy on the teacher's tokens; the others compare distributions, `uld` across
    tokenizers (training/losses.py)."""
    sft_weight: float = identity(0.0, ge=0, lt=1)
    """Share of `sft` beside another loss: (1 - w) * loss + w * sft."""
    temperature: float = identity(1.0, gt=0, le=20)
    """Temperature of both distributions; the loss is scaled by its square."""
    tail: Literal["bucket", "renormalize", "drop"] = identity("bucket")
    """Mass outside the captured top-k: one bucket more, renormalised away, or a bucket that the
    loss leaves out."""
    jsd_beta: float = identity(0.5, gt=0, lt=1)
    """Weight of the teacher in the mixture of `jsd`."""
    skew: float = identity(0.1, gt=0, lt=1)
    """Share of the own distribution that `skew_forward_kl` and `skew_reverse_kl` mix into the other
    one."""
    adaptive_head: float = identity(0.5, gt=0, lt=1)
    """Probability mass of the teacher's largest tokens that `adaptive_kl` calls the head."""
    teacher: WhiteBoxSpec | None = identity(None)
    """A live teacher: losses use its whole distribution in place of a stored top-k."""
    hidden: HiddenSpec | None = identity(None)
    """Also match hidden states of train.teacher."""
    attention_transfer: AttentionTransferSpec | None = identity(None)
    """Also match attention maps of train.teacher."""
    learn_turns: Literal["last", "all"] = identity("last")
    """Assistant turns that `sft` learns: the teacher's answer, or those in the prompt too."""
    long_examples: Literal["drop", "truncate", "split"] = identity("drop")
    """Examples longer than block_tokens: dropped, cut at its end, or cut into pieces that do not
    see each other."""
    learning_rate: float = identity(2e-5, gt=0, le=1)
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = identity("cosine")
    """Learning rate after the warm-up: falls to its minimum by a cosine or a line, stays, or stays
    and falls at the end (wsd)."""
    min_learning_rate_ratio: float = identity(0.1, ge=0, le=1)
    """The learning rate falls to this fraction of the peak."""
    warmup_ratio: float = identity(0.03, ge=0, lt=1)
    """Fraction of the steps in which the learning rate rises linearly."""
    decay_ratio: float = identity(0.2, gt=0, le=1)
    """Fraction of the steps in which `wsd` falls."""
    weight_decay: float = identity(0.0, ge=0, le=1)
    """AdamW's decoupled weight decay."""
    adam_beta2: float = identity(0.999, gt=0, lt=1)
    """AdamW's second-moment decay; 0.95 is steadier in short runs from random weights."""
    max_grad_norm: float = identity(1.0, gt=0)
    """Gradients are clipped to this global norm."""
    epochs: int = identity(3, ge=1, le=1000)
    """Passes over the examples."""
    block_tokens: int = identity(2048, ge=16)
    """Length of a packed block."""
    global_batch: int | None = identity(None, ge=1)
    """Blocks per optimizer step; none: batch_size x workers x accumulation at the first start, then
    kept."""
    precision: Literal["fp32", "bf16"] = identity("bf16")
    """Type of weights in forward and backward; the optimizer is always fp32. With bf16, gradients
    of a step's micro-batches add up in fp32 from zero_stage 2 on, in bf16 below."""
    lora: LoraSpec | None = identity(None)
    """Train low-rank adapters only."""
    validate_steps: int = identity(200, ge=1)
    """Optimizer steps between validation losses; there is always one at the end."""
    export: Literal["last", "best"] = identity("last")
    """Which weights become the student: those of the last step, or of the least validation loss."""
    early_stopping: int | None = identity(None, ge=1)
    """End after this many validations in a row without a new least loss."""
    batch_size: int = placement(2, ge=1)
    """Blocks per worker per micro-step."""
    accumulation: int = placement(1, ge=1)
    """Micro-steps per optimizer step at the first start, when global_batch is not given."""
    workers: int = placement(1, ge=1)
    """Data-parallel workers (one GPU each, or one CPU each with device: cpu)."""
    elastic: list[int] | None = placement(None)
    """[fewest, most] workers in place of `workers`: starts with what is there, restarts larger or
    smaller as nodes come and go. Where their number does not divide the global batch, some workers
    take a block less."""
    zero_stage: int = placement(2, ge=0, le=3)
    """DeepSpeed ZeRO stage."""
    offload: Literal["none", "cpu", "nvme"] = placement("none")
    """Where ZeRO keeps optimizer states (and parameters at stage 3); nvme wants stage 3."""
    nvme_path: str | None = placement(None)
    """Folder on each node's NVMe disk for offload: nvme."""
    deepspeed: dict[str, Any] = placement({})
    """Further settings of DeepSpeed's configuration; what this block decides may not be set
    there."""
    gradient_checkpointing: bool = placement(False)
    """Recompute activations in the backward pass: less memory, about a third more time."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = placement(
        "auto"
    )
    """transformers' attention; auto: example by example on a CPU, variable-length flash attention
    on a GPU (the flash_attn package's, else torch's), sdpa where neither can."""
    logits_mib: int = placement(32, ge=1)
    """Size of the piece of logits that exists at a time, in MiB of fp32."""
    cache_dir: str | None = placement(None)
    """Local folder to which workers copy the shards that they read; none: read where they lie."""
    cache_gib: float = placement(50.0, gt=0)
    """Most that cache_dir may hold on a node, in GiB; at least one shuffling window of shards (2
    GiB)."""
    checkpoint_steps: int = placement(200, ge=1)
    """Optimizer steps between checkpoints."""
    keep_checkpoints: int = placement(2, ge=1)
    """Complete checkpoints kept on disk, beside the best one."""
    max_failures: int = placement(3, ge=0)
    """Worker-group restarts before the stage fails."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = placement(["tensorboard"])
    """Where figures go beside metrics.jsonl; wandb and mlflow must be installed."""
    gates: GatesSpec = placement(GatesSpec())
    """Checks before the first step."""

    @model_validator(mode="after")
    def _offload_has_what_it_needs(self) -> TrainSpec:
        if self.offload != "none" and self.zero_stage == 0:
            raise ValueError(
                f"train.offload={self.offload} moves what ZeRO shards, but train.zero_stage=0"
                " shards nothing; set zero_stage: 1, 2 or 3"
            )
        if self.offload == "nvme" and (self.zero_stage != 3 or not self.nvme_path):
            raise ValueError(
                f"train.offload=nvme wants zero_stage: 3 and nvme_path; given {self.zero_stage} and"
                f" {self.nvme_path}"
            )
        reloads = [
            name
            for name, wants in (
                ("export: best", self.export == "best"),
                ("elastic", self.elastic is not None),
            )
            if wants
        ]
        if self.offload == "nvme" and reloads:
            raise ValueError(
                f"train.{reloads[0]} loads a checkpoint, which DeepSpeed cannot with offload=nvme;"
                " set offload: cpu, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _the_batch_divides(self) -> TrainSpec:
        if self.elastic is not None and not (
            len(self.elastic) == 2 and 1 <= self.elastic[0] <= self.elastic[1]
        ):
            raise ValueError(
                f"train.elastic={self.elastic}; give [fewest, most] workers, such as [2, 8]"
            )
        if self.global_batch and not self.elastic and self.global_batch % self.workers:
            raise ValueError(
                f"train.global_batch={self.global_batch} blocks do not divide over"
                f" workers={self.workers};"
                f" choose a multiple of {self.workers}, or a number of workers that divides it"
            )
        return self

    @model_validator(mode="after")
    def _losses_have_what_they_compare(self) -> TrainSpec:
        if self.loss == "sft" and self.sft_weight:
            raise ValueError(
                f"train.sft_weight={self.sft_weight} mixes sft into another loss, but loss is sft;"
                " leave it out"
            )
        if self.loss != "sft" and self.learn_turns == "all":
            raise ValueError(
                f"train.learn_turns=all, but loss={self.loss} knows the teacher's own answer only;"
                " set loss: sft"
            )
        if self.teacher and self.loss == "sft" and not (self.hidden or self.attention_transfer):
            raise ValueError(
                "train.teacher is live, but loss=sft reads none of it; set loss: forward_kl (or"
                " hidden), or leave teacher out"
            )
        if self.loss == "uld" and self.teacher:
            raise ValueError(
                "train.loss=uld learns from a stored top-k; leave train.teacher out, or choose"
                " another loss"
            )
        for name in ("hidden", "attention_transfer"):
            if getattr(self, name) and not self.teacher:
                raise ValueError(
                    f"train.{name} matches layers of a live teacher; give teacher: {{model: ...}}"
                )
        if self.attention_transfer and self.attention not in ("auto", "eager"):
            raise ValueError(
                f"train.attention_transfer reads attention maps, which attention={self.attention}"
                " never makes; set attention: eager"
            )
        if self.lora and "lm_head" in self.lora.targets:
            raise ValueError(
                "train.lora.targets adapt the output head (lm_head), which the losses read as it"
                " is; leave it out"
            )
        if self.lora and self.lora.quantize != "none" and self.zero_stage == 3:
            raise ValueError(
                f"train.lora.quantize={self.lora.quantize} packs weights, which zero_stage=3 cannot"
                " shard; set zero_stage: 2"
            )
        return self

    def models(self) -> list[str]:
        """Folders and hub names whose content decides the result."""
        return [self.student, self.tokenizer or "", *([self.teacher.model] if self.teacher else [])]

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers."""
        return (self.elastic[0], self.elastic[1]) if self.elastic else (self.workers, self.workers)


class EvaluateSpec(Block):
    """Checkpoint + validation prompts -> scores of teacher, untrained baseline and student."""

    metrics: Literal["auto"] | list[Literal["exact_match", "f1", "accuracy", "bleu", "rougeL"]] = (
        identity("auto")
    )
    """`auto`: the metrics of the job's task."""
    baseline: bool = identity(True)
    """Also score the student as it was before training."""
    max_tokens: int | None = identity(None, ge=1)
    """Longest answer; none: generate.sampling.max_tokens."""
    bootstrap_samples: int = identity(1000, ge=100, le=100_000)
    """Resamples of the bootstrap interval of means and of retention."""
    max_model_len: int | None = identity(None, ge=16)
    """Longest prompt plus answer in tokens; long-rope models rotate by it
    (engine/training/rope.py)."""
    tensor_parallel: int = placement(1, ge=1)
    """Devices of one replica."""
    replicas: int = placement(1, ge=1)
    """Engine copies per model."""
    max_num_seqs: int | None = placement(None, ge=1)
    """Sequences that one engine decodes at a time; none: 128 on a CPU, vLLM's own choice on a GPU
    (H100, H200: 1,024)."""
    kv_cache_gib: float | None = placement(None, gt=0)
    """KV cache of one replica in GiB."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = identity("auto")
    """Type in which the student's engine computes."""


class ServeSpec(Block):
    """Checkpoint -> an OpenAI-compatible endpoint."""

    host: str = placement("127.0.0.1")
    """Address to listen on; anything but loopback demands api_key_env."""
    port: int = placement(8000, ge=1, le=65535)
    """Port to listen on."""
    api_key_env: EnvironmentVariable | None = placement(None)
    """Name of the environment variable that holds the bearer key; with it every route wants the
    key."""
    replicas: int = placement(1, ge=1)
    """Engine copies per served model."""
    tensor_parallel: int = placement(1, ge=1)
    """Devices of one replica of the student (the teacher brings its own)."""
    max_num_seqs: int | None = placement(None, ge=1)
    """Sequences that one engine decodes at a time; none: 128 on a CPU, vLLM's own choice on a GPU
    (H100, H200: 1,024)."""
    max_model_len: int | None = placement(None, ge=16)
    """Longest prompt plus answer in tokens."""
    kv_cache_gib: float | None = placement(None, gt=0)
    """KV cache of one replica in GiB."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = identity("auto")
    """Type in which the engine computes."""
    start_timeout_s: float = placement(900, gt=0)
    """Longest wait for the endpoint to be ready."""


class LoadtestSpec(Block):
    """Endpoint -> request samples, curves and failures."""

    models: list[Literal["student", "teacher", "baseline"]] = identity(["student"])
    """Models to load, all in one Serve application, one after the other; empty: no load test."""
    arrivals: Literal["poisson", "constant"] = identity("poisson")
    """Gaps between requests at a given rate."""
    concurrency: list[int] = identity([])
    """Closed-loop levels: this many requests are always in flight."""
    rates: list[float] = identity([])
    """Open-loop levels: requests per second, drawn once from the seeded generator."""
    seconds: float = identity(30, gt=0)
    """Length of one level."""
    warmup_seconds: float = identity(5, ge=0)
    """Load before each level that is sent but not measured."""
    max_tokens: int = identity(128, ge=1)
    """Longest answer."""
    temperature: float = identity(0.0, ge=0, le=2)
    """Sampling temperature of the requests."""
    timeout_s: float = identity(120, gt=0)
    """Deadline of one request; past it the request failed."""

    @model_validator(mode="after")
    def _levels_are_positive(self) -> LoadtestSpec:
        if any(level <= 0 for level in [*self.concurrency, *self.rates]):
            raise ValueError("concurrency and rates must be greater than 0")
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models names one twice: {self.models}")
        if self.models and not (self.concurrency or self.rates):
            raise ValueError(
                "a load test needs levels: give concurrency: [1, 4], or rates: [1.0], or models: []"
            )
        return self


class ReportSpec(Block):
    """Manifests -> report.json, report.md, report.html."""

    html: bool = identity(True)
    """Also write the single-file report.html with plots."""


class JobSpec(Block):
    """One distillation, from prompts to report."""

    version: Literal[1] = identity(1)
    """Version of this format."""
    name: Name = placement()
    """Name of the job and of its folder under --runs."""
    task: Task = identity()
    """What the answers are; decides the metrics and the check against references."""
    seed: int = identity(0, ge=0, lt=2**31)
    """Root of every random choice."""
    device: Literal["gpu", "cpu"] = placement("gpu")
    """What engines and workers run on."""
    prompts: PromptsSpec = identity()
    """Stage 1."""
    generate: GenerateSpec = identity()
    """Stage 2."""
    curate: CurateSpec = identity(CurateSpec())
    """Stage 3."""
    train: TrainSpec = identity()
    """Stage 4."""
    evaluate: EvaluateSpec = identity(EvaluateSpec())
    """Stage 5."""
    serve: ServeSpec = identity(ServeSpec())
    """Stage 6: alive during loadtest and `distill serve`."""
    loadtest: LoadtestSpec = identity(LoadtestSpec(concurrency=[1, 4, 16]))
    """Stage 7."""
    report: ReportSpec = identity(ReportSpec())
    """Stage 8."""

    def key_variables(self) -> dict[str, str]:
        """{field: environment variable} of each API key that the job names."""
        named = {
            f"generate.teachers.{number}.api_key_env": t.api_key_env
            for number, t in enumerate(self.generate.teachers)
        }
        return {
            field: name
            for field, name in (named | {"serve.api_key_env": self.serve.api_key_env}).items()
            if name
        }

    @model_validator(mode="after")
    def _blocks_agree(self) -> JobSpec:
        teacher = self.generate.teachers[0]
        stored = (
            self.train.loss != "sft" and not self.train.teacher
        )  # the loss reads what generate captured
        if stored and self.generate.capture.top_k == 0:
            raise ValueError(
                f"train.loss={self.train.loss} learns from the teacher's distribution, but"
                " generate.capture.top_k=0 stores none;"
                " set generate.capture.top_k to 16 or more, give a live train.teacher, or set"
                " train.loss to sft"
            )
        if self.train.lora and self.train.lora.quantize != "none" and self.device == "cpu":
            raise ValueError(
                "train.lora.quantize=nf4 needs a GPU; set quantize: none, or device: gpu"
            )
        if "teacher" in self.loadtest.models and teacher.kind != "vllm":
            raise ValueError(
                f"loadtest.models lists the teacher, but teacher '{teacher.name}' is kind"
                f" {teacher.kind}: other people's servers"
                " are not load-tested; take teacher out of loadtest.models"
            )
        for number, other in enumerate(self.generate.teachers):
            most = {"openai": 20, "anthropic": 0}.get(other.kind, 1024)
            if self.generate.capture.top_k > most:
                raise ValueError(
                    f"generate.capture.top_k={self.generate.capture.top_k}, but"
                    f" generate.teachers.{number} is kind {other.kind}, whose API"
                    f" gives at most {most}; lower it"
                )
            if stored and other.kind in API_KINDS:
                raise ValueError(
                    f"train.loss={self.train.loss} wants token ids, which teacher '{other.name}'"
                    " does not give; set train.loss: sft"
                )
        if self.serve.host not in ("127.0.0.1", "localhost", "::1") and not self.serve.api_key_env:
            raise ValueError(
                f"serve.host={self.serve.host} is not loopback: serve.api_key_env must name a key's"
                " environment variable"
            )
        return self
