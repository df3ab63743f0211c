"""llama-batched-bench as a peer of `octavo bench offline --requests`: the same batch, one line of JSON.

usage: python llama_batched.py LLAMA_BATCHED_BENCH MODEL.gguf --requests N --prompt P --tokens T [--threads N]
"""

import argparse
import json
import subprocess


def main() -> None:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--prompt", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    shape = ["-npp", args.prompt, "-ntg", args.tokens, "-npl", args.requests]
    room = (args.prompt + args.tokens) * args.requests
    command = [args.program, "-m", args.model, "-t", args.threads, "-c", room, *shape, "--output-format", "jsonl"]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    outputs = args.requests * args.tokens / (found["t_pp"] + found["t_tg"])
    decoding = args.requests * args.tokens / found["t_tg"]
    figures = {"output_tokens_per_second": outputs, "total_tokens_per_second": found["speed"]}
    print(json.dumps(figures | {"decode_tokens_per_second": decoding}))


if __name__ == "__main__":
    main()
