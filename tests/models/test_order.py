"""Which matrices are read with their inputs in a file's order, and whose rows are put in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from octavo.checkpoint.tensor import Derived
from octavo.models.entry import Entry
from octavo.models.order import arranged, written
from octavo.models.parts import Part
from octavo.models.spec import Attn, Latent, Layer, Mlp, Norm

FIRST, SECOND = (np.random.default_rng(seed).permutation(4).astype(np.int32).tobytes() for seed in (0, 1))
ATTN = Attn(heads=1, kv_heads=1, head_dim=4, rope=None)


def found(names: dict[str, bytes], attn: Attn = ATTN):
    """Parts of one layer, and the orders of their tensors; none: not in act-order."""
    layer = Layer(mixer=attn, ffn=Mlp(inner=4, activation="silu"), norm=Norm("rms"))

    def tensor(order: bytes) -> Derived:
        whole = Derived("x", "F32", (4, 4), (), bytes)
        return replace(whole, arranged=replace(whole, order=order)) if order else whole

    return {f"layers.0.{key}": (Part(f"layers.0.{key}", (4, 4), layer=layer), tensor(o)) for key, o in names.items()}


@pytest.mark.parametrize(
    ("orders", "taken"),
    [
        ({"q": FIRST, "k": FIRST, "v": FIRST, "gate": SECOND, "up": SECOND}, {"q", "k", "v", "gate", "up"}),
        ({"q": FIRST, "k": SECOND, "v": FIRST, "gate": SECOND, "up": b""}, set()),
        ({"up": FIRST, "down": SECOND, "o": FIRST}, {"up", "down", "o"}),
        ({"0.expert_gate": FIRST, "0.expert_up": FIRST, "0.expert_down": FIRST}, {"0.expert_down"}),
    ],
)
def test_what_reads_one_input_has_one_order_or_none(orders: dict[str, bytes], taken: set[str]) -> None:
    assert set(arranged(found(orders))) == {f"layers.0.{key}" for key in taken}


def test_latent_attention_gives_its_outputs_in_order() -> None:
    latent = replace(ATTN, latent=Latent(rank=32, plain=32, value=32, narrow=0, norm=Norm("rms")))
    names = dict.fromkeys(("q", "kv_a", "v_b", "o", "gate", "up"), FIRST)
    assert set(arranged(found(names, latent))) == {"layers.0.gate", "layers.0.up"}


def test_rows_are_written_in_the_order_of_the_last_matrix() -> None:
    tensor = found({"up": FIRST})["layers.0.up"][1]
    keys = ("gate", "gate_bias", "up", "up_bias", "down", "down_bias", "q", "7.expert_up", "7.expert_down")
    entries = {key: Entry(f"layers.0.{key}", tensor, None, (4, 4)) for key in keys}
    entries["gate"] = replace(entries["gate"], rows=np.array([7, -1, 5, 4]), order=SECOND)
    entries["down"] = replace(entries["down"], order=FIRST)
    entries["7.expert_down"] = replace(entries["7.expert_down"], order=SECOND)
    out = dict(zip(keys, written(list(entries.values())), strict=True))
    order, other = np.frombuffer(FIRST, np.int32), np.frombuffer(SECOND, np.int32)
    assert np.array_equal(out["gate"].rows, np.array([7, -1, 5, 4])[order])
    assert all(np.array_equal(out[key].rows, order) for key in ("gate_bias", "up", "up_bias"))
    assert np.array_equal(out["7.expert_up"].rows, other)
    assert all(out[key].rows is None for key in ("down", "down_bias", "q", "7.expert_down"))
    assert {key for key in keys if out[key].order} == {"gate"}
