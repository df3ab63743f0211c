"""A batch through OpenVINO GenAI's continuous batching, in process: prints one JSON object with its throughput.

usage: python openvino_offline.py MODEL [--requests 32] [--prompt 128] [--tokens 64] [--seed 0] [--cache-gb 2]

MODEL is a .gguf file or a folder of OpenVINO's. All requests are there at the start: random token ids, greedy, the end
of text ignored, no prefix cache. Loading and one short batch before it are not counted. Needs openvino-genai alone:

    octavo bench offline MODEL --requests 32 --against \
        'PYTHON benchmarks/peers/openvino_offline.py MODEL --requests {requests} --prompt {prompt} --tokens {tokens}'
"""

import argparse
import json
import time
from importlib.metadata import version

import numpy as np
import openvino as ov
import openvino_genai as genai


def main() -> None:
    """Load, warm up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--cache-gb", type=int, default=2, help="memory for keys and values")
    args = parser.parse_args()
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = args.cache_gb
    scheduler.max_num_seqs = max(scheduler.max_num_seqs, args.requests)
    scheduler.enable_prefix_caching = False
    began = time.perf_counter()
    pipeline = genai.ContinuousBatchingPipeline(args.model, scheduler, "CPU")
    loaded = time.perf_counter() - began
    rng = np.random.default_rng(args.seed)
    batch(pipeline, rng, min(args.requests, 4), args.prompt, 4)
    seconds = batch(pipeline, rng, args.requests, args.prompt, args.tokens)
    output = args.requests * args.tokens
    found = {
        "engine": f"OpenVINO GenAI {version('openvino-genai')}",
        "requests": args.requests,
        "prompt": args.prompt,
        "tokens": args.tokens,
        "load_seconds": loaded,
        "seconds": seconds,
        "output_tokens_per_second": output / seconds,
        "total_tokens_per_second": (output + args.requests * args.prompt) / seconds,
    }
    print(json.dumps(found))


def batch(pipeline: genai.ContinuousBatchingPipeline, rng: np.random.Generator, count: int, prompt: int, tokens: int):
    """Seconds from the start of so many requests to the end of the last."""
    config = genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
    prompts = [ov.Tensor(rng.integers(1000, 10000, (1, prompt), dtype=np.int64)) for _ in range(count)]
    began = time.perf_counter()
    answers = pipeline.generate(prompts, [config] * count)
    seconds = time.perf_counter() - began
    made = [len(answer.m_generation_ids[0]) for answer in answers]
    assert made == [tokens] * count, f"answers of {sorted(set(made))} tokens where {tokens} were asked for"
    return seconds


if __name__ == "__main__":
    main()
