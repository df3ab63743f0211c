"""Architectures whose code their makers ship beside the weights, in plain float32 torch, after what that code computes.

Each is made of settings, called with ids [1, tokens] and gives an object with `logits` [1, tokens, vocab], like a model
of transformers; `save_pretrained` writes what its makers' files hold. Nothing is shared with octavo. Sources:
openbmb/MiniCPM-2B, internlm/internlm2-7b, baichuan-inc/Baichuan2-7B-Base and Baichuan2-13B-Base.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def turned(x: Tensor) -> Tensor:
    """Rotary positions of theta 10000, halves against each other. x, result  # [heads, tokens, head_dim]"""
    dim = x.shape[-1]
    angles = torch.outer(torch.arange(x.shape[1]).float(), 10000.0 ** (-torch.arange(0, dim, 2).float() / dim))
    both = torch.cat([angles, angles], -1)
    first, second = x.chunk(2, -1)
    return x * both.cos() + torch.cat([-second, first], -1) * both.sin()


def alibi(heads: int, tokens: int) -> Tensor:
    """What is added to scores: slope of the head times (key position - own). [heads, tokens, tokens]"""

    def of_power(n: int) -> list[float]:
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    power = 2 ** math.floor(math.log2(heads))
    slopes = of_power(power) + of_power(2 * power)[0::2][: heads - power]
    place = torch.arange(tokens).float()
    return torch.tensor(slopes)[:, None, None] * (place[None, None, :] - place[None, :, None])


def attend(q: Tensor, k: Tensor, v: Tensor, added: Tensor | float = 0.0) -> Tensor:
    """Causal attention of grouped heads. q  # [heads, tokens, dim] -> [tokens, heads * dim]"""
    per = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(per, 0), v.repeat_interleave(per, 0)
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + added
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    out = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
    return out.transpose(0, 1).reshape(q.shape[1], -1)


class Remote(nn.Module):
    """What the models have in common: settings, and files."""

    architecture = ""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self.width, self.inner = settings["hidden_size"], settings["intermediate_size"]
        self.heads, self.kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
        self.dim = self.width // self.heads

    def linear(self, rows: int, cols: int, bias: bool = False) -> nn.Linear:
        return nn.Linear(cols, rows, bias=bias)

    def split(self, x: Tensor) -> Tensor:
        """[tokens, heads * dim] -> [heads, tokens, dim]"""
        return x.view(len(x), -1, self.dim).transpose(0, 1)

    def forward(self, ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.run(ids[0])[None])

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors")
        config = {"architectures": [self.architecture], **self.settings, "tie_word_embeddings": False}
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}, indent=2))


class MiniCpm(Remote):
    """Embeddings times scale_emb, halves times scale_depth / sqrt(layers), logits of x / (width / dim_model_base)."""

    architecture = "MiniCPMForCausalLM"

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        model = nn.Module()
        model.embed_tokens = nn.Embedding(settings["vocab_size"], self.width)
        model.layers = nn.ModuleList(self.layer() for _ in range(settings["num_hidden_layers"]))
        model.norm = RmsNorm(self.width)
        self.model, self.lm_head = model, self.linear(settings["vocab_size"], self.width)

    def layer(self) -> nn.Module:
        layer, attn, mlp = nn.Module(), nn.Module(), nn.Module()
        attn.q_proj = self.linear(self.heads * self.dim, self.width)
        attn.k_proj = self.linear(self.kv_heads * self.dim, self.width)
        attn.v_proj = self.linear(self.kv_heads * self.dim, self.width)
        attn.o_proj = self.linear(self.width, self.heads * self.dim)
        mlp.gate_proj, mlp.up_proj = self.linear(self.inner, self.width), self.linear(self.inner, self.width)
        mlp.down_proj = self.linear(self.width, self.inner)
        layer.input_layernorm, layer.post_attention_layernorm = RmsNorm(self.width), RmsNorm(self.width)
        layer.self_attn, layer.mlp = attn, mlp
        return layer

    def run(self, ids: Tensor) -> Tensor:
        settings = self.settings
        share = settings["scale_depth"] / math.sqrt(settings["num_hidden_layers"])
        x = self.model.embed_tokens(ids) * settings["scale_emb"]
        for layer in self.model.layers:
            h, attn, mlp = layer.input_layernorm(x), layer.self_attn, layer.mlp
            q, k, v = (self.split(part(h)) for part in (attn.q_proj, attn.k_proj, attn.v_proj))
            x = x + share * attn.o_proj(attend(turned(q), turned(k), v))
            h = layer.post_attention_layernorm(x)
            x = x + share * mlp.down_proj(nn.functional.silu(mlp.gate_proj(h)) * mlp.up_proj(h))
        return self.lm_head(self.model.norm(x) / (self.width / settings["dim_model_base"]))


