"""What GGUF files say in words of their own: which of two models of one name they are, what no layer of ours is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import moe_gguf
import pytest
import zoo_gguf

from octavo.checkpoint.source import open_source
from octavo.core.errors import ModelError
from octavo.models.registry import read_spec
from octavo.models.spec import ModelSpec

ZOO = Path(__file__).parents[1] / "data" / "zoo"


def spec_of(name: str, path: Path, keys: dict[str, Any]) -> ModelSpec:
    """A model of the zoo as GGUF, with other keys; None: without the key."""
    if name in zoo_gguf.ROWS:
        zoo_gguf.write(ZOO / name, zoo_gguf.ROWS[name], path)
    else:
        moe_gguf.as_gguf(ZOO / name, path, *moe_gguf.FILES[name])
    with open_source(path) as source:
        arch = source.metadata["general.architecture"]
        metadata = {**source.metadata, **{f"{arch}.{key}": value for key, value in keys.items()}}
        return read_spec(replace(source, metadata={key: value for key, value in metadata.items() if value is not None}))


def test_baichuan_of_forty_layers_has_alibi_and_no_rotation(tmp_path: Path) -> None:
    for layers, largest in ((32, 0.0), (40, 8.0)):
        spec = spec_of("baichuan2-7b", tmp_path / "x.gguf", {"block_count": layers})
        assert {(layer.attn.alibi, layer.attn.rope is None) for layer in spec.layers} == {(largest, layers == 40)}
        assert not spec.unit_head  # rows have length 1 in the file


@pytest.mark.parametrize(
    ("pattern", "windows"),
    [
        ([True, False, False, True, True], [18, 0, 0, 18, 18]),
        (None, [18, 18, 18, 0, 18]),
    ],
)
def test_olmo_2_with_a_window_is_olmo_3(tmp_path: Path, pattern: list[bool] | None, windows: list[int]) -> None:
    keys = {"attention.sliding_window_pattern": pattern, "block_count": 5}
    spec = spec_of("olmo3", tmp_path / "x.gguf", keys)
    assert [layer.attn.window for layer in spec.layers] == windows
    spec = spec_of("olmo3", tmp_path / "x.gguf", {"attention.sliding_window": None})
    assert not any(layer.attn.window for layer in spec.layers)


def test_layers_that_look_ahead_are_no_layers(tmp_path: Path) -> None:
    for count, ahead in ((2, None), (2, 0), (3, 1), (5, 3)):
        spec = spec_of("glm4_moe", tmp_path / "x.gguf", {"block_count": count, "nextn_predict_layers": ahead})
        assert len(spec.layers) == 2


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("olmo3", {"attention.sliding_window_pattern": 4}, "olmo2.attention.sliding_window_pattern 4; .* an array"),
        ("olmo3", {"attention.sliding_window_pattern": [True]}, "layer_types: .* a list of 2"),
        ("glm4_moe", {"nextn_predict_layers": 3}, "glm4moe.block_count: 3"),
        ("glm4_moe", {"expert_gating_func": 1}, "glm4moe.expert_gating_func: 1"),
        ("lfm2_moe", {"expert_gating_func": 1}, "lfm2moe.expert_gating_func: 1"),
        ("lfm2", {"attention.sliding_window": 64}, "lfm2.attention.sliding_window: 64"),
        ("lfm2", {"attention.causal": False}, "lfm2.attention.causal: False"),
        ("lfm2", {"attention.head_count_kv": 2}, "lfm2.attention.head_count_kv: 2 .* a list of integers"),
        ("lfm2", {"attention.head_count_kv": [0, 0, 2, 0, 4]}, "one number of key heads in all layers that have any"),
        ("lfm2", {"attention.head_count_kv": [0, 0, 0, 0, 0]}, "one number of key heads in all layers that have any"),
        ("lfm2", {"attention.head_count_kv": [0, 2]}, "a list of 5"),
        ("lfm2", {"shortconv.l_cache": 0}, "lfm2.shortconv.l_cache: 0"),
    ],
)
def test_what_no_layer_of_ours_is_is_refused(tmp_path: Path, name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        spec_of(name, tmp_path / "x.gguf", keys)
