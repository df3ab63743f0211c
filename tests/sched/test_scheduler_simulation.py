"""The scheduler under a simulated worker whose pages hold what real ones do: something of every token before.

The content of position i is a number made of the content of position i - 1 and token i, as keys and values are, and the
token drawn at i is a function of it. So an aliased, stale, foreign or unwritten page shows at once, and every request
has one right answer, which it must get whatever runs beside it. Each cache group has contents of its own, of which a
step reads what its window shows.
"""

import random
import zlib
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from octavo.cache.pool import BlockPool
from octavo.core.config import SchedulerConfig
from octavo.core.errors import QueueFull
from octavo.core.layout import PAGE, pages_for
from octavo.core.plan import Output, Plan, Run, RunResult, StepResult, TokenLogprob
from octavo.core.request import Request, SamplingParams
from octavo.sched.cost import Costs, StepCost
from octavo.sched.scheduler import Scheduler

VOCAB = 97
EOS = 0


def root(request: Request) -> int:
    return hash((zlib.crc32(request.salt.encode()), request.adapter))


def draw(request: Request, content: int, generated: int) -> int:
    """The token after a position with this content; ends are masked before min_tokens."""
    sampling = request.sampling
    ends = set(sampling.stop_token_ids or ()) | (set() if sampling.ignore_eos else set(request.eos_ids))
    token = content % VOCAB
    while generated < sampling.min_tokens and token in ends:
        token = (token + 1) % VOCAB
    return token


def alone(request: Request, longest: int) -> tuple[list[int], str, int | None]:
    """What this request must get: tokens, finish, stop reason."""
    sampling = request.sampling
    content = root(request)
    for token in request.prompt:
        content = hash((content, token))
    tokens: list[int] = []
    while True:
        tokens.append(draw(request, content, len(tokens)))
        content = hash((content, tokens[-1]))
        if len(tokens) >= sampling.min_tokens:
            if tokens[-1] in request.eos_ids and not sampling.ignore_eos:
                return tokens, "stop", None
            if tokens[-1] in (sampling.stop_token_ids or ()):
                return tokens, "stop", tokens[-1]
        if len(tokens) == sampling.max_tokens or len(request.prompt) + len(tokens) == longest:
            return tokens, "length", None


class Life:
    """A slot from start to free."""

    def __init__(self, request: Request, tokens: list[int], groups: int) -> None:
        self.request = request
        self.tokens: list[int] = []
        self.contents = []  # what the page of each position must hold
        self.last = root(request)
        self.tables: list[list[int]] = [[] for _ in range(groups)]
        self.computed = -1  # not run yet
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        self.tokens.append(token)
        self.last = hash((self.last, token))
        self.contents.append(self.last)


