"""A file whose types are mixed as llama-quantize mixes them: each operation reads one form, the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_engine
import tiny_llama
from parity import native_logits_agree

from octavo.kernels import native
from octavo.kernels.weight import Layout
from octavo.program.ops import Act, FfnIn, Proj, Qkv


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory):
    path: Path = tmp_path_factory.mktemp("mixed") / "Q4_K_M.gguf"
    return tiny_engine.program_of(tiny_llama.write_mixed(path))


def test_matrices_of_one_operation_read_one_form(program) -> None:
    first = [op for op in program.ops if isinstance(op, Qkv | FfnIn | Proj)][:4]
    assert [op.act for op in first] == [Act(8, 32)] * 4
    qkv, o, ffn, down = first
    assert [(w.layout, w.group) for w in (qkv.q, qkv.k, qkv.v)] == [(Layout.W4M, 32)] * 2 + [(Layout.W8, 16)]
    assert [(w.layout, w.group) for w in (o.weight, ffn.gate, down.weight)] == [(Layout.W4M, 32)] * 2 + [
        (Layout.W8, 16)
    ]
    assert (program.ops[-1].weight.layout, program.ops[-1].weight.group) == (Layout.W8, 16)


@pytest.mark.parametrize("isa", native.isas())
def test_native_logits_are_the_reference_s(program, isa: str) -> None:
    native_logits_agree(program, isa)