class InternLm2(Remote):
    """One projection whose rows are, for each key head: its query heads, its key, its value."""

    architecture = "InternLM2ForCausalLM"

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        model = nn.Module()
        model.tok_embeddings = nn.Embedding(settings["vocab_size"], self.width)
        model.layers = nn.ModuleList(self.layer() for _ in range(settings["num_hidden_layers"]))
        model.norm = RmsNorm(self.width)
        self.model, self.output = model, self.linear(settings["vocab_size"], self.width)

    def layer(self) -> nn.Module:
        layer, attn, mlp, bias = nn.Module(), nn.Module(), nn.Module(), self.settings["bias"]
        attn.wqkv = self.linear((self.heads + 2 * self.kv_heads) * self.dim, self.width, bias)
        attn.wo = self.linear(self.width, self.heads * self.dim, bias)
        mlp.w1, mlp.w3 = self.linear(self.inner, self.width), self.linear(self.inner, self.width)
        mlp.w2 = self.linear(self.width, self.inner)
        layer.attention_norm, layer.ffn_norm = RmsNorm(self.width), RmsNorm(self.width)
        layer.attention, layer.feed_forward = attn, mlp
        return layer

    def run(self, ids: Tensor) -> Tensor:
        x, per = self.model.tok_embeddings(ids), self.heads // self.kv_heads
        for layer in self.model.layers:
            fused = layer.attention.wqkv(layer.attention_norm(x))
            fused = fused.view(len(ids), self.kv_heads, per + 2, self.dim)
            q = fused[:, :, :per].reshape(len(ids), self.heads, self.dim).transpose(0, 1)
            k, v = fused[:, :, -2].transpose(0, 1), fused[:, :, -1].transpose(0, 1)
            x = x + layer.attention.wo(attend(turned(q), turned(k), v))
            h, mlp = layer.ffn_norm(x), layer.feed_forward
            x = x + mlp.w2(nn.functional.silu(mlp.w1(h)) * mlp.w3(h))
        return self.output(self.model.norm(x))


class Baichuan(Remote):
    """7B turns, 13B has ALiBi; rows of the head are divided by their lengths."""

    architecture = "BaichuanForCausalLM"

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        model = nn.Module()
        model.embed_tokens = nn.Embedding(settings["vocab_size"], self.width)
        model.layers = nn.ModuleList(self.layer() for _ in range(settings["num_hidden_layers"]))
        model.norm = RmsNorm(self.width)
        self.model, self.lm_head = model, self.linear(settings["vocab_size"], self.width)

    def layer(self) -> nn.Module:
        layer, attn, mlp = nn.Module(), nn.Module(), nn.Module()
        attn.W_pack, attn.o_proj = self.linear(3 * self.width, self.width), self.linear(self.width, self.width)
        mlp.gate_proj, mlp.up_proj = self.linear(self.inner, self.width), self.linear(self.inner, self.width)
        mlp.down_proj = self.linear(self.width, self.inner)
        layer.input_layernorm, layer.post_attention_layernorm = RmsNorm(self.width), RmsNorm(self.width)
        layer.self_attn, layer.mlp = attn, mlp
        return layer

    def run(self, ids: Tensor) -> Tensor:
        x, turns = self.model.embed_tokens(ids), self.settings["max_position_embeddings"] is not None
        for layer in self.model.layers:
            fused = layer.self_attn.W_pack(layer.input_layernorm(x))
            q, k, v = (self.split(part) for part in fused.chunk(3, -1))
            seen = attend(turned(q), turned(k), v) if turns else attend(q, k, v, alibi(self.heads, len(ids)))
            x = x + layer.self_attn.o_proj(seen)
            h, mlp = layer.post_attention_layernorm(x), layer.mlp
            x = x + mlp.down_proj(nn.functional.silu(mlp.gate_proj(h)) * mlp.up_proj(h))
        return self.model.norm(x) @ nn.functional.normalize(self.lm_head.weight).T


MODELS: dict[str, type[Remote]] = {"minicpm": MiniCpm, "internlm2": InternLm2, "baichuan": Baichuan}