class SimulatedWorker:
    """Keeps pages and slots, and checks everything a plan promises."""

    def __init__(self, pages: int, windows: tuple[int, ...] = (0,)) -> None:
        self.pages: list[list[int | None]] = [[None] * PAGE for _ in range(pages)]
        self.windows = windows
        self.readers = [0] * pages  # lives that still read the page
        self.slots: dict[int, Life] = {}
        self.starts: Counter[str] = Counter()
        self.computed = 0  # tokens, recomputed ones included
        self.copies = 0
        self.copied: dict[int, list[int | None]] = {}  # what pages hold from the start of this step on

    def run(self, plan: Plan, failing: str | None = None) -> StepResult:
        self.copied = {page: list(self.pages[source]) for source, page in plan.copies}
        self.copies += len(plan.copies)
        for slot in plan.frees:
            for block in self.read(self.slots.pop(slot)):
                self.readers[block] -= 1
        for start in plan.starts:
            assert start.slot not in self.slots
            assert list(start.tokens[: len(start.request.prompt)]) == start.request.prompt
            self.slots[start.slot] = Life(start.request, list(start.tokens), len(self.windows))
            self.starts[start.request.id] += 1
        assert len({run.slot for run in plan.runs}) == len(plan.runs)
        for run in plan.runs:
            self.extend(self.slots[run.slot], run)
        assert not self.copied, "copied for nobody"
        return StepResult([self.compute(self.slots[run.slot], run, failing) for run in plan.runs])

    def first(self, group: int, computed: int) -> int:
        """The first page of a group that a token from position `computed` on reads."""
        window = self.windows[group]
        return next(page for page in range(computed + 1) if not window or (page + 1) * PAGE > computed - window + 1)

    def read(self, life: Life) -> list[int]:
        """All pages of a life that may still be read."""
        computed = max(life.computed, 0)
        return [block for group, table in enumerate(life.tables) for block in table[self.first(group, computed) :]]

    def extend(self, life: Life, run: Run) -> None:
        """New pages go behind the tables; those that are not cached are private, and hold what was begun if any."""
        groups, found, begun = len(self.windows), 0, 0
        if life.computed < 0:
            life.computed = run.first
            found, begun = divmod(run.first, PAGE)
            if life.request.sampling.prompt_logprobs is not None and len(life.tokens) == len(life.request.prompt):
                assert not run.first
        for place, block in enumerate(run.blocks[found * groups :]):
            assert not self.readers[block], "a page given to two"
            kept = begun if place < groups else 0
            self.pages[block] = self.copied.pop(block, self.pages[block])[:kept] + [None] * (PAGE - kept)
        for group, table in enumerate(life.tables):
            table += run.blocks[group::groups]
            assert len(table) == pages_for(run.first + run.count), "pages missing or reserved"
            if found:
                seen = self.first(group, run.first)
                assert min(table[seen:]) >= 0, "a page is needed and not there"
                assert set(table[:seen]) <= {-1}, "a page is held for nothing"
        for block in run.blocks:
            if block >= 0:
                self.readers[block] += 1

    def compute(self, life: Life, run: Run, failing: str | None) -> RunResult:
        request, end = life.request, run.first + run.count
        assert run.first == life.computed, "a position skipped or computed twice"
        assert run.count > 0
        assert end <= len(life.tokens)
        assert run.sample == (end == len(life.tokens))
        before = self.read(life)
        for group, table in enumerate(life.tables):
            self.compute_group(life, run, group, table)
        life.computed = end
        self.computed += run.count
        for block in before:
            self.readers[block] -= 1
        for block in self.read(life):
            self.readers[block] += 1
        if request.id == failing:
            for group, table in enumerate(life.tables):
                self.spoil(life, group, table)
            return RunResult(failed="logits are not finite")
        prompt_logprobs = ()
        if request.sampling.prompt_logprobs is not None:
            ends = range(run.first + 1, min(end + 1, len(request.prompt)))
            prompt_logprobs = tuple(TokenLogprob(request.prompt[position], -1.0, 1) for position in ends)
        if not run.sample:
            return RunResult(prompt_logprobs=prompt_logprobs)
        token = draw(request, life.last, len(life.tokens) - len(request.prompt))
        life.append(token)
        logprobs = () if request.sampling.logprobs is None else (TokenLogprob(token, -1.0, 1),)
        return RunResult((token,), logprobs, prompt_logprobs)

    def compute_group(self, life: Life, run: Run, group: int, table: list[int]) -> None:
        """Read what the first token sees, write all."""
        end, window = run.first + run.count, self.windows[group]
        for position in range(max(0, run.first - window + 1) if window else 0, run.first):
            held = self.pages[table[position // PAGE]][position % PAGE]
            assert held == hash((life.contents[position], group)), "the pages hold something else"
        for page in range(run.first // PAGE, pages_for(end)):
            assert self.readers[table[page]] == 1, "a shared page is written"
        for position in range(run.first, end):
            self.pages[table[position // PAGE]][position % PAGE] = hash((life.contents[position], group))

    def spoil(self, life: Life, group: int, table: list[int]) -> None:
        """Nobody may ever find what this life has computed, nor what it has given back."""
        for page, block in enumerate(table):
            held = [hash((content, group)) for content in life.contents[page * PAGE : life.computed][:PAGE]]
            written = block >= 0 and held and self.pages[block][: len(held)] == held
            if written and self.readers[block] == (page >= self.first(group, life.computed)):
                self.pages[block] = [-1] * PAGE


class Simulation:
    """A scheduler, a worker, and what callers see of them.

    `head` is the first of the waiting and for how many steps it has been, nobody being admitted: it waits at most for
    all of the running to end.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        pages: int,
        prefix_cache: bool = True,
        cost: StepCost | None = None,
        windows: tuple[int, ...] = (0,),
    ) -> None:
        self.config = config
        self.windows = windows
        self.scheduler = Scheduler(config, BlockPool(pages, prefix_cache), cost, windows)
        fitting = [n for n in range(config.max_len + 1) if self.most_pages(n) <= pages]
        self.longest = fitting[-1]
        assert self.scheduler.longest == self.longest
        self.worker = SimulatedWorker(pages, windows)
        self.requests: dict[str, Request] = {}
        self.live: dict[str, tuple[int, int]] = {}  # id -> order
        self.outputs: dict[str, list[Output]] = {}
        self.head: tuple[str, int] = ("", 0)
        self.steps = 0

    def most_pages(self, length: int) -> int:
        """Pages of a sequence that is computed in the largest steps, wherever they begin."""
        step, total = self.config.max_step_tokens, 0
        for window in self.windows:
            rows = range(pages_for(length))
            most = max((window + step - 2 + offset) // PAGE + 1 for offset in range(PAGE)) if window else len(rows)
            total += min(len(rows), most)
        return total

    def add(self, request: Request) -> bool:
        """False when the queue is full: then nothing of it remains."""
        try:
            self.scheduler.add(request)
        except QueueFull:
            assert self.scheduler.stats().waiting >= self.config.max_queued
            return False
        priority = request.priority if self.config.policy == "priority" else 0
        self.live[request.id] = (priority, len(self.requests))
        self.requests[request.id] = request
        self.outputs[request.id] = []
        return True

    def abort(self, request_id: str) -> None:
        output = self.scheduler.abort(request_id)
        if request_id in self.live:
            assert output.finish == "abort"
            self.receive(output)
        else:
            assert output is None

    def step(self, aborts: tuple[str, ...] = (), failing: str | None = None) -> None:
        """One step; `aborts` come while it runs."""
        before = self.scheduler.stats()
        plan = self.scheduler.plan()
        assert (plan is not None) == bool(self.live)
        if plan is None:
            return
        result = self.worker.run(plan, failing)
        self.check_plan(plan, preempted=self.scheduler.stats().preemptions > before.preemptions)
        for request_id in aborts:
            self.abort(request_id)
        for output in self.scheduler.commit(plan, result):
            self.receive(output)
        self.scheduler.learn(0.001 * sum(run.count for run in plan.runs) * (1 + self.steps % 7))
        self.steps += 1

    def check_plan(self, plan: Plan, preempted: bool) -> None:
        """Budget kept, decodes first, nobody starves, no admission beside a preemption."""
        lives = self.worker.slots
        assert len(lives) <= self.config.max_seqs
        assert sum(run.count for run in plan.runs) <= self.config.max_step_tokens
        assert not (preempted and plan.starts)
        planned = {lives[run.slot].request.id for run in plan.runs}
        running = {life.request.id for life in lives.values()}
        bound = self.scheduler.cost is not None and self.config.itl_target_ms > 0  # by time, too
        if not preempted and not bound and sum(run.count for run in plan.runs) < self.config.max_step_tokens:
            assert planned == running, "somebody was left out"
            assert all(run.sample for run in plan.runs), "budget was left over"
        for run in plan.runs:  # drawn tokens are appended by now
            assert lives[run.slot].computed == run.first + run.count
        for life in lives.values():
            assert life.request.id in planned or len(life.tokens) - life.computed > 1, "a decode was left out"
        assert min(running, key=self.live.__getitem__) in planned, "the first of the running does not go on"
        if self.config.policy == "fcfs":
            assert min(self.live, key=self.live.__getitem__) in planned, "the first of all does not go on"
        waiting = self.live.keys() - running
        head = min(waiting, key=self.live.__getitem__) if waiting else ""
        self.head = (head, self.head[1] + 1 if head and head == self.head[0] and not plan.starts else 0)
        assert self.head[1] <= self.config.max_seqs * self.longest, f"{head} starves"

    def receive(self, output: Output) -> None:
        """Each output belongs to a live request; the final one is right and the last."""
        request, known = self.requests[output.id], self.outputs[output.id]
        assert output.id in self.live, "an output after the final one"
        assert output.tokens or output.finish
        if request.sampling.logprobs is not None:
            assert [logprob.token for logprob in output.logprobs] == output.tokens
        if known:
            assert not output.prompt_logprobs
            assert not output.cached
        else:
            assert output.cached < len(request.prompt)
            if output.tokens and request.sampling.prompt_logprobs is not None:
                assert [logprob.token for logprob in output.prompt_logprobs] == request.prompt[1:]
        known.append(output)
        if output.finish is None:
            return
        del self.live[output.id]
        tokens = [token for part in known for token in part.tokens]
        expected, finish, reason = alone(request, self.longest)
        if output.finish in ("abort", "error"):
            assert tokens == expected[: len(tokens)]
            assert (output.error is not None) == (output.finish == "error")
        else:
            assert tokens == expected
            assert (output.finish, output.stop_reason) == (finish, reason)

    def check(self) -> None:
        """Between steps: invariants, and the figures against what the pages really hold."""
        self.scheduler.check()
        stats = self.scheduler.stats()
        lives = [life for life in self.worker.slots.values() if life.request.id in self.live]
        lives = [life for life in lives if life.computed >= 0]
        held = {block for life in lives for block in self.worker.read(life)}
        empty = sum(content is None for block in held for content in self.worker.pages[block])
        assert (stats.pages_held, stats.slack_tokens) == (len(held), empty)
        assert stats.pages_free + stats.pages_cached + stats.pages_held == stats.pages_total
        assert stats.running + stats.waiting == len(self.live)
        assert stats.generated_tokens == sum(len(o.tokens) for parts in self.outputs.values() for o in parts)
        assert sum(stats.finished.values()) == len(self.requests) - len(self.live)
        assert 0 <= stats.prefix_hits <= stats.prefix_queries

    def drain(self) -> None:
        """All that is live ends without further arrivals, and nothing is left behind."""
        bound = self.steps + sum(self.longest for _ in self.live)
        while self.live:
            assert self.steps < bound, "no progress"
            self.step()
        assert not self.scheduler.has_work
        self.check()
        stats = self.scheduler.stats()
        assert (stats.running, stats.waiting, stats.pages_held, stats.slack_tokens) == (0, 0, 0, 0)
        assert stats.pages_free + stats.pages_cached == stats.pages_total
        for outputs in self.outputs.values():
            assert [output.finish is not None for output in outputs] == [False] * (len(outputs) - 1) + [True]


def families(salt: int, count: int, longest: int) -> list[list[int]]:
    """Prompts that requests take their prefixes from."""
    source = random.Random(salt)
    return [[source.randrange(VOCAB) for _ in range(longest)] for _ in range(count)]


class SchedulerMachine(RuleBasedStateMachine):
    """Anything that callers may do, in any order."""

    @initialize(
        max_seqs=st.integers(1, 5),
        budget=st.integers(5, 90),
        max_len=st.integers(2, 200),
        max_queued=st.integers(0, 9),
        policy=st.sampled_from(["fcfs", "priority"]),
        pages=st.integers(1, 9),
        prefix_cache=st.sampled_from([True, True, False]),
        itl_target_ms=st.sampled_from([None, 0, 5, 50]),
        windows=st.sampled_from([(0,), (0,), (1,), (33,), (60,), (0, 7), (0, 40, 40), (5, 70)]),
    )
    def start(self, max_seqs, budget, max_len, max_queued, policy, pages, prefix_cache, itl_target_ms, windows):
        config = SchedulerConfig(
            max_seqs=max_seqs,
            max_step_tokens=budget,
            max_len=max_len,
            max_queued=max_queued,
            policy=policy,
            itl_target_ms=itl_target_ms or 0,
        )
        cost = None if itl_target_ms is None else StepCost(Costs(1e-3, 1e-3, 1e-4, 1e-6, 1e-5))
        self.simulation = Simulation(config, pages * len(windows), prefix_cache, cost, windows)
        self.prompts = families(0, 2, self.simulation.longest)
        self.names = 0

    @rule(
        family=st.integers(0, 1),
        length=st.integers(1, 199),
        tail=st.lists(st.integers(0, VOCAB - 1), max_size=3),
        max_tokens=st.sampled_from([None, None, 1, 40, 70]),
        min_tokens=st.integers(0, 3),
        stops=st.one_of(st.none(), st.lists(st.integers(0, VOCAB - 1), max_size=3)),
        logprobs=st.sampled_from([None, 0]),
        prompt_logprobs=st.sampled_from([None, None, 0]),
        flags=st.tuples(st.booleans(), st.sampled_from(["", "", "b"]), st.sampled_from([0, 0, 1])),
        priority=st.integers(0, 2),
    )
    def add(self, family, length, tail, max_tokens, min_tokens, stops, logprobs, prompt_logprobs, flags, priority):
        ignore_eos, salt, adapter = flags
        prompt = (self.prompts[family][:length] + tail)[: self.simulation.longest - 1]
        least = min(min_tokens, max_tokens or min_tokens, self.simulation.longest - len(prompt))
        sampling = SamplingParams(
            max_tokens=max_tokens,
            min_tokens=least,
            stop_token_ids=stops,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            ignore_eos=ignore_eos,
        )
        request = Request(
            id=f"r{self.names}",
            prompt=prompt,
            sampling=sampling,
            eos_ids=[EOS],
            priority=priority,
            salt=salt,
            adapter=adapter,
            after=f"r{self.names - 1}" if length % 3 == 0 else "",  # whatever that one's prompt is
        )
        self.names += 1
        self.simulation.add(request)

    @rule(count=st.integers(1, 40))
    def steps(self, count):
        for _ in range(count):
            self.simulation.step()

    @precondition(lambda self: self.simulation.requests)
    @rule(data=st.data())
    def abort(self, data):
        """Live or long gone."""
        self.simulation.abort(data.draw(st.sampled_from(sorted(self.simulation.requests))))

    @precondition(lambda self: self.simulation.live)
    @rule(data=st.data())
    def step_with_aborts(self, data):
        live = sorted(self.simulation.live)
        aborts = data.draw(st.lists(st.sampled_from(live), unique=True, max_size=3))
        self.simulation.step(tuple(aborts))

    @precondition(lambda self: self.simulation.live)
    @rule(data=st.data())
    def step_with_failure(self, data):
        self.simulation.step(failing=data.draw(st.sampled_from(sorted(self.simulation.live))))

    @invariant()
    def holds(self):
        if hasattr(self, "simulation"):
            self.simulation.check()

    def teardown(self):
        if hasattr(self, "simulation"):
            self.simulation.drain()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def arrival(source: random.Random, name: str, prompts: list[list[int]], longest: int) -> Request:
    """A request of the long run: often with a shared prefix, sometimes demanding."""
    family = source.choice(prompts)
    prompt = family[: source.choice((1, 10, 20, 40, 70, 119))] + [
        source.randrange(VOCAB) for _ in range(source.choice((0, 0, 3, 15)))
    ]
    prompt = prompt[: longest - 1]
    sampling = SamplingParams(
        max_tokens=source.choice((None, None, None, 1, 20, 150)),
        stop_token_ids=source.choice((None, None, [5, 6])),
        logprobs=source.choice((None, 0)),
        prompt_logprobs=source.choice((None, None, None, 0)),
        ignore_eos=source.random() < 0.8,
    )
    return Request(
        id=name,
        prompt=prompt,
        sampling=sampling,
        eos_ids=[EOS],
        priority=source.randrange(3),
        salt=source.choice(("", "", "", "tenant")),
    )


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_long_run(policy):
    """50 000 steps for each policy: small pools, windows, aborts, failures, preemptions, prefixes, priorities."""
    source = random.Random(policy)
    steps, preemptions, hits, copies, finishes = 0, 0, 0, 0, Counter()
    while steps < 50_000:
        config = SchedulerConfig(
            max_seqs=source.randrange(2, 9),
            max_step_tokens=source.choice((8, 16, 50, 120)),
            max_len=source.choice((100, 300, 600)),
            max_queued=source.randrange(8),
            policy=policy,
        )
        windows = source.choice(((0,), (0,), (40,), (0, 40), (0, 64, 64)))
        pages = source.randrange(4, 14) * len(windows)
        simulation = Simulation(config, pages, source.random() < 0.8, windows=windows)
        prompts = families(source.randrange(100), 3, source.choice((20, 120)))
        rate = source.choice((0.05, 0.3, 0.5))
        for _ in range(2000):
            if source.random() < rate:
                name = f"r{len(simulation.requests)}"
                simulation.add(arrival(source, name, prompts, simulation.longest))
            live = sorted(simulation.live)
            trouble = source.random()
            if live and trouble < 0.004:
                simulation.abort(source.choice(live))
            if live and 0.004 < trouble < 0.008:
                simulation.step((source.choice(live),))
            else:
                simulation.step(failing=source.choice(live) if live and trouble > 0.998 else None)
            if source.random() < 0.02:
                simulation.check()
        simulation.drain()
        steps += max(simulation.steps, 1)
        preemptions += simulation.scheduler.stats().preemptions
        hits += simulation.scheduler.stats().prefix_hits
        copies += simulation.worker.copies
        finishes.update(simulation.scheduler.stats().finished)
    assert preemptions > 100
    assert hits > 500
    assert copies > 100
    assert min(finishes[reason] for reason in ("stop", "length", "abort", "error")) > 20


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize(("prompt", "output"), [(600, 40), (20, 620), (320, 320), (33, 607)])
def test_no_thrash_in_a_pool_of_little_more_than_one_request(policy, prefix_cache, prompt, output):
    """PRODUCTION.md, incidents 9 to 12: all finish, preemptions are bounded, and it takes no longer than one by one."""
    requests, size = 16, prompt + output
    pages = pages_for(size) * 12 // 10
    config = SchedulerConfig(max_seqs=16, max_step_tokens=64, max_len=1024, policy=policy)
    simulation = Simulation(config, pages, prefix_cache)
    source = random.Random(0)
    for name in range(requests):
        tokens = [source.randrange(VOCAB) for _ in range(prompt)]
        sampling = SamplingParams(max_tokens=output, ignore_eos=True)
        simulation.add(Request(id=str(name), prompt=tokens, sampling=sampling, eos_ids=[EOS]))
    simulation.drain()
    assert simulation.scheduler.stats().finished == {"length": requests}
    bound = pages_for(size).bit_length()
    assert max(simulation.worker.starts.values()) <= 1 + bound
    serial = requests * (pages_for(prompt) // 2 + output)
    assert simulation.steps <= serial
    assert simulation.worker.computed <= 2 * requests * size


def test_preemption_changes_no_answer_and_costs_little():
    """The same requests in a large pool and in a small one: the same outputs (alone, too), most pages found again."""
    source = random.Random(1)
    prompts = families(7, 12, 60)
    requests = [
        Request(id=str(index), prompt=prompt, sampling=SamplingParams(max_tokens=source.randrange(60, 200)))
        for index, prompt in enumerate(prompts)
    ]
    runs = []
    for pages in (200, 14):
        simulation = Simulation(SchedulerConfig(max_seqs=8, max_step_tokens=40, max_len=300), pages)
        for request in requests:
            assert simulation.add(request)
        simulation.drain()
        runs.append(simulation)
    large, small = runs
    assert large.scheduler.stats().preemptions == 0
    assert small.scheduler.stats().preemptions > 3
    tokens = [{name: [o.tokens for o in outputs] for name, outputs in run.outputs.items()} for run in runs]
    assert tokens[0] == tokens[1]
    wasted = small.worker.computed - large.worker.computed
    assert wasted < small.scheduler.stats().preemptions * 3 * PAGE
