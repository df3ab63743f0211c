"""A decoder that gives payments a probability of fraud: `python docs/examples/payment_fraud.py MODEL OUT`.

MODEL is a Hugging Face folder of a decoder (safetensors). Its vectors of 2000 payments, made up here with the truth
about each, train a head of two labels; OUT is MODEL with that head, which Octavo serves and transformers loads as
AutoModelForSequenceClassification. Real payments with known outcomes take the place of `payments`.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

from octavo import LLM, PoolingParams
from octavo.checkpoint.source import open_source

LABELS = ["genuine", "fraud"]
INSTRUCTION = """You see one card payment of a bank's customer, field by field. Judge whether it is fraud.
Signs of fraud are a new device, a country that is not the customer's own, an amount far above the usual one, several
payments within the hour, and the time of night. One sign alone is common and harmless; several together are not.

"""


def record(payment: dict[str, object]) -> str:
    """The text of one payment. What all texts begin with is computed once and then found in the prefix cache."""
    return INSTRUCTION + "".join(f"{name}: {value}\n" for name, value in payment.items()) + "verdict:"


def payments(count: int, seed: int) -> tuple[list[dict[str, object]], np.ndarray]:
    """Payments, and for each whether it is fraud.  # [count]"""
    rng = np.random.default_rng(seed)
    made, truth = [], []
    for _ in range(count):
        usual = int(rng.integers(10, 200))
        signs = rng.random(5) < 0.3
        truth.append(signs.sum() >= 3)
        made.append(
            {
                "amount": f"{usual * (rng.integers(8, 30) if signs[0] else rng.integers(1, 3))} EUR",
                "usual amount": f"{usual} EUR",
                "merchant": str(rng.choice(["grocer", "electronics", "travel", "fuel", "jewellery"])),
                "customer's country": "DE",
                "country": str(rng.choice(["BR", "US", "NG", "RU"])) if signs[1] else "DE",
                "device": "new" if signs[2] else "known",
                "payments in the last hour": int(rng.integers(4, 9)) if signs[3] else int(rng.integers(0, 2)),
                "time": f"{rng.integers(1, 5) if signs[4] else rng.integers(8, 22):02}:{rng.integers(60):02}",
            }
        )
    return made, np.array(truth)


def trained(vectors: np.ndarray, truth: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Weights of the log-odds of fraud, by Newton's steps of logistic regression.  # [width]

    vectors  # [count, width]; truth  # [count]
    """
    scale = vectors.std(axis=0) + 1e-6
    x, weights = vectors / scale, np.zeros(vectors.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (chance - truth) + ridge * weights
        bend = (x * (chance * (1 - chance))[:, None]).T @ x + ridge * np.eye(len(weights))
        weights -= np.linalg.solve(bend, slope)
    return weights / scale


def write(folder: Path, out: Path, weights: np.ndarray) -> None:
    """The folder's model with a head of two labels, whose scores are 0 and the log-odds."""
    shutil.copytree(folder, out)
    with open_source(folder) as source:
        places = {name: tensor.file.path.name for name, tensor in source.tensors.items()}
    if (out / "model.safetensors").exists():  # the head's file is the second, so the first gets a name of its own
        (out / "model.safetensors").rename(out / "model-1.safetensors")
        places = dict.fromkeys(places, "model-1.safetensors")
    places = {name: file for name, file in places.items() if name != "lm_head.weight"} | {
        "score.weight": "score.safetensors"
    }
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    head = np.stack([np.zeros_like(weights), weights]).astype("<f4")
    entry = {"dtype": "F32", "shape": list(head.shape), "data_offsets": [0, head.nbytes]}
    header = json.dumps({"score.weight": entry}).encode()
    header += b" " * (-len(header) % 8)
    (out / "score.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + head.tobytes())
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [config["architectures"][0].replace("ForCausalLM", "ForSequenceClassification")]
    config |= {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    (out / "config.json").write_text(json.dumps(config, indent=1))


def main(model: Path, out: Path, count: int = 2000, **settings: object) -> tuple[float, float]:
    """Train, write, and judge payments never seen: the share judged right, and that of tokens found in the cache."""
    if out.exists():
        raise FileExistsError(f"{out} exists; name a folder that is to be made")
    known, truth = payments(count, seed=1)
    raw = PoolingParams(normalize=False)
    with LLM(model, runner="pooling", **settings) as llm:
        vectors = np.array([each.outputs.embedding for each in llm.embed([record(p) for p in known], raw)])
    write(model, out, trained(vectors, truth))
    fresh, truth = payments(count // 4, seed=2)
    texts = [record(payment) for payment in fresh]
    with LLM(out, **settings) as llm:
        results = llm.classify(texts)
        again = llm.classify(texts[:20])
    assert [each.outputs for each in again] == [each.outputs for each in results[:20]], "scores are exactly repeatable"
    fraud = np.array([each.outputs.probs[1] for each in results])
    tokens = sum(len(each.prompt_token_ids) for each in results)
    cached = sum(each.num_cached_tokens for each in results)
    return float(((fraud > 0.5) == truth).mean()), cached / tokens


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    right, cached = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"of 500 payments never seen {right:.1%} are judged right; {cached:.0%} of their tokens were computed before")
