"""The figures of a model that decide what fits where and how fast it is: nothing of its weights."""

from __future__ import annotations

from dataclasses import dataclass

LATENT_ROPE = 64  # positions' part of a latent (MLA) cache entry, in every model so far
LATENT_HEAD = 160  # mean of 192 of queries and keys (128 + 64) and 128 of values, before absorption


@dataclass(frozen=True)
class Architecture:
    """One model. Parameters are in billions; `mla_rank` is the width of a latent (MLA) cache entry,
    0 for plain KV heads.

    `experts` of a layer are routed to, `top_k` by each token, in `moe_layers` of the layers (0:
    all), and hold `experts_b` of the parameters; all 0 in a dense model. `ffn` is the inner width
    of a dense layer. `window_layers` look back `window` positions only. Up to `short_context`
    positions a long-rope model rotates by its short factors; 0 in other models. Weights outside the
    experts take `rest_bytes`, where that is not 0; the output head takes 16 bits, and is the
    embedding too in a `tied` model.
    """

    params_b: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mla_rank: int
    vocab: int
    max_context: int
    bytes_per_param: float
    experts: int = 0
    experts_b: float = 0.0
    ffn: int = 0
    short_context: int = 0
    top_k: int = 0
    moe_layers: int = 0
    window: int = 0
    window_layers: int = 0
    rest_bytes: float = 0.0
    tied: bool = False

    @property
    def rest_b(self) -> float:
        """Parameters outside the experts, in billions."""
        return self.params_b - self.experts_b

    @property
    def active_experts_b(self) -> float:
        """Parameters of the experts that one token passes, in billions."""
        if not self.experts:
            return 0.0
        return self.experts_b * max(1, self.top_k) / self.experts

    @property
    def head_b(self) -> float:
        """Parameters of the output head, in billions."""
        return self.vocab * self.hidden / 1e9

    @property
    def blocks_b(self) -> float:
        """Parameters outside experts, embedding and head: what every token passes, in billions."""
        ends = 1 if self.tied else 2
        return max(self.rest_b - ends * self.head_b, 0.1 * self.rest_b)

    @property
    def active_b(self) -> float:
        """Parameters that one token passes, head included, in billions."""
        return self.blocks_b + self.active_experts_b + self.head_b

    @property
    def routed_layers(self) -> int:
        """Layers with experts."""
        if not self.experts:
            return 0
        return self.moe_layers or self.layers

    def cached_positions(self, context: float) -> float:
        """Cached positions of a sequence of this length, summed over the layers."""
        near = min(context, self.window or context)
        return (self.layers - self.window_layers) * context + self.window_layers * near

    def kv_width(self) -> int:
        """Numbers that one layer caches of one position, of all heads."""
        return self.mla_rank or 2 * self.kv_heads * self.head_dim

    def decode_flops(self) -> float:
        """Attention arithmetic of one query token against one cached position of one layer; a
        latent cache is attended as it lies (absorbed)."""
        if self.mla_rank:
            return 2.0 * self.heads * (2 * (self.mla_rank - LATENT_ROPE) + LATENT_ROPE)
        return 4.0 * self.heads * self.head_dim

    def prefill_flops(self) -> float:
        """Likewise where the prompt is read."""
        return 4.0 * self.heads * (LATENT_HEAD if self.mla_rank else self.head_dim)

    def weights_gb_per_device(
        self, tensor_parallel: int, pipeline_parallel: int = 1, data_parallel: int = 1
    ) -> float:
        """Weights on one device in GB (1e9 bytes): data-parallel ranks repeat all but the experts,
        which vLLM spreads over them too."""
        rest_gb = self.rest_b * (self.rest_bytes or self.bytes_per_param)
        experts_gb = self.experts_b * self.bytes_per_param / data_parallel
        return (rest_gb + experts_gb) / (tensor_parallel * pipeline_parallel)

    def weights_gb(self) -> float:
        """All weights in GB, as they lie on disk."""
        return self.weights_gb_per_device(1)

    def kv_bytes_per_token(self, tensor_parallel: int = 1) -> float:
        """16-bit KV cache of one token on one device in bytes; a latent cache is whole on each
        device (serving sizing B6.2)."""
        if self.mla_rank:
            return 2 * self.layers * self.mla_rank
        share = max(1 / tensor_parallel, 1 / self.kv_heads)  # no device holds less than one head
        return 4 * self.layers * self.kv_heads * self.head_dim * share
