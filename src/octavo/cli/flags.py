"""Every flag of every command, once: name, kind, default, unit, help, and the field it sets.

argparse, the documents' check and the configuration all read this table, so they cannot disagree. A flag's `into` is
"section.field": `section("scheduler")` of the parsed arguments is what SchedulerConfig takes. Knows no engine.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from octavo.cli.flag import Flag, size, switch
from octavo.core.config import CacheConfig, ExecConfig, QuantizeConfig, SchedulerConfig
from octavo.server.config import ServerConfig
from octavo.text.parsers import registry

COMMANDS = {
    "serve": "serve a model over the OpenAI API",
    "chat": "talk to a model in the terminal",
    "generate": "continue a prompt",
    "pull": "fetch a model into the cache folder",
    "models": "list the models known by name and those in the cache folder",
    "plan": "say from the headers alone what memory serving a model takes, and what fits",
    "quantize": "write a model's folder anew in codes of 8 or 4 bits, as other engines read it too",
    "doctor": "say what this machine offers, and what to change",
    "profile": "run single steps, and say where their time goes and how near that is to the machine's limit",
    "bench": "measure, and keep a record: figures, machine, commit, pictures",
}
BENCHES = {  # octavo bench NAME
    "bench.serve": "load a server of the OpenAI API, any engine's, and time its answers",
    "bench.compare": "the same load for several servers by turns, and the ratios with their confidence",
    "bench.offline": "prefill, decode and batches in this process, by turns with another engine if asked",
    "bench.kernels": "each kernel's share of what this machine can compute and read",
    "bench.startup": "time from the start of a server's process to its first token, and the memory it holds",
}
POSITIONAL = {"serve": "[MODEL]", "chat": "[MODEL]", "generate": "PROMPT", "pull": "MODEL", "plan": "MODEL"}
POSITIONAL |= {"quantize": "MODEL OUT", "profile": "[MODEL]", "bench.startup": "[MODEL]", "bench.offline": "[MODEL]"}
PASSED_ON = {"bench.startup": "serve"}  # takes the other's flags too, but those of the server's own section
DEFAULT_MODEL = "smollm2-135m"
TITLES = {  # of the parts of the help, by section
    "hub": "where the model comes from",
    "launch": "how it runs",
    "scheduler": "how it runs",
    "cache": "how it runs",
    "exec": "how it runs",
    "packing": "how it runs",
    "recipe": "what it becomes",
    "texts": "what tells how",
    "report": "besides",
    "server": "the server",
    "target": "whom to ask",
    "load": "what to ask, and when",
    "start": "what to start",
    "record": "what is kept",
    "sampling": "how tokens are drawn",
    "step": "what to run",
    "run": "besides",
}

_SIZING = "serve chat generate plan"
_PROGRAM = f"{_SIZING} profile bench.offline"
_HUB = f"{_PROGRAM} pull quantize"
_LOADING = "bench.serve bench.compare"
_INSIDE = "bench.offline bench.kernels"
_BENCHES = f"{_LOADING} bench.startup {_INSIDE}"
_SCHEDULER, _CACHE, _EXEC, _SERVER = SchedulerConfig(), CacheConfig(), ExecConfig(), ServerConfig(names=("model",))
_RECIPE = QuantizeConfig()

# fmt: off
FLAGS = (
    # Where the model comes from.
    Flag("--cache-dir", str, None, "folder", "where fetched models are kept", f"{_HUB} models",
         "hub.cache_dir", shown="$OCTAVO_CACHE, else $XDG_CACHE_HOME/octavo, else ~/.cache/octavo"),
    Flag("--revision", str, None, "branch, tag or commit", "version of a model from a hub",
         _HUB, "hub.revision", shown="the newest"),
    Flag("--hf-token", str, None, "", "token for models of a hub that are not public",
         _HUB, "hub.token", shown="$HF_TOKEN, else none"),
    # How it runs.
    Flag("--max-model-len", int, None, "tokens", "longest prompt and output together", _SIZING, "launch.max_len",
         shown="what the model was made for, or less where memory is short"),
    Flag("--max-num-seqs", int, _SCHEDULER.max_seqs, "sequences", "most sequences that run at once", "serve plan",
         "scheduler.max_seqs"),
    Flag("--max-num-batched-tokens", int, _SCHEDULER.max_step_tokens, "tokens", "most tokens computed in one step",
         _SIZING, "scheduler.max_step_tokens"),
    Flag("--itl-target-ms", float, _SCHEDULER.itl_target_ms, "milliseconds",
         "longest time between two tokens of an answer while prompts are computed; 0 for no target", "serve",
         "scheduler.itl_target_ms"),
    Flag("--max-queued", int, _SCHEDULER.max_queued, "requests", "most requests that wait; further ones are refused",
         "serve", "scheduler.max_queued"),
    Flag("--scheduling-policy", str, _SCHEDULER.policy, "",
         "who goes first: fcfs, who came first; priority, whose request gives the lowest number",
         "serve", "scheduler.policy", choices=("fcfs", "priority")),
    Flag("--memory", size, _CACHE.memory_bytes, "bytes", "most memory the engine takes, such as 2GiB",
         f"{_SIZING} bench.offline", "cache.memory_bytes",
         shown="what the machine or its cgroup leaves, less a margin"),
    Flag("--kv-cache-dtype", str, _CACHE.kv_dtype, "", "how keys and values are stored", _PROGRAM, "cache.kv_dtype",
         choices=("bfloat16", "float32")),
    Flag("--enable-prefix-caching", switch, _CACHE.prefix_cache, "", "reuse keys and values of equal prompt beginnings",
         "serve chat generate", "cache.prefix_cache", aliases=("--prefix-cache",)),
    Flag("--dtype", str, _EXEC.dtype, "", "how unquantized weights are stored; auto: bfloat16, encoders finer: int16",
         _PROGRAM, "exec.dtype", choices=("auto", "bfloat16", "float32")),
    Flag("--quantize", str, _EXEC.quantization, "", "turn unquantized weights into codes of so many bits while loading",
         _PROGRAM, "exec.quantization", choices=("none", "int16", "int8", "int4"), aliases=("--quantization",)),
    Flag("--runner", str, _EXEC.runner, "", "what the model does; pooling gives embeddings or scores of labels",
         "serve plan", "exec.runner", choices=("auto", "generate", "pooling")),
    Flag("--packed-cache", switch, True, "", "keep packed weights in the cache folder, for a quick start the next time",
         "serve chat generate", "packing.kept"),
    Flag("--threads", int, _EXEC.threads, "threads", "threads that compute", f"{_PROGRAM} bench.kernels",
         "exec.threads", shown="one for each core this process may use"),
    Flag("--executor", str, _EXEC.executor, "", "who computes: the native kernels, or the slow numpy definition",
         f"{_SIZING} bench.offline", "exec.executor", choices=("cpu", "reference")),
    # The server.
    Flag("--host", str, _SERVER.host, "address", "where to listen; 0.0.0.0 for every network", "serve", "server.host"),
    Flag("--port", int, _SERVER.port, "", "where to listen; 0 takes a free port", "serve", "server.port"),
    Flag("--served-model-name", str, None, "", "the model's name in the API; may be given several times", "serve",
         "server.names", shown="MODEL as given", many=True),
    Flag("--api-key", str, None, "", "key that requests must bring; may be given several times", "serve",
         "server.api_keys", shown="none is asked for", many=True),
    Flag("--max-body-bytes", size, _SERVER.max_body_bytes, "bytes", "largest request body, such as 8MiB", "serve",
         "server.max_body_bytes"),
    Flag("--drain-seconds", float, _SERVER.drain_seconds, "seconds",
         "how long running requests may still take after SIGTERM or Ctrl-C", "serve", "server.drain_seconds"),
    Flag("--metrics-compat", str, _SERVER.metrics_compat, "", "whose names /metrics gives besides our own", "serve",
         "server.metrics_compat", choices=("none", "vllm")),
    Flag("--trust-request-chat-template", switch, False, "", "let a request bring a chat template of its own", "serve",
         "server.trust_request_chat_template"),
    Flag("--tool-call-parser", str, _SERVER.tool_call_parser, "", "how calls of tools are read out of an answer; "
         "auto: as the chat template writes them", "serve", "server.tool_call_parser",
         choices=registry.names(registry.TOOLS)),
    Flag("--reasoning-parser", str, _SERVER.reasoning_parser, "", "how reasoning is read out of an answer; auto: as "
         "the chat template marks it", "serve", "server.reasoning_parser",
         choices=registry.names(registry.REASONING)),
    Flag("--ignore-unknown", switch, False, "", "ignore what no request can ask, and name it in x-octavo-ignored",
         "serve", "server.ignore_unknown"),
    # How tokens are drawn.
    Flag("--temperature", float, 0.7, "", "0 takes the likeliest token always", "generate chat",
         "sampling.temperature"),
    Flag("--temperature", float, 0.0, "", "0 takes the likeliest token always", _LOADING, "sampling.temperature"),
    Flag("--top-p", float, 1.0, "share", "draw from the fewest tokens that reach this share", "generate chat",
         "sampling.top_p"),
    Flag("--top-k", int, 0, "tokens", "draw from this many likeliest tokens; 0: all", "generate chat",
         "sampling.top_k"),
    Flag("--min-p", float, 0.0, "share", "least share of a token, relative to the likeliest", "generate chat",
         "sampling.min_p"),
    Flag("--repetition-penalty", float, 1.0, "", "above 1 makes tokens that occurred less likely", "generate chat",
         "sampling.repetition_penalty"),
    Flag("--max-tokens", int, 512, "tokens", "longest answer", "generate chat", "sampling.max_tokens"),
    Flag("--seed", int, None, "", "makes the draw repeatable", "generate chat", "sampling.seed", shown="random"),
    Flag("--stop", str, None, "text", "end before this text; may be given several times", "generate", "sampling.stop",
         shown="none", many=True),
    Flag("--ignore-eos", switch, False, "", "go on after the model's end of text", f"generate {_LOADING}",
         "sampling.ignore_eos"),
    Flag("--logprobs", int, None, "alternatives", "report log-probabilities, with --json", "generate",
         "sampling.logprobs", shown="none"),
    Flag("--n", int, 1, "answers", "how many continuations", "generate", "sampling.n"),
    # What a command does besides.
    Flag("--model", str, DEFAULT_MODEL, "", "an alias, a folder, a .gguf file or a hub id", "generate", "run.model"),
    Flag("--system", str, None, "text", "what the model is told first", "chat", "run.system", shown="nothing"),
    # What `octavo quantize` makes, and by what.
    Flag("--scheme", str, _RECIPE.scheme, "", "codes of the layers' matrices", "quantize", "recipe.scheme",
         choices=("int4", "int8")),
    Flag("--group-size", int, _RECIPE.group, "inputs", "most that share a scale: 32, 64, 96 or 128; the largest that "
         "divides a matrix's inputs is taken", "quantize", "recipe.group", shown="64 for int4, 128 for int8"),
    Flag("--symmetric", switch, _RECIPE.symmetric, "", "codes without zero points, which cost int4 a byte or less for "
         "each group", "quantize", "recipe.symmetric"),
    Flag("--gptq", switch, _RECIPE.gptq, "", "with calibration: let columns make up for the error of those before",
         "quantize", "recipe.gptq"),
    Flag("--awq", switch, _RECIPE.awq, "", "with calibration: search scales for the channels that norms give",
         "quantize", "recipe.awq"),
    Flag("--damping", float, _RECIPE.damping, "share", "of the mean of the Hessian's diagonal, added to it for GPTQ",
         "quantize", "recipe.damping"),
    Flag("--calibration", str, None, "file", "text such as the model will meet, to quantize by", "quantize",
         "texts.calibration", shown="none: each matrix by itself"),
    Flag("--calibration-tokens", int, 4096, "tokens", "how much of it is used", "quantize",
         "texts.calibration_tokens"),
    Flag("--perplexity", str, None, "file", "text to measure perplexity on before and after", "quantize",
         "texts.perplexity", shown="what calibration leaves of its own, if anything"),
    Flag("--picture", switch, True, "", "draw the report; needs matplotlib", "quantize", "report.picture"),
    # What `octavo profile` runs.
    Flag("--prompt", int, 512, "tokens", "length of the prompt that is computed; 0: no such step", "profile",
         "step.prompt"),
    Flag("--batch", int, 8, "sequences", "how many decode at once; 0: no such step", "profile", "step.batch"),
    Flag("--context", int, 512, "tokens", "how many each of those has behind it", "profile", "step.context"),
    Flag("--steps", int, 20, "steps", "how often each step runs; the one of median length is shown", "profile",
         "step.steps"),
    Flag("--isa", str, None, "avx512, avx512bf16, avx2 or portable", "instruction set of the kernels", "profile",
         "step.isa", shown="$OCTAVO_ISA, else the fastest that runs here"),
    # Whom `octavo bench` asks.
    Flag("--url", str, "http://127.0.0.1:8000", "", "the server", "bench.serve", "target.url"),
    Flag("--url", str, None, "[NAME=]URL", "a server, with a name for the tables; given at least twice",
         "bench.compare", "target.url", shown="none", many=True),
    Flag("--endpoint", str, "/v1/completions", "", "what to ask there; prompts of a chat are text", _LOADING,
         "target.endpoint", choices=("/v1/completions", "/v1/chat/completions")),
    Flag("--model", str, None, "", "the model's name in the API", _LOADING, "target.model",
         shown="the first that /v1/models lists"),
    Flag("--api-key", str, None, "", "the key to bring", _LOADING, "target.api_key",
         shown="$OPENAI_API_KEY, else none"),
    Flag("--extra-body", str, None, "JSON", "an object whose fields every request gets besides", _LOADING,
         "target.extra_body", shown="none"),
    Flag("--timeout", float, 600.0, "seconds", "an answer that takes longer counts as an error", _LOADING,
         "target.timeout"),
    # What it asks, and when; names as in `vllm bench serve`.
    Flag("--dataset-name", str, "random", "", "prompts: random; prefix_repetition, random behind a beginning that "
         "several share; text, one for each line of --dataset-path", _LOADING, "load.dataset_name",
         choices=("random", "prefix_repetition", "text")),
    Flag("--dataset-path", str, None, "file", "lines of text, or JSON objects with prompt and perhaps output_tokens",
         _LOADING, "load.dataset_path", shown="none"),
    Flag("--input-len", int, 256, "tokens", "length of random prompts, behind a shared beginning", _LOADING,
         "load.input_len", aliases=("--random-input-len",)),
    Flag("--output-len", int, 64, "tokens", "length of answers; exactly so with --ignore-eos", _LOADING,
         "load.output_len", aliases=("--random-output-len",)),
    Flag("--random-range-ratio", float, 0.0, "share", "both lengths are drawn evenly from 1 - this to 1 + this of it",
         _LOADING, "load.range_ratio"),
    Flag("--prompt-form", str, "auto", "", "random prompts as token ids or as words of about one token each; auto: "
         "ids, words for a chat", _LOADING, "load.prompt_form", choices=("auto", "ids", "words")),
    Flag("--vocab-size", int, 10000, "token ids", "random ids are drawn below this, from a tenth of it on", _LOADING,
         "load.vocab_size"),
    Flag("--prefix-len", int, 256, "tokens", "length of a shared beginning", _LOADING, "load.prefix_len",
         aliases=("--prefix-repetition-prefix-len",)),
    Flag("--num-prefixes", int, 10, "prompts", "how many beginnings there are to share", _LOADING,
         "load.num_prefixes", aliases=("--prefix-repetition-num-prefixes",)),
    Flag("--num-prompts", int, 100, "requests", "how many are timed, for each point of a sweep", _LOADING,
         "load.num_prompts"),
    Flag("--num-warmups", int, None, "requests", "how many go first, without being timed", _LOADING,
         "load.num_warmups", shown="as many as run at once, at most 32"),
    Flag("--request-rate", float, float("inf"), "requests/s", "mean rate of arrivals; inf: all at the start", _LOADING,
         "load.request_rate"),
    Flag("--burstiness", float, 1.0, "", "shape of the gamma distribution of the times between arrivals: 1 is Poisson, "
         "below 1 comes in bursts, inf is constant", _LOADING, "load.burstiness"),
    Flag("--max-concurrency", int, None, "requests", "most in flight; who arrives beyond waits in the client", _LOADING,
         "load.max_concurrency", shown="no limit"),
    Flag("--sweep", str, None, "", "several points, such as concurrency:1,8,32 or rate:0.5,1,2", _LOADING, "load.sweep",
         shown="one point"),
    Flag("--trace", str, None, "file", "arrivals and lengths from JSON lines of timestamp (ms), input_length, "
         "output_length and, if known, hash_ids; --request-rate stretches them", _LOADING, "load.trace", shown="none"),
    Flag("--seed", int, 0, "", "of prompts, lengths and arrivals", _LOADING, "load.seed"),
    Flag("--goodput", str, None, "ms", "limits an answer must keep to be good, such as ttft:2000,tpot:100; of ttft, "
         "tpot and e2el", _LOADING, "load.goodput", shown="none"),
    Flag("--repeats", int, 7, "rounds", "how often each server has its turn, the order reversed each time",
         "bench.compare", "load.repeats"),
    # What `octavo bench startup` starts.
    Flag("--runs", int, 5, "starts", "how often", "bench.startup", "start.runs"),
    Flag("--cold", switch, False, "", "start with an empty cache folder, the model's file out of the system's cache",
         "bench.startup", "start.cold"),
    Flag("--server-command", str, None, "", "another server to start; {port} in it stands for a free port",
         "bench.startup", "start.command", shown="octavo serve MODEL"),
    Flag("--ready-path", str, "/health", "", "answers 200 once the server is ready", "bench.startup",
         "start.ready_path"),
    # What `octavo bench offline` and `octavo bench kernels` run.
    Flag("--prompt", int, None, "tokens", "length of the prompts", "bench.offline", "step.prompt",
         shown="512, or 128 with --requests"),
    Flag("--tokens", int, None, "tokens", "length of the answers", "bench.offline", "step.tokens",
         shown="128, or 64 with --requests"),
    Flag("--requests", int, None, "requests", "a batch: so many requests, all at once", "bench.offline",
         "step.requests", shown="one sequence, its prefill and its decode apart, as llama-bench counts"),
    Flag("--growth", switch, False, "", "the time of a step from 1 to 256 sequences, and from 128 to 8192 tokens",
         "bench.offline", "step.growth"),
    Flag("--form", str, None, "file", "a JSON schema that every answer follows: the batch without it, with every token "
         "drawn, and with forced tokens appended, by turns", "bench.offline", "step.form", shown="answers are free"),
    Flag("--runs", int, 5, "runs", "how often; medians are shown", "bench.offline", "step.runs"),
    Flag("--against", str, None, "command", "runs after each of ours: llama-bench with its model and threads; or, with "
         "--requests, what prints a JSON object with output_tokens_per_second; {requests}, {prompt} and {tokens} in it "
         "stand for ours",
         "bench.offline", "step.against", shown="nobody"),
    Flag("--only", str, "", "text", "the cases whose names contain this", "bench.kernels", "step.only", shown="all"),
    Flag("--seconds", float, 0.3, "seconds", "how long each case runs", "bench.kernels", "step.seconds"),
    Flag("--size", size, 512 << 20, "bytes", "what cases in memory walk through; more than any cache holds",
         "bench.kernels", "step.size", shown="512MiB"),
    Flag("--isa", str, None, "avx512, avx512bf16, avx2 or portable", "instruction set; may be given several times",
         "bench.kernels", "step.isa", shown="$OCTAVO_ISA, else the fastest that runs here", many=True),
    Flag("--out", str, None, "folder", "where to write result.json, requests.jsonl and the picture", _BENCHES,
         "record.out", shown="nothing is written"),
    Flag("--picture", switch, True, "", "draw result.png into --out; needs matplotlib", _BENCHES, "record.picture"),
    Flag("--json", switch, False, "", "print one JSON object",
         f"generate models plan quantize doctor profile {_BENCHES}", "run.json"),
)
# fmt: on


def of(command: str) -> list[Flag]:
    """The flags of one command, in the table's order."""
    other = PASSED_ON.get(command, "")
    return [
        flag
        for flag in FLAGS
        if command in flag.commands.split() or (other in flag.commands.split() and flag.section != "server")
    ]


