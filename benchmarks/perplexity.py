"""Perplexity of models on a text, by the rule of llama-perplexity, and beside it what llama-perplexity says.

usage: python benchmarks/perplexity.py TEXT.txt MODEL... [--chunks 16] [--context 512]
                                       [--against llama.cpp/build/bin/llama-perplexity]

A model is whatever `octavo serve` takes; with --against, a GGUF file. Prints one row of a Markdown table for each.

The rule: the text's tokens, with the bos that the tokenizer adds, are cut into chunks of the context's length and the
rest is dropped; each chunk is read on its own, a bos in place of its first token where the tokenizer adds one; tokens
behind the middle one count, each as predicted from those before it. Text that spells a special token (<|im_end|>) is
that token to us and plain letters to llama-perplexity: choose a text without.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from octavo.checkpoint import hub
from octavo.checkpoint.source import open_source
from octavo.core.errors import InvalidValue, OctavoError, UserError
from octavo.core.request import SamplingParams
from octavo.engine.llm import LLM
from octavo.engine.results import RequestOutput
from octavo.models.load import plan
from octavo.models.registry import read_spec
from octavo.text.tokenizer import Tokenizer

CACHE = Path("~/.cache/octavo").expanduser()
HEAD = ("model", "matrices", "bits in the file", "in memory", "perplexity", "llama.cpp", "ratio")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What matrices take. types: share of their weights by stored type; bits of a weight, its scales included."""

    types: dict[str, float]
    file_bits: float
    memory_bits: float


def chunks(ids: Sequence[int], length: int, most: int, bos: int | None) -> list[list[int]]:
    """At most `most` chunks of `length` tokens. bos: what stands for the first token of each; None: it stays.

    Raises InvalidValue for a text of less than two chunks, as llama-perplexity refuses it.
    """
    if len(ids) < 2 * length:
        raise InvalidValue("context", length, f"at most {len(ids) // 2}: two chunks of a text of {len(ids)} tokens")
    whole = range(0, len(ids) // length * length, length)[:most]
    return [[ids[at] if bos is None else bos, *ids[at + 1 : at + length]] for at in whole]


def counted(length: int) -> range:
    """The places of a chunk whose tokens count."""
    return range(length // 2 + 1, length)


def added_bos(tokenizer: Tokenizer) -> int | None:
    """The token that the tokenizer puts before a text. Raises UserError where it puts one behind, too."""
    match tokenizer.encode(""):
        case []:
            return None
        case [bos] if bos == tokenizer.bos_id:
            return bos
        case edges:
            raise UserError(f"the tokenizer puts {edges} around a text; expected a bos or nothing")


def loss(output: RequestOutput) -> float:
    """The mean loss of a chunk's tokens that count."""
    ids, entries = output.prompt_token_ids, output.prompt_logprobs
    assert entries is not None and len(entries) == len(ids)
    found = [entry[ids[place]].logprob for place in counted(len(ids)) if (entry := entries[place]) is not None]
    assert len(found) == len(counted(len(ids)))
    return -sum(found) / len(found)


def perplexity(model: Path, text: str, args: argparse.Namespace) -> float:
    """Ours. Raises UserError."""
    options = {"dtype": args.dtype, "memory": args.memory, "threads": args.threads, "executor": args.executor}
    with LLM(model, max_num_seqs=4, enable_prefix_caching=False, packed_cache=False, **options) as llm:
        if llm.tokenizer is None:
            raise UserError(f"{model}: no tokenizer, and a text needs one")
        prompts = chunks(llm.tokenizer.encode(text), args.context, args.chunks, added_bos(llm.tokenizer))
        outputs = llm.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    return math.exp(sum(map(loss, outputs)) / len(outputs))


def peers(model: Path, args: argparse.Namespace) -> float:
    """That of llama-perplexity. Raises UserError with the end of what it said where it gave none."""
    command = [args.against, "-m", str(model), "-f", str(args.text)]
    command += ["-c", str(args.context), "-b", str(args.context), "--chunks", str(args.chunks)]
    command += ["-t", str(args.threads)] if args.threads else []
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr)
    if done.returncode or not found:
        raise UserError(f"{' '.join(command)} gave no perplexity:\n{(done.stdout + done.stderr)[-1000:]}")
    return float(found[1])


def sizes(model: Path, dtype: str) -> Sizes:
    """Of all matrices of a model, a token table that is the head as well counted once."""
    with open_source(model) as source:
        entries = [entry for entry in plan(source, read_spec(source), dtype) if entry.form is not None]
        stored = {entry.tensor.name: entry.tensor for entry in entries}.values()
        weights = sum(math.prod(tensor.shape) for tensor in stored)
        held = Counter[str]()
        for tensor in stored:
            held[tensor.dtype] += math.prod(tensor.shape)
        types = {name: count / weights for name, count in held.most_common()}
        file_bytes, memory_bytes = (sum(one.nbytes for one in them) for them in (stored, entries))
    return Sizes(types, 8 * file_bytes / weights, 8 * memory_bytes / weights)


def row(*cells: str) -> str:
    """One line of the table."""
    return f"| {' | '.join(cells)} |"


def measured(model: Path, text: str, args: argparse.Namespace) -> str:
    """The row of one model. Raises UserError."""
    found = sizes(model, args.dtype)
    types = ", ".join(f"{name} {100 * share:.2g} %" if share < 1 else name for name, share in found.types.items())
    ours = perplexity(model, text, args)
    cells = [model.stem, types, f"{found.file_bits:.2f}", f"{found.memory_bits:.2f}", f"{ours:.4f}"]
    if args.against:
        theirs = peers(model, args)
        cells += [f"{theirs:.4f}", f"{ours / theirs:.4f}"]
    return row(*cells)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path, help="a file of plain text, UTF-8")
    parser.add_argument("models", nargs="+", metavar="model", help="what `octavo serve` takes")
    parser.add_argument("--against", metavar="PROGRAM", help="llama-perplexity, run on the same files")
    parser.add_argument("--chunks", type=int, default=16, help="most chunks that are read (default: %(default)s)")
    parser.add_argument("--context", type=int, default=512, help="tokens of a chunk (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="of unquantized weights, as `octavo serve` takes it")
    parser.add_argument("--executor", default="cpu", help="cpu, or the reference in numpy")
    parser.add_argument("--memory", default="2GiB", help="for weights and pages (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of either engine (default: its own)")
    args = parser.parse_args()
    columns = HEAD if args.against else HEAD[:5]
    print(row(*columns), "|" + "---|" * len(columns), sep="\n", flush=True)
    try:
        text = args.text.read_text("utf-8").removesuffix("\n")  # which llama-perplexity drops, too
        for name in args.models:
            print(measured(hub.resolve(name, cache_dir=CACHE), text, args), flush=True)
    except OctavoError as error:
        sys.exit(f"perplexity.py: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
