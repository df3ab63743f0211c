"""What the next step computes, and what came of it.

The whole idea: there is no prefill and no decode. A sequence has tokens and `computed`. Each step hands out tokens so
that computed catches up: one to each sequence that needs one, and what the step has left to the longer ones, running or
admissible, as share.py says, while slots and pages last. A sequence takes the pages its granted tokens need, no others.
A running one that cannot grow preempts the last in order, itself included: pages and slot are given back, computed is
0, and it waits again at its old place. Its pages stay findable, so that computing them again is cheap.

A sequence is admitted when there is room to compute all it has and to grow (admission.py). Nobody is preempted in a
step that starts somebody; the first in order is never preempted by others, so it always finishes.

Where layers see a window only, the pages behind it are given back as tokens are computed, and who comes later finds a
prefix only as far as its windows are there (cache/tables.py).

A full page is shared. A begun one is not, since its holder writes to it: it is named when a prompt is done and when its
holder ends or is preempted. Who begins with its tokens goes on in it where nobody holds it and nothing stands behind
them, or else in a copy. Copies are made before anything of a step is written and all are read first, so it does not
matter who is given the page that they come from.

Priorities order the queue and choose victims; a waiting request never preempts a running one.

Invariants: every accepted request ends with exactly one final output; the blocks held are those of running sequences; a
plan is followed by its commit before the next plan. An abort may come between the two: pages it gives back are taken
again by the next plan at the earliest, when the step that may still write to them is over. Knows no tensors, no model,
no text. It reads no clock: who does tells it what steps take, and its cost model what they will.
"""

from __future__ import annotations

from bisect import insort
from itertools import islice

from octavo.cache.pool import BlockPool
from octavo.cache.tables import BlockTables
from octavo.core.config import SchedulerConfig
from octavo.core.errors import InvalidValue, QueueFull
from octavo.core.groups import GONE, CacheGroups
from octavo.core.layout import PAGE, pages_for
from octavo.core.plan import Output, Plan, RunResult, Start, StepResult, StepStats
from octavo.core.request import Request
from octavo.sched.admission import admissible
from octavo.sched.cost import StepCost, Work
from octavo.sched.queue import WaitingQueue, place
from octavo.sched.sequence import Sequence, State
from octavo.sched.share import Prompt, Room, share
from octavo.sched.step import Step, Tally


