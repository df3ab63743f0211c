"""What a step costs beside the model: processor time of planning, gathering, committing and answering.

usage: python -m octavo.bench.overhead MODEL [--seqs 1,32,256] [--steps 500]

Decoding sequences whose executor takes no time (bench/null.py); microseconds of processor time of this thread for each
step, medians. Sending is the frame to the front, over a socket that a thread of this process reads; of what that thread
takes, nothing is counted. Knows no server.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import threading
from itertools import pairwise
from time import thread_time_ns

from octavo.bench.null import parts
from octavo.core.config import SchedulerConfig
from octavo.core.request import Request, SamplingParams
from octavo.engine.config import LaunchConfig
from octavo.engine.engine import Engine
from octavo.engine.ipc import Outbox, Outputs
from octavo.worker.gather import gather

PARTS = ("plan", "gather", "worker's rest", "commit", "stats", "frame and send")


def measure(model: str, seqs: int, steps: int) -> list[list[int]]:
    """Nanoseconds of each part, for each step of `seqs` decoding sequences."""
    launch = LaunchConfig(model=model, scheduler=SchedulerConfig(max_seqs=seqs, max_step_tokens=max(512, seqs)))
    scheduler, worker, info = parts(launch)
    engine = Engine(scheduler, worker, vocab=info.vocab)
    for number in range(seqs):
        sampling = SamplingParams(max_tokens=steps + 100, ignore_eos=True)
        engine.add(Request(id=f"{number:024x}-0", prompt=[number % 256] * 100, sampling=sampling, eos_ids=[2]))
    while scheduler.stats().generated_tokens < 2 * seqs:  # all decode
        engine.step()
    ours, theirs = socket.socketpair()
    front = threading.Thread(target=_drain, args=(theirs,))
    front.start()
    outbox = Outbox(ours)
    rows = []
    for _ in range(steps):
        marks = [thread_time_ns()]
        plan = scheduler.plan()
        marks.append(thread_time_ns())
        assert plan is not None
        gather(plan, worker.slots)  # a second time within run, where it is taken off
        marks.append(thread_time_ns())
        result = worker.run(plan)
        marks.append(thread_time_ns())
        outputs = scheduler.commit(plan, result)
        marks.append(thread_time_ns())
        stats = engine.stats()
        marks.append(thread_time_ns())
        outbox.send(Outputs(outputs, stats))
        marks.append(thread_time_ns())
        spent = [end - begin for begin, end in pairwise(marks)]
        spent[2] -= spent[1]
        rows.append(spent)
    ours.close()
    front.join()
    return rows


def _drain(sock: socket.socket) -> None:
    with sock:
        while sock.recv(1 << 18):
            pass


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m octavo.bench.overhead", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("model", help="a .gguf file or a folder, of which only the headers are read")
    parser.add_argument("--seqs", default="1,32,256", help="numbers of sequences (default: 1,32,256)")
    parser.add_argument("--steps", type=int, default=500, help="steps of each (default: 500)")
    args = parser.parse_args(argv)
    for seqs in map(int, args.seqs.split(",")):
        rows = measure(args.model, seqs, args.steps)
        medians = [statistics.median(column) / 1e3 for column in zip(*rows, strict=True)]
        shown = ", ".join(f"{name} {spent:.0f}" for name, spent in zip(PARTS, medians, strict=True))
        print(f"{seqs} sequences: {statistics.median(map(sum, rows)) / 1e3:.0f} us a step: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
