"""From answers to figures: the definitions, as functions of times and counts, and in words for whoever reads them.

Those of `vllm bench serve`, where it has the same figure. Failed requests have no times; the error rate stands beside
every figure, because a server that refuses the hard ones looks fast. Knows no connection and no picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from octavo.bench.load import Run
from octavo.bench.stream import Answer

DEFINITIONS = {
    "ttft": "from sending (connecting included) to the first chunk with choices; a chat's chunk of the role alone is "
    "not one",
    "tpot": "(e2el - ttft) / (output tokens - 1) of each answer of two tokens or more",
    "itl": "between consecutive chunks, over all answers together; a chunk may hold several tokens",
    "e2el": "from sending to the last chunk with choices",
    "queue": "from being due to being sent, in this client: waiting for a place among --max-concurrency",
    "e2el_with_queue": "from being due to the last chunk: what a user would wait (coordinated omission)",
    "output tokens": "what the server's usage says; where it says nothing, the number of chunks with text",
    "throughput": "of good answers only, over the time from the start to the last answer, failed ones included",
    "goodput": "answers within all limits (an answer of one token has a tpot of 0), over the same time",
    "peak concurrency": "most requests sent and not yet ended, of the good ones",
    "error rate": "share of requests without a whole, good answer; these have no times above",
    "server cpu": "processor time of the process that listens and its children, as /proc says, on this machine only",
    "percentiles": "linear between the nearest ranks; median is P50",
}
TIMES = ("ttft", "tpot", "itl", "e2el", "queue", "e2el_with_queue")
SHOWN = ("mean", "median", "p90", "p99")


def ttft(answer: Answer) -> float:
    """Time to the first token, seconds."""
    return answer.first - answer.sent


def e2el(answer: Answer) -> float:
    """Time to the last token, seconds."""
    return answer.last - answer.sent


def tpot(answer: Answer) -> float | None:
    """Time for each token after the first, seconds; None where there is none."""
    after = answer.output_tokens - 1
    return (answer.last - answer.first) / after if after > 0 else None


def times(answers: Sequence[Answer]) -> dict[str, list[float]]:
    """All times of good answers, in ms, by metric."""
    good = [answer for answer in answers if answer.error is None]
    found: dict[str, list[float]] = {
        "ttft": [ttft(answer) for answer in good],
        "tpot": [each for answer in good if (each := tpot(answer)) is not None],
        "itl": [gap for answer in good for gap in answer.gaps],
        "e2el": [e2el(answer) for answer in good],
        "queue": [answer.sent - answer.arrived for answer in good],
        "e2el_with_queue": [answer.last - answer.arrived for answer in good],
    }
    return {name: [value * 1000 for value in values] for name, values in found.items()}


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """Count, mean, median, 90th and 99th percentile; None where there is no value."""
    if not values:
        return {"n": 0} | dict.fromkeys(SHOWN)
    p50, p90, p99 = (float(value) for value in np.percentile(values, [50, 90, 99]))
    return {"n": len(values), "mean": float(np.mean(values)), "median": p50, "p90": p90, "p99": p99}


def within(answer: Answer, limits: dict[str, float]) -> bool:
    """Whether a good answer keeps to all limits, in ms."""
    found = {"ttft": ttft(answer), "tpot": tpot(answer) or 0.0, "e2el": e2el(answer)}
    return all(found[name] * 1000 <= limit for name, limit in limits.items())


def peak(spans: Sequence[tuple[float, float]]) -> int:
    """Most spans (from, to) that hold one moment; one that ends when another begins does not meet it."""
    most = now = 0
    for _, change in sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans]):
        now += change
        most = max(most, now)
    return most


def figures(run: Run, limits: dict[str, float]) -> dict[str, Any]:
    """All figures of one run: rates a second, times in ms."""
    good = [(job, answer) for job, answer in zip(run.jobs, run.answers, strict=True) if answer.error is None]
    failed = [answer.error for answer in run.answers if answer.error is not None]
    answers = [answer for _, answer in good]
    output = sum(answer.output_tokens for answer in answers)
    prompt = sum(answer.prompt_tokens or job.input_len or 0 for job, answer in good)
    return {
        "requests": len(run.answers),
        "failed": len(failed),
        "error_rate": len(failed) / len(run.answers),
        "errors": dict(Counter(failed).most_common()),
        "seconds": run.seconds,
        "request_rate": len(good) / run.seconds,
        "output_tok_s": output / run.seconds,
        "total_tok_s": (prompt + output) / run.seconds,
        "goodput": sum(within(answer, limits) for answer in answers) / run.seconds if limits else None,
        "peak_concurrency": peak([(answer.sent, answer.last) for answer in answers]),
        "prompt_tokens": prompt,
        "cached_tokens": sum(answer.cached_tokens for answer in answers),
        "output_tokens": output,
        "tokens_counted_by": sorted({answer.counted for answer in answers}),
        "client_cpu_seconds": run.client_cpu,
        "server_cpu_seconds": run.server_cpu,
        "server_cpu_s_per_1k_tokens": run.server_cpu * 1000 / output if run.server_cpu and output else None,
        "ms": {name: summary(values) for name, values in times(answers).items()},
    }


def raw(run: Run) -> list[dict[str, Any]]:
    """Each request as it went: times in seconds from the start of the run, lengths in tokens."""
    return [
        {
            "arrived": round(job.arrival, 6),
            "sent": _since(run, answer.sent),
            "first": _since(run, answer.first),
            "last": _since(run, answer.last),
            "gaps": [round(gap, 6) for gap in answer.gaps],
            "input_len": job.input_len,
            "output_len": job.output_len,
            "prompt_tokens": answer.prompt_tokens,
            "cached_tokens": answer.cached_tokens,
            "output_tokens": answer.output_tokens,
            "counted": answer.counted,
            "finish": answer.finish,
            "status": answer.status,
            "error": answer.error,
        }
        for job, answer in zip(run.jobs, run.answers, strict=True)
    ]


def _since(run: Run, moment: float) -> float | None:
    return round(moment - run.began, 6) if moment else None
