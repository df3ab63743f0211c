"""From a plan and the slots to one step's flat arrays. Vectorized: what most steps are, decoding only, is a few dozen
array operations whatever the number of sequences.

Invariant: `HeadRows.rows` ascend; run by run, first the rows that report on prompt tokens, then the row that is drawn
from. Reads the slots, never writes them. Does not know what an executor does with a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from octavo.core.plan import Plan
from octavo.program.batch import NO_EXTRAS, NO_STEPS, NO_VALUES, Batch, Floats, HeadRows, Ints
from octavo.worker.slots import Slots

Counts = npt.NDArray[np.int64]
NO_IDS: Ints = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """A batch, and which head rows belong to which run.

    Head rows of run r are head_starts[r]:head_starts[r + 1]; the last of them is drawn from where the run samples,
    the others report on prompt tokens. drawn_rows are the drawn rows, drawn_slots their slots. All in run order.
    """

    batch: Batch
    head_starts: list[int]
    drawn_rows: Counts
    drawn_slots: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The tokens of a plan's runs: of each run its slot, first position and count, of each token its place.  # [R], [T]

    The rows of run r are starts[r]:starts[r + 1].
    """

    slot: Ints
    first: Ints
    count: Ints
    starts: Ints
    token_slot: Ints
    positions: Ints

    def batch(self, slots: Slots, head: HeadRows) -> Batch:
        """The step over these tokens."""
        second = slots.second[self.token_slot]
        return Batch(
            ids=slots.tokens[self.token_slot, self.positions],
            positions=self.positions,
            starts=self.starts,
            kv_lens=self.first + self.count,
            slots=self.slot,
            tables=slots.tables,
            head=head,
            types=(self.positions >= second).astype(np.int32) if slots.any_second else None,
        )


def tokens_of(plan: Plan, slots: Slots) -> Tokens:
    """The tokens of a plan whose frees, starts and pages are already applied to the slots."""
    runs = plan.runs
    slot = np.array([run.slot for run in runs], np.int32)  # [R]
    first = np.array([run.first for run in runs], np.int32)
    count = np.array([run.count for run in runs], np.int32)
    starts = np.zeros(len(runs) + 1, np.int32)
    np.cumsum(count, out=starts[1:])
    total = int(starts[-1])
    if total == len(runs):
        return Tokens(slot, first, count, starts, slot, first)
    positions = np.arange(total, dtype=np.int32) + np.repeat(first - starts[:-1], count)
    return Tokens(slot, first, count, starts, np.repeat(slot, count), positions)


def gather(plan: Plan, slots: Slots) -> Gathered:
    """The step's batch. The plan's frees, starts and pages are already applied to the slots."""
    runs = plan.runs
    tokens = tokens_of(plan, slots)
    slot, first, starts = tokens.slot, tokens.first, tokens.starts
    sample = np.array([run.sample for run in runs], np.bool_)
    reports = _reports(slots, slot, first)
    if reports is not None:
        rows, run_of, target = _rows_with_reports(slots, slot, first, tokens.count, starts, sample, reports)
    else:
        run_of = np.flatnonzero(sample)
        rows = starts[1:][run_of] - 1
        target = np.full(len(rows), -1, np.int32)
    head = _head(slots, rows, target, slot[run_of], tokens.positions[rows] + 1)
    drawn = np.flatnonzero(target < 0)
    bounds = np.searchsorted(run_of, np.arange(len(runs) + 1)).tolist()
    return Gathered(tokens.batch(slots, head), bounds, drawn, slot[run_of[drawn]])


def gather_rows(plan: Plan, slots: Slots, spans: list[tuple[int, int]]) -> Batch:
    """The step's batch, asking for the rows first:end of each run, from which nothing is drawn."""
    tokens = tokens_of(plan, slots)
    rows = np.concatenate([np.arange(*span, dtype=np.int32) for span in spans])
    counts = np.array([end - first for first, end in spans], np.int32)
    rows += np.repeat(tokens.starts[:-1], counts)
    target = np.full(len(rows), -1, np.int32)
    return tokens.batch(slots, _head(slots, rows, target, tokens.token_slot[rows], tokens.positions[rows] + 1))


def _reports(slots: Slots, slot: Ints, first: Ints) -> npt.NDArray[np.bool_] | None:
    """Which runs report on prompt tokens, None where none does. [R]"""
    prompt_top = slots.prompt_top[slot]
    if prompt_top.max() < 0:
        return None
    reports = (prompt_top >= 0) & (first + 1 < slots.prompt_lens[slot])
    return reports if reports.any() else None


def _rows_with_reports(
    slots: Slots,
    slot: Ints,
    first: Ints,
    count: Ints,
    starts: Ints,
    sample: npt.NDArray[np.bool_],
    reports: npt.NDArray[np.bool_],
) -> tuple[Ints, Counts, Ints]:
    """Head rows, the run each belongs to, and its target, when some runs report on prompt tokens.

    The row of position p reports on prompt token p + 1.
    """
    rows: list[Ints] = []
    run_of: list[int] = []
    lengths: list[int] = []
    targets: list[Ints] = []
    for run in np.flatnonzero(reports | sample).tolist():
        begin, end = int(first[run]), int(first[run] + count[run])
        if reports[run]:
            last = min(end, int(slots.prompt_lens[slot[run]]) - 1)
            rows.append(np.arange(last - begin, dtype=np.int32) + starts[run])
            targets.append(slots.tokens[slot[run], begin + 1 : last + 1])
            run_of.append(run)
            lengths.append(last - begin)
        if sample[run]:
            rows.append(starts[run + 1 : run + 2] - 1)
            targets.append(np.full(1, -1, np.int32))
            run_of.append(run)
            lengths.append(1)
    return np.concatenate(rows), np.repeat(run_of, lengths), np.concatenate(targets)


