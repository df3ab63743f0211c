"""A folder of tests/data/llama or tests/data/zoo: read by our loader, answered by our reference executor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from op_cases import Texts

from octavo.checkpoint.source import open_source
from octavo.models.load import load
from octavo.models.lower import lower
from octavo.models.registry import read_spec
from octavo.program.ops import Head, Program
from octavo.program.reference import Reference


def program_of(folder: Path, max_len: int = 128) -> Program:
    """The model of a folder, lowered so that nothing is rounded below float32; at most as long as it was made for."""
    source = open_source(folder)
    try:
        spec = read_spec(source)
        return lower(
            spec,
            load(source, spec, dtype="float32"),
            kv_dtype="float32",
            max_len=min(max_len, spec.max_len),
            exact=True,
        )
    finally:
        source.close()


def prompts_of(folder: Path) -> list[np.ndarray]:
    """The prompts, token ids."""
    return [np.array(ids, np.int32) for ids in json.loads((folder / "prompts.json").read_text())]


def logits_of(folder: Path) -> list[np.ndarray]:
    """What transformers answered for each prompt. float32 [tokens, vocab]"""
    source = open_tensors(folder / "logits.safetensors")
    return [source[str(index)] for index in range(len(source))]


def open_tensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file of float32 tensors."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    out = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "F32", entry
            first, last = (8 + size + offset for offset in entry["data_offsets"])
            out[name] = np.frombuffer(raw[first:last], np.float32).reshape(entry["shape"])
    return out


def largest_error(folder: Path, chunk: int, seed: int = 0, last: int = 5, model: Path | None = None) -> float:
    """Largest difference of any logit of any prompt, all computed in one batch, `chunk` tokens of each in a step.

    The `last` tokens of a prompt are single steps, as in decoding. Pages are scattered. model: a
    file that stands for the folder's weights.
    """
    rng = np.random.default_rng(seed)
    executor, expected = Reference(program_of(model or folder)), logits_of(folder)
    texts = Texts.placed(rng, prompts_of(folder), groups=executor.program.kv.groups)
    executor.allocate(texts.pages)
    done, worst = [0] * len(texts.tokens), 0.0
    while any(first < len(tokens) for first, tokens in zip(done, texts.tokens, strict=True)):
        runs = []
        for slot in rng.permutation(len(done)).tolist():
            left = len(texts.tokens[slot]) - done[slot]
            if left:
                runs.append((slot, done[slot], min(chunk, max(1, left - last))))
        batch = texts.batch(rng, runs, more=1)
        want = np.concatenate([expected[slot][first : first + count] for slot, first, count in runs])
        given = executor.logits if isinstance(executor.program.ops[-1], Head) else executor.vectors
        worst = max(worst, float(np.abs(given(batch) - want).max()))
        for slot, _, count in runs:
            done[slot] += count
    return worst


def plain_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    """The logits of texts of equal length, each computed in one step. float32 [texts, tokens, vocab]"""
    rng = np.random.default_rng(0)
    executor = Reference(program_of(folder))
    texts = Texts.placed(rng, list(ids))
    executor.allocate(texts.pages)
    runs = [(slot, 0, ids.shape[1]) for slot in range(len(ids))]
    return executor.logits(texts.batch(rng, runs, more=1)).reshape(*ids.shape, -1)


def perplexity(folder: Path, ids: np.ndarray) -> float:
    """exp of the mean loss over the second half of each text."""
    logits = plain_logits(folder, ids).astype(np.float64)
    half, length = ids.shape[1] // 2, ids.shape[1]
    total = np.log(np.exp(logits).sum(axis=2))
    chosen = np.take_along_axis(logits[:, :-1], ids[:, 1:, None], axis=2)[..., 0]
    return float(np.exp((total[:, half : length - 1] - chosen[:, half:]).mean()))
