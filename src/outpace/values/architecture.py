"""The shape of a language model: what its memory and speed follow from."""

from typing import Literal

import msgspec

from outpace.values.errors import InvalidInput

AttentionKind = Literal["gqa", "mla"]


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Layer counts and widths of a decoder; multi-head attention is `gqa` with as many KV heads as heads.

    A layer may hold attention, a feed-forward part, or both: `attention_layers`, `sliding_layers` and
    `linear_layers` count the mixers, `dense_layers` and `moe_layers` the feed-forward parts.
    """

    name: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_tokens: int
    attention_layers: int
    sliding_layers: int = 0
    sliding_window_tokens: int = 0
    linear_layers: int = 0
    linear_layer_parameters: int = 0
    linear_state_values: int = 0
    dense_layers: int = 0
    ffn: int = 0
    ffn_matrices: int = 3
    moe_layers: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    attention: AttentionKind = "gqa"
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    nope_dim: int = 0
    v_dim: int = 0
    query_gate: bool = False
    sparse_top_tokens: int = 0
    tied_embeddings: bool = False
    # What the publisher says; a test and `check` compare it with the sum of the parts.
    published_parameters: int = 0
    # Format of the checkpoint where it is not 16 bit.
    native_format: str = ""
    aliases: tuple[str, ...] = ()
    source: str = ""
    checked_on: str = ""

    @property
    def layers(self) -> int:
        """Depth: the larger of the mixer count and the feed-forward count, as most layers hold both."""
        mixers = self.attention_layers + self.sliding_layers + self.linear_layers
        return max(mixers, self.dense_layers + self.moe_layers)

    @property
    def mixer_layers(self) -> int:
        """Layers that keep keys and values of tokens."""
        return self.attention_layers + self.sliding_layers

    @property
    def attention_parameters_per_layer(self) -> int:
        """Query, key, value and output projections of one attention layer."""
        if self.attention == "mla":
            return self._mla_parameters
        query = self.hidden * self.heads * self.head_dim
        key_value = 2 * self.hidden * self.kv_heads * self.head_dim
        return query * (3 if self.query_gate else 2) + key_value

    @property
    def _mla_parameters(self) -> int:
        # DeepSeek-V2, arXiv 2405.04434, section 2.1: low-rank joint compression of keys and values.
        key_dim = self.nope_dim + self.rope_dim
        query = self.hidden * self.q_rank + self.q_rank * self.heads * key_dim
        down = self.hidden * (self.kv_rank + self.rope_dim)
        up = self.kv_rank * self.heads * (self.nope_dim + self.v_dim)
        return query + down + up + self.heads * self.v_dim * self.hidden

    @property
    def expert_parameters(self) -> int:
        """Weights of one routed expert in one layer."""
        return self.ffn_matrices * self.hidden * self.expert_ffn

    @property
    def routed_parameters(self) -> int:
        """Weights of all routed experts in all layers."""
        return self.moe_layers * self.experts * self.expert_parameters

    @property
    def embedding_parameters(self) -> int:
        """Token table and output head; one table when tied."""
        return self.vocab * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def mixer_parameters(self) -> int:
        """Weights of all attention and linear-attention layers."""
        attention = self.mixer_layers * self.attention_parameters_per_layer
        return attention + self.linear_layers * self.linear_layer_parameters

    @property
    def dense_parameters(self) -> int:
        """Weights that every token passes through, without the token table and the output head."""
        feed_forward = self.dense_layers * self.ffn_matrices * self.hidden * self.ffn
        shared = self.moe_layers * self.ffn_matrices * self.hidden * self.shared_ffn
        router = self.moe_layers * self.hidden * self.experts
        return self.mixer_parameters + feed_forward + shared + router

    @property
    def parameters(self) -> int:
        """All weights (norms and biases, below 0.1 %, are left out)."""
        return self.embedding_parameters + self.routed_parameters + self.dense_parameters

    @property
    def active_parameters(self) -> int:
        """Weights that one generated token is multiplied with, output head included."""
        routed = self.moe_layers * self.experts_per_token * self.expert_parameters
        return self.dense_parameters + routed + self.vocab * self.hidden

    def check(self) -> None:
        """Refuse a description that contradicts itself. Raises InvalidInput naming the field."""
        for field in ("hidden", "heads", "kv_heads", "head_dim", "vocab", "context_tokens"):
            if getattr(self, field) <= 0:
                raise InvalidInput(field, f"of {self.name} must be positive; correct its config")
        if self.heads % self.kv_heads:
            raise InvalidInput(
                "kv_heads", f"{self.kv_heads} does not divide {self.heads} heads of {self.name}"
            )
        if self.moe_layers and not 0 < self.experts_per_token <= self.experts:
            raise InvalidInput("experts_per_token", f"must be 1 to {self.experts} for {self.name}")
        if not self.layers or not (self.dense_layers or self.moe_layers):
            raise InvalidInput("layers", f"{self.name} describes no complete layer; correct its config")
        self._check_published()

    def _check_published(self) -> None:
        if not self.published_parameters:
            return
        ratio = self.parameters / self.published_parameters
        if not 0.9 < ratio < 1.1:
            raise InvalidInput(
                "published_parameters",
                f"{self.name} says {self.published_parameters:,} but its layers add up to "
                f"{self.parameters:,}; one of them is wrong",
            )