def _head(slots: Slots, rows: Ints, target: Ints, slot: Ints, position: Ints) -> HeadRows:
    """How to draw from each row. slot  # [H]; position  # [H] of the token drawn or reported on"""
    drawing = slots.drawing(slot)
    drawn = target < 0
    zeros = np.zeros(len(rows) + 1, np.int64)
    history_starts, history = zeros, NO_IDS
    bias_starts, bias_ids, bias_values = zeros, NO_IDS, NO_VALUES
    dry_starts, dry_ids, dry_values = NO_STEPS, NO_IDS, NO_VALUES
    named_starts, named = NO_STEPS, NO_IDS
    prompt_lens = drawing.prompt_lens
    if drawing.any_penalized and (penalized := slots.penalized[slot] & drawn).any():
        history_starts, history = _history(slots, slot, position, penalized)
        left_out = np.where(penalized, np.maximum(position - slots.repeat_last[slot], 0), 0)
        prompt_lens = np.maximum(prompt_lens - left_out, 0)
    if drawing.any_biased:
        biased = (slots.biased[slot] | slots.worded[slot] | (position < slots.masked_until[slot])) & drawn
        if biased.any():
            bias_starts, bias_ids, bias_values = _bias(slots, slot, position, biased)
    if drawing.any_dry and (dried := slots.dried[slot] & drawn).any():
        dry_starts, dry_ids, dry_values = _dry(slots, slot, position, dried)
    if drawing.any_named and (naming := slots.naming[slot] & drawn).any():
        named_starts, named = _named(slots, slot, naming)
    return HeadRows(
        rows=rows,
        target=target,
        top=np.where(drawn, drawing.top, drawing.prompt_top) if drawing.any_reports else drawing.top,
        temperature=drawing.temperature,
        top_k=drawing.top_k,
        top_p=drawing.top_p,
        min_p=drawing.min_p,
        presence=drawing.presence,
        frequency=drawing.frequency,
        repetition=drawing.repetition,
        seed=drawing.seed,
        position=position.astype(np.int64),
        history_starts=history_starts,
        history=history,
        prompt_lens=prompt_lens,
        bias_starts=bias_starts,
        bias_ids=bias_ids,
        bias_values=bias_values,
        steps=slots.steps[slot] if drawing.any_stepped else NO_STEPS,
        extras=slots.extras[slot] if drawing.any_stepped else NO_EXTRAS,
        dry_starts=dry_starts,
        dry_ids=dry_ids,
        dry_values=dry_values,
        named_starts=named_starts,
        named=named,
    )


def _history(slots: Slots, slot: Ints, position: Ints, wanted: npt.NDArray[np.bool_]) -> tuple[Counts, Ints]:
    """The tokens before the drawn one that count, for the rows some penalty applies to."""
    starts = np.zeros(len(slot) + 1, np.int64)
    first = np.maximum(position - slots.repeat_last[slot], 0)
    np.cumsum(np.where(wanted, position - first, 0), out=starts[1:])
    parts = [slots.tokens[slot[row], first[row] : position[row]] for row in np.flatnonzero(wanted).tolist()]
    return starts, np.concatenate(parts)


def _bias(slots: Slots, slot: Ints, position: Ints, wanted: npt.NDArray[np.bool_]) -> tuple[Counts, Ints, Floats]:
    """The biases of the rows that have any, with -inf on what their requests forbid at this place."""
    counts = np.zeros(len(slot) + 1, np.int64)
    ids: list[Ints] = []
    values: list[Floats] = []
    for row in np.flatnonzero(wanted).tolist():
        bias = slots.bias_at(int(slot[row]), int(position[row]))
        counts[row + 1] = len(bias.ids)
        ids.append(bias.ids)
        values.append(bias.values)
    return np.cumsum(counts), np.concatenate(ids), np.concatenate(values)


def _dry(slots: Slots, slot: Ints, position: Ints, wanted: npt.NDArray[np.bool_]) -> tuple[Counts, Ints, Floats]:
    """What DRY adds to the rows it applies to."""
    counts = np.zeros(len(slot) + 1, np.int64)
    ids: list[Ints] = []
    values: list[Floats] = []
    for row in np.flatnonzero(wanted).tolist():
        rules = slots.dry[int(slot[row])]
        assert rules is not None
        tokens, penalties = rules.penalties(slots.tokens[slot[row], : position[row]])
        counts[row + 1] = len(tokens)
        ids.append(tokens)
        values.append(penalties)
    return np.cumsum(counts), np.concatenate(ids), np.concatenate(values)


def _named(slots: Slots, slot: Ints, wanted: npt.NDArray[np.bool_]) -> tuple[Counts, Ints]:
    """The tokens that the rows report on which name them."""
    counts = np.zeros(len(slot) + 1, np.int64)
    ids: list[Ints] = []
    for row in np.flatnonzero(wanted).tolist():
        named = slots.named[int(slot[row])]
        assert named is not None
        counts[row + 1] = len(named)
        ids.append(named)
    return np.cumsum(counts), np.concatenate(ids)
