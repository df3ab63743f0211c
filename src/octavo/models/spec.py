"""A model as plain data: parts, no arithmetic, no checkpoint format. Lowered once by lower.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: angle of pair i at position p is p * theta^(-2i/dims), slowed down by `scaling`.

    dims: how many of a head's dims turn, the first ones; 0: all. scaling:

        "none"
        "linear"    positions divided by factor
        "dynamic"   theta raised for `factor` times the positions of `original_len`, at any length
        "llama3"    long wavelengths divided by factor, smooth between the two marks, in units of original_len over
                    wavelength
        "yarn"      as llama3 between the turns beta_slow and beta_fast in original_len, on a straight line of pairs
        "longrope"  angles divided by `long` where sequences may be longer than original_len, else by `short`

    attention: what yarn and longrope multiply cos and sin with; 0: their own formula. `divisors`, one for each pair,
    divide the angles of any scaling further; empty: none.
    """

    theta: float = 10000.0
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_len: int = 8192
    divisors: tuple[float, ...] = ()
    dims: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention: float = 0.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Norm:
    """kind "rms", "layer" or "none" (program/ops.py, Norming). weight, bias: whether there are any."""

    eps: float = 1e-5
    kind: str = "rms"
    weight: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """A norm of queries and of keys. shares "all": one weight for all heads; "none": each head has its own; "whole":
    all heads are normed as one vector."""

    norm: Norm
    shares: str = "all"


@dataclass(frozen=True, slots=True)
class Latent:
    """A key that all heads share: keys and values of each head are made of its first `rank` dims, the rest turns.

    plain: dims of a head's query that do not turn; value: those of its value. narrow: what queries are made of instead
    of the layer's input, 0: that. norm: of both. See program/ops.py, Latent; rank, plain and value are multiples of 32.
    """

    rank: int
    plain: int
    value: int
    narrow: int
    norm: Norm


@dataclass(frozen=True, slots=True)
class Attn:
    """Grouped self-attention. scale 0 means head_dim ** -0.5; rope None: no rotation.

    window, soft_cap, clip 0: none. alibi: the largest exponent of the slopes, 8 in the paper; 0: none; they are times
    alibi_scale. causal, window: see program/ops.py, Attend. latent: there is one key head, of the latent key's dims;
    qkv_bias is of what makes that and the narrow query, and of the rest nothing but window, causal and scale may be
    asked for.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    qkv_bias: bool = False
    out_bias: bool = False
    scale: float = 0.0
    window: int = 0
    soft_cap: float = 0.0
    alibi: float = 0.0
    alibi_scale: float = 1.0
    sinks: bool = False
    head_norm: HeadNorm | None = None
    clip: float = 0.0
    causal: bool = True
    latent: Latent | None = None

    @property
    def turned(self) -> int:
        """Dims of what is rotated as a head of its own."""
        return self.head_dim - self.latent.rank if self.latent else self.head_dim

    @property
    def given(self) -> int:
        """Dims of a head's value, as the output projection reads it."""
        return self.latent.value if self.latent else self.head_dim

    @property
    def query(self) -> int:
        """Places of a head in the rows of the query's matrix."""
        return self.latent.plain + places(self.turned) if self.latent else places(self.head_dim)


@dataclass(frozen=True, slots=True)
class Conv:
    """A short convolution between two gates, as wide as the model (program/ops.py). taps: tokens that it sees, its own
    included. bias: of its matrices, that behind it, and its own."""

    taps: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Mlp:
    """Feed-forward: down(f(gate) * up), or without gate down(f(up)). activation: see program/ops.py, FfnIn."""

    inner: int
    bias: bool = False
    activation: str = "silu"
    gated: bool = True


