"""The worked example of docs/pooling.md on a tiny model: it trains, writes, loads, and repeats its scores."""

import importlib.util
from pathlib import Path

import pytest
import tiny_llama

from octavo import LLM

PLACE = Path(__file__).parents[2] / "docs" / "examples" / "payment_fraud.py"


def test_the_example_runs(tmp_path):
    spec = importlib.util.spec_from_file_location("payment_fraud", PLACE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    folder = tiny_llama.write_folder(tmp_path / "model", tokenizer=True, max_len=2048)
    settings = {"memory": "1GiB", "packed_cache": False, "threads": 1}
    right, cached = example.main(folder, tmp_path / "out", 120, **settings)
    assert 0 <= right <= 1
    with pytest.raises(FileExistsError, match="out exists; name a folder that is to be made"):
        example.main(tmp_path / "no model", tmp_path / "out")  # before anything is computed
    assert cached > 0.5, "the instruction is computed once"
    with LLM(tmp_path / "out", **settings) as llm:
        assert llm.info.pooling.labels == example.LABELS
        known, truth = example.payments(120, seed=1)
        chances = [each.outputs.probs[1] for each in llm.classify([example.record(p) for p in known], use_tqdm=False)]
    judged = [chance > 0.5 for chance in chances]
    assert sum(guess == true for guess, true in zip(judged, truth, strict=True)) > 80, "what it learned it knows"