class Scheduler:
    """Owner of all sequences and of the pool. Not thread-safe: one caller, add and abort between its steps.

    cost None: what steps take is not known, and itl_target_ms binds nobody. windows: see KvLayout. whole: the tokens of
    a sequence see each other, so that they are computed in one step.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        pool: BlockPool,
        cost: StepCost | None = None,
        windows: tuple[int, ...] = (0,),
        *,
        whole: bool = False,
    ) -> None:
        assert not whole or config.max_step_tokens >= config.max_len
        self.config = config
        self.whole = whole
        self.pool = pool
        self.groups = CacheGroups(windows, config.max_step_tokens)
        self._tables = BlockTables(pool, self.groups)
        self.cost = cost
        self._sequences: dict[str, Sequence] = {}  # by id, all that are not finished
        self._waiting = WaitingQueue()
        self._running: list[Sequence] = []  # in order; victims are taken from the end
        self._slots = list(range(config.max_seqs - 1, -1, -1))  # free ones
        self._frees: list[int] = []  # slots the worker has not been told to free
        self._plan: Plan | None = None  # given out and not committed
        self._planned: list[Sequence] = []  # its sequences, in the order of its runs
        self._work = Work()  # of the last plan
        self._predicted = 0.0  # seconds of it
        self._passed_over = False  # the last plan left somebody waiting
        self._arrivals = 0
        self._tally = Tally()

    @property
    def has_work(self) -> bool:
        """Whether `plan` would give one."""
        return bool(self._sequences)

    @property
    def longest(self) -> int:
        """Longest sequence that can be computed, prompt and output together."""
        return self.groups.longest(self.pool.pages, self.config.max_len)

    def add(self, request: Request) -> None:
        """Accept a request: from here on it ends with exactly one final output.

        Raises InvalidValue for an id in use, an empty prompt, or one that leaves no room for an answer (of min_tokens),
        and QueueFull when max_queued requests wait. Requests that the next plan can give a free slot do not count.
        An answer of more tokens than fit is not refused: it ends there, with "length".
        """
        self._check_room(request)
        room = 0 if self._passed_over and self._waiting else len(self._slots)
        if len(self._waiting) >= self.config.max_queued + room:
            raise QueueFull(f"{len(self._waiting)} requests wait already; at most {self.config.max_queued} may wait")
        sampling = request.sampling
        limit = self.longest
        if sampling.max_tokens is not None:
            limit = min(limit, len(request.prompt) + sampling.max_tokens)
        if request.pooling is not None:
            limit = len(request.prompt) + 1
        ends = frozenset(sampling.stop_token_ids or ()) | frozenset(() if sampling.ignore_eos else request.eos_ids)
        order = place(self.config, request, self._arrivals)
        tokens = list(request.prompt)
        sequence = Sequence(request=request, order=order, limit=limit, tokens=tokens, ends=ends, mu=request.mu)
        self._sequences[request.id] = sequence
        self._waiting.push(sequence)
        self._arrivals += 1

    def abort(self, request_id: str) -> Output | None:
        """End a request in any state; its pages and slot are free at once. None: no such request, or it has ended."""
        sequence = self._sequences.get(request_id)
        return None if sequence is None else self._finish(sequence, Output(id=request_id), "abort")

    def plan(self) -> Plan | None:
        """The next step, or None when there is no work; every plan must be committed before the next.

        Slots that ended since the last plan are freed by this one. They wait for the next where there is no work.
        """
        assert self._plan is None, "the last plan was not committed"
        step = Step()
        starting = self._grant()
        for prompt in starting:
            self._hold(prompt)
        preemptions = self._tally.preemptions
        self._continue(step)
        assert not starting or preemptions == self._tally.preemptions, "admitted without room"
        for prompt in starting:
            self._start(prompt, step)
        self._passed_over = not all(map(self._awaits, self._waiting))
        if not step.runs:
            assert not self.has_work, "there is work and nobody can go on"
            return None
        self._plan = step.plan(self._tally.steps, self._frees)
        self._planned = step.sequences
        self._work = step.work
        self._predicted = 0.0 if self.cost is None else self.cost.seconds(step.work)
        self._frees.clear()
        return self._plan

    def commit(self, plan: Plan, result: StepResult) -> list[Output]:
        """Take in what the step gave. Returns an output for each sequence with new tokens or an end."""
        assert plan is self._plan, "not the plan under way"
        assert len(result.runs) == len(plan.runs)
        sequences, self._plan, self._planned = self._planned, None, []
        self._tally.steps += 1
        outputs = []
        for sequence, run, news in zip(sequences, plan.runs, result.runs, strict=True):
            if sequence.state is not State.RUNNING:
                continue  # aborted while the step ran
            sequence.granted = 0
            if news.failed is not None:
                self._tables.forget(sequence.blocks, sequence.chain(sequence.sealed))
                reason = "grammar" if news.stopped else None
                failed = Output(id=sequence.request.id, error=news.failed, stop_reason=reason)
                outputs.append(self._finish(sequence, failed, "error"))
                continue
            sequence.computed += run.count
            if sequence.computed // PAGE > sequence.sealed:
                self._seal(sequence)
            if self.groups.windowed:
                self._tables.give_back(sequence.blocks, run.first, sequence.computed)
            if run.sample and not sequence.generated:
                self._seal_begun(sequence)
            sequence.prompt_logprobs += news.prompt_logprobs
            if run.sample and sequence.request.pooling is not None:
                self._tally.prompt_tokens += len(sequence.request.prompt)
                outputs.append(self._finish(sequence, Output(id=sequence.request.id, vector=news.vector), "stop"))
            elif run.sample:
                outputs.append(self._accept(sequence, news))
        return outputs

    def learn(self, seconds: float) -> None:
        """What the last plan took, by its caller's clock."""
        if self.cost is not None:
            self.cost.observe(self._work, seconds)

    def stats(self) -> StepStats:
        """State and totals; `step_seconds` is left to who holds the clock."""
        tally, pool, groups = self._tally, self.pool, self.groups.count
        # Pages held twice are full, as are those given back, and full pages have no slack: summing over the sequences
        # counts each place once.
        slack = sum(len(sequence.blocks) * PAGE - sequence.computed * groups for sequence in self._running)
        return StepStats(
            steps=tally.steps,
            predicted_seconds=self._predicted,
            step_tokens=self._work.rows,
            running=len(self._running),
            waiting=len(self._waiting),
            pages_total=pool.pages,
            pages_free=pool.free,
            pages_cached=pool.cached,
            pages_held=pool.held,
            slack_tokens=slack,
            prompt_tokens=tally.prompt_tokens,
            generated_tokens=tally.generated_tokens,
            prefix_queries=tally.prefix_queries,
            prefix_hits=tally.prefix_hits,
            preemptions=tally.preemptions,
            finished=dict(tally.finished),
        )

    def check(self) -> None:
        """Assert every invariant; O(pages + sequences). For tests, and for an idle engine in debug."""
        self.pool.check()
        references: dict[int, int] = {}
        for sequence in self._sequences.values():
            sequence.check(self.groups.count)
            for block in sequence.blocks:
                if block == GONE:
                    continue
                references[block] = references.get(block, 0) + 1
        assert references == self.pool.references(), "blocks are held by nobody, or used and not held"
        running = [sequence for sequence in self._sequences.values() if sequence.state is State.RUNNING]
        assert sorted(running, key=lambda sequence: sequence.order) == self._running
        assert len(running) + len(self._waiting) == len(self._sequences)
        slots = [sequence.slot for sequence in running] + self._slots
        assert sorted(slots) == list(range(self.config.max_seqs)), "a slot used twice or lost"
        assert len(set(self._frees)) == len(self._frees), "a slot to be freed twice"
        assert set(self._frees) <= set(self._slots), "a slot in use is to be freed"

    def _check_room(self, request: Request) -> None:
        """Refuse what can never be served."""
        if request.id in self._sequences:
            raise InvalidValue("id", request.id, "an id that no request in flight has")
        room = self.longest - len(request.prompt) + (request.pooling is not None)
        least = request.sampling.min_tokens
        if not request.prompt:
            raise InvalidValue("prompt", request.prompt, "at least one token")
        held = self.groups.longest(self.pool.pages, max(self.config.max_len, self.pool.pages * PAGE))
        places = f"max_len is {self.config.max_len}, the pages hold {held}"
        if room < 1:
            accepted = f"at most {self.longest - 1} tokens, so that one can be generated ({places})"
            if request.pooling is not None:
                accepted = f"at most {self.longest} tokens ({places})"
            raise InvalidValue("prompt", f"{len(request.prompt)} tokens", accepted)
        if least > room:
            raise InvalidValue("min_tokens", least, f"at most {room} fit behind {len(request.prompt)} ({places})")

    def _grant(self) -> list[Prompt]:
        """Share the step among the running and the admissible. Returns those of the latter that were granted tokens.

        There are at least as many tokens as slots, so that the first in order always gets one.
        """
        prompts, decodes, keys = [], 0, 0
        for sequence in self._running:
            if sequence.pending > 1:
                sequence.granted = 0
                prompts.append(Prompt(sequence, sequence.computed, sequence.pending))
            else:
                sequence.granted = 1
                decodes += 1
                keys += len(sequence.tokens)
        ready = (sequence for sequence in self._waiting if not self._awaits(sequence))
        prompts += admissible(islice(ready, len(self._slots)), self._running, self._tables)
        cost = self.cost if decodes and self.config.itl_target_ms else None
        work = Work(rows=decodes, heads=decodes, lone_keys=keys)
        tokens, target = self.config.max_step_tokens - decodes, self.config.itl_target_ms / 1000
        room = Room(tokens, work, cost, target, whole=self.whole)
        share(prompts, room)
        for prompt in prompts:
            prompt.sequence.granted = prompt.granted
        return [prompt for prompt in prompts if prompt.granted and prompt.sequence.state is State.WAITING]

    def _awaits(self, sequence: Sequence) -> bool:
        """Whether its prompt will soon be there to be shared: another is at it. Who stands behind it may pass."""
        other = self._sequences.get(sequence.request.after)
        return other is not None and not other.generated and self.pool.prefix_cache and not sequence.whole

    def _continue(self, step: Step) -> None:
        """Plan the running in order, the last of them making room where pages run out.

        Victims come from the end and are not planned yet, so nothing planned is ever taken back.
        """
        running, groups = self._running, self.groups.count
        index = 0
        while index < len(running):
            sequence = running[index]
            index += 1
            missing = pages_for(sequence.computed + sequence.granted) * groups - len(sequence.blocks)
            fresh: list[int] | None = []
            while missing > 0 and (fresh := self.pool.take(missing)) is None:
                victim = running.pop()
                self._preempt(victim)
                if victim is sequence:
                    break
            if fresh is not None and sequence.granted:
                sequence.blocks += fresh
                step.run(sequence, fresh)

    def _preempt(self, victim: Sequence) -> None:
        """Back to the queue, to be computed again."""
        victim.preemptions += 1
        self._tally.preemptions += 1
        self._seal_begun(victim)
        self._vacate(victim)
        victim.state = State.WAITING
        self._waiting.push(victim)

    def _hold(self, prompt: Prompt) -> None:
        """Take hold of what is known of a sequence that starts in this step, before others evict it."""
        sequence, tokens = prompt.sequence, prompt.first % PAGE
        self._tables.hold(prompt.table)
        sequence.blocks, sequence.computed, sequence.sealed = prompt.table, prompt.first, prompt.first // PAGE
        self._tables.give_back(sequence.blocks, prompt.first - tokens, prompt.first)
        if self._tables.go_on(prompt.begun, tokens):
            sequence.blocks += prompt.begun
            prompt.begun = []

    def _start(self, prompt: Prompt, step: Step) -> None:
        """Give a waiting sequence a slot and the pages of its first tokens; into one of them goes what was begun."""
        sequence = prompt.sequence
        self._waiting.remove(sequence)
        places = pages_for(sequence.computed + sequence.granted) * self.groups.count
        fresh = self.pool.take(places - len(sequence.blocks))
        assert fresh is not None, "admitted without room"
        step.copies += zip(prompt.begun, fresh, strict=False)
        sequence.blocks += fresh
        sequence.slot = self._slots.pop()
        sequence.state = State.RUNNING
        insort(self._running, sequence, key=lambda other: other.order)
        if sequence.cached < 0:
            sequence.cached = sequence.computed
            if self.pool.prefix_cache and not sequence.whole:
                self._tally.prefix_queries += len(sequence.tokens)
                self._tally.prefix_hits += sequence.cached
        step.starts.append(Start(sequence.slot, sequence.request, tuple(sequence.tokens), sequence.mu))
        step.run(sequence, sequence.blocks)

    def _seal(self, sequence: Sequence) -> None:
        """Offer the pages that have become full to the prefix index."""
        full = sequence.computed // PAGE
        if self.pool.prefix_cache:
            self._tables.seal(sequence.blocks, sequence.chain(full), sequence.sealed)
        sequence.sealed = full

    def _seal_begun(self, sequence: Sequence) -> None:
        """Offer what it has computed of its begun page to the prefix index."""
        page, rows = divmod(sequence.computed, PAGE)
        if rows and self.pool.prefix_cache:
            self._tables.seal_begun(sequence.blocks, page, sequence.names(page, sequence.computed)[-1], rows)

    def _accept(self, sequence: Sequence, news: RunResult) -> Output:
        """Append the drawn tokens, up to the one that ends the sequence."""
        assert news.tokens, f"nothing was drawn for {sequence.request.id}"
        first = not sequence.generated
        sequence.mu = news.mu
        kept, finish = 0, None
        while finish is None and kept < len(news.tokens):
            finish = sequence.append(news.tokens[kept])
            kept += 1
        whole = news.stopped and finish != "stop" and kept == len(news.tokens)
        finish = "stop" if whole else finish
        self._tally.generated_tokens += kept
        tokens, logprobs = list(news.tokens[:kept]), list(news.logprobs[:kept])
        output = Output(id=sequence.request.id, tokens=tokens, logprobs=logprobs, mu=news.mu)
        if first:
            self._tally.prompt_tokens += len(sequence.request.prompt)
            output.cached = sequence.cached
            output.prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, []
        if finish is None:
            return output
        output.whole = whole
        output.stop_reason = None if whole else sequence.stop_reason(finish)
        return self._finish(sequence, output, finish)

    def _finish(self, sequence: Sequence, output: Output, finish: str) -> Output:
        """The one end of a sequence: everything it holds is given back, and its last output says why."""
        if not sequence.generated:
            output.cached = max(sequence.cached, 0)
        output.finish = finish
        if sequence.state is State.RUNNING:
            self._running.remove(sequence)
            if finish != "error":
                self._seal_begun(sequence)
            self._vacate(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.state = State.FINISHED
        del self._sequences[sequence.request.id]
        self._tally.finished[finish] = self._tally.finished.get(finish, 0) + 1
        return output

    def _vacate(self, sequence: Sequence) -> None:
        """Give back pages and slot."""
        self._tables.release(sequence.blocks)
        self._slots.append(sequence.slot)
        self._frees.append(sequence.slot)
        sequence.rewind()