@dataclass(frozen=True, slots=True)
class Moe:
    """Mixture of experts: each token passes `top` of `experts` gated feed-forwards and, where there is one, `shared`.

    scoring, renormalise, scale, groups, top_groups, group_top: see program/ops.py, Route; router_bias, correction:
    whether there are any. activation, limit: see MoeIn. shared_gate: what the shared one gives is multiplied with a
    sigmoid of the token's own.
    """

    experts: int
    top: int
    inner: int
    bias: bool = False
    activation: str = "silu"
    limit: float = 0.0
    scoring: str = "softmax"
    renormalise: bool = False
    scale: float = 1.0
    router_bias: bool = False
    correction: bool = False
    groups: int = 1
    top_groups: int = 1
    group_top: int = 1
    shared: Mlp | None = None
    shared_gate: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """Attention or a convolution, and feed-forward, each after a norm and added to the residual stream x:

        x += scale * post(mixer(norm(x)));  x = after(x);  x += scale * post(ffn(norm(x)));  x = after(x)

    parallel: both read x as it was before: x += scale * (mixer(norm(x)) + ffn(norm(x))). shared: the two read the same
    norm, with one weight. post and after None: the identity. `first` None: the norm before the mixer is `norm` too.
    """

    mixer: Attn | Conv
    ffn: Mlp | Moe
    norm: Norm
    parallel: bool = False
    shared: bool = False
    post: Norm | None = None
    after: Norm | None = None
    scale: float = 1.0
    first: Norm | None = None

    @property
    def attn(self) -> Attn:
        """Its attention, of a layer that has it."""
        assert isinstance(self.mixer, Attn), "the layer has a convolution"
        return self.mixer

    @property
    def dense(self) -> Mlp | None:
        """The feed-forward that every token passes, if any."""
        return self.ffn if isinstance(self.ffn, Mlp) else self.ffn.shared

    @property
    def hidden(self) -> int:
        """Outputs of all feed-forwards that one token passes."""
        own = self.dense.inner if self.dense else 0
        return own + (self.ffn.top * self.ffn.inner if isinstance(self.ffn, Moe) else 0)


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer behind a request's vector: norm(f(W x + b)). name: of its weights, after "pool."; outputs: of W.

    activation: "none", "tanh", "sigmoid" or one of program/ops.py's.
    """

    name: str
    outputs: int
    bias: bool = True
    activation: str = "none"
    norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class Pooler:
    """What a request is given of its tokens' vectors: the first ("cls"), the last, or the mean, behind `layers`.

    labels: of a classifier, one for each of its scores, which pass `activation`: "softmax", "sigmoid" or "none". No
    labels: an embedding; normalize: of length 1.
    """

    kind: str
    layers: tuple[Dense, ...] = ()
    labels: tuple[str, ...] = ()
    activation: str = "none"
    normalize: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model. `tied`: the head is the embedding's table. `max_len`: positions the model was made for.

    x begins as table[ids] * embed_scale + types[type] + positions[position], then embed_norm; the head gives
    soft_cap * tanh(logit_scale * (W x + b) / soft_cap). positions and types are numbers of rows, 0: none.
    head False: there is a `pooler`, which is given norm(x).
    unit_head: rows of W are divided by their lengths.
    """

    vocab: int
    width: int
    layers: tuple[Layer, ...]
    norm: Norm
    tied: bool
    max_len: int
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    positions: int = 0
    types: int = 0
    embed_scale: float = 1.0
    embed_norm: Norm | None = None
    head: bool = True
    head_bias: bool = False
    unit_head: bool = False
    logit_scale: float = 1.0
    soft_cap: float = 0.0
    pooler: Pooler | None = None

    @property
    def causal(self) -> bool:
        """Whether a token sees nothing behind it, so that it can be computed before what follows."""
        return all(attn.causal for attn in self.attns)

    @property
    def attns(self) -> tuple[Attn, ...]:
        """The attention of each layer that has it: of one at least."""
        return tuple(layer.mixer for layer in self.layers if isinstance(layer.mixer, Attn))


def places(head_dim: int) -> int:
    """How many places a head takes in the pages and in q: the next multiple of 32."""
    return -(-head_dim // 32) * 32