def passed_on(args: argparse.Namespace) -> list[str]:
    """What was set of the flags that the command passes on, as one would type it."""
    words: list[str] = []
    for flag in of(PASSED_ON[args.command]):
        value = getattr(args, flag.dest, flag.default)
        if flag.section != "server" and value != flag.default:
            switched = flag.name if value else flag.name.replace("--", "--no-", 1)
            words += [switched] if flag.kind is switch else [flag.name, str(value)]
    return words


def section(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """What the flags of the command that ran set of one section, by field."""
    return {flag.field: getattr(args, flag.dest) for flag in of(args.command) if flag.section == name}


def named(field: str | None, command: str) -> str | None:
    """The flag of `command` that sets this field, so that an error names what was typed."""
    return next((flag.name for flag in of(command) if field in (flag.field, flag.dest)), None)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """End the process with this line and code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def parser(version: str) -> argparse.ArgumentParser:
    """The whole command line, made from the table."""
    top = _Parser(
        "octavo", description="An LLM serving engine for the CPU server everybody already has.", allow_abbrev=False
    )
    top.epilog = "`octavo serve` is all it takes to begin; `octavo COMMAND --help` lists a command's flags."
    top.add_argument("--version", action="version", version=f"octavo {version}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        one = _command(commands, name, summary)
        if name == "bench":
            one.usage = "%(prog)s NAME [FLAGS]"
            benches = one.add_subparsers(dest="bench", prog="octavo bench", metavar="NAME", required=True)
            for bench, about in BENCHES.items():
                _command(benches, bench, about)
    return top


def _command(commands: argparse._SubParsersAction[Any], name: str, summary: str) -> _Parser:
    """Add one command with its positional argument and its flags."""
    usage = f"%(prog)s {POSITIONAL.get(name, '')} [FLAGS]".replace("  ", " ")
    description = f"{summary[0].upper()}{summary[1:]}."
    one: _Parser = commands.add_parser(
        name.rpartition(".")[2], help=summary, description=description, usage=usage, allow_abbrev=False
    )
    about = "an alias, a folder, a .gguf file or a hub id"
    if POSITIONAL.get(name) == "[MODEL]":
        shown = f"{about} [default: {DEFAULT_MODEL}]"
        one.add_argument("model", metavar="MODEL", nargs="?", default=DEFAULT_MODEL, help=shown)
    elif POSITIONAL.get(name) in ("MODEL", "MODEL OUT"):
        one.add_argument("model", metavar="MODEL", help=about)
        if name == "quantize":
            one.add_argument("out", metavar="OUT", help="the folder to write; it must not be there yet")
    elif POSITIONAL.get(name) == "PROMPT":
        one.add_argument("prompt", metavar="PROMPT", help="the text to continue; - reads it from standard input")
    parts: dict[str, argparse._ArgumentGroup] = {}
    for flag in of(name):
        title = TITLES[flag.section]
        if title not in parts:
            parts[title] = one.add_argument_group(title)
        _add(parts[title], flag)
    one.set_defaults(command=name, **{flag.dest: flag.default for flag in of(name)})
    return one


def _add(one: argparse._ArgumentGroup, flag: Flag) -> None:
    """Give a command one flag."""
    names, text = (flag.name, *flag.aliases), flag.described.replace("%", "%%")
    if flag.kind is switch and flag.default:
        one.add_argument(*names, dest=flag.dest, action=argparse.BooleanOptionalAction, help=text)
    elif flag.kind is switch:
        one.add_argument(*names, dest=flag.dest, action="store_true", help=text)
    else:
        metavar = "{" + ",".join(flag.choices) + "}" if flag.choices else flag.name.split("-")[-1].upper()
        one.add_argument(
            *names,
            dest=flag.dest,
            type=flag.parse,
            action="append" if flag.many else "store",
            metavar=metavar,
            help=text,
        )
