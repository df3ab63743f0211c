"""Texts a second of sentence-transformers and of Octavo, from text to vectors, by turns in one process.

usage: sentence_transformers_offline.py FOLDER [--rounds 5] [--texts 64] [--words 248] [--batch 32] [--dtype auto]
       [--step-tokens 512]

FOLDER: a model of sentence-transformers. Texts are 3 to so many random words, each one token. Needs an
environment with sentence-transformers and octavo. Wall time is what counts; processor time says how far other work
on the machine disturbed it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from octavo import LLM
from octavo.engine.limits import cores


def texts_of(folder: Path, count: int, longest: int) -> list[str]:
    """Texts of 3 to `longest` words, each one token, before marks."""
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(word for word in vocab if word.isascii() and word.isalpha())
    rng = random.Random(0)
    return [" ".join(rng.choices(words, k=rng.randint(3, longest))) for _ in range(count)]


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall and of processors."""
    wall, processors = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processors


def main() -> None:
    """Print a line for each turn, then the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--words", type=int, default=248)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--step-tokens", type=int, default=512)
    args = parser.parse_args()
    texts = texts_of(args.folder, args.texts, args.words)
    torch.set_num_threads(cores())
    peer = SentenceTransformer(str(args.folder), device="cpu")
    llm = LLM(args.folder, dtype=args.dtype, max_num_batched_tokens=args.step_tokens, memory="2GiB", packed_cache=False)
    runs: dict[str, Callable[[], object]] = {
        "sentence-transformers": lambda: peer.encode(texts, batch_size=args.batch),
        "octavo": lambda: llm.embed(texts, use_tqdm=False),
    }
    for run in runs.values():
        run()  # warm
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            found[name].append(timed(run))
            wall, processors = found[name][-1]
            print(f"{name}: {len(texts) / wall:.1f} texts/s, {len(texts) / processors:.1f} a second of a processor")
    theirs, ours = ([len(texts) / statistics.median(run[i] for run in found[name]) for i in (0, 1)] for name in runs)
    print(f"medians: {theirs[0]:.1f} and {ours[0]:.1f} texts/s, ratio {ours[0] / theirs[0]:.2f}")
    print(f"by processor time: {theirs[1]:.1f} and {ours[1]:.1f}, ratio {ours[1] / theirs[1]:.2f}")


if __name__ == "__main__":
    main()
