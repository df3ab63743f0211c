"""The binding: the choice of the instruction set, refusals, and threads that come and go without harm."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from kernel_rows import identity_head, program, step

import octavo.kernels
from octavo.core.errors import ModelError
from octavo.core.layout import KvLayout
from octavo.kernels import native
from octavo.kernels.weight import Weight
from octavo.program.cpu import Cpu
from octavo.program.ops import Act, FfnIn, Head, Norm, Norming, Op, Program, Proj


def tiny() -> Program:
    return program(np.ones((9, 64), np.float32), (), identity_head(64), KvLayout(1, 1, 32), 1)


def ran(executor: Cpu) -> np.ndarray:
    """One step of 9 rows; the executor stays open."""
    batches, texts = step(9)
    executor.allocate(texts.pages)
    return executor.run(batches[0]).tokens


def apart(code: str, **environment: str) -> str:
    """What a process of its own prints; it has `made`, the program of `tiny`."""
    made = Path(__file__).parent.parent / "made"
    before = f"import sys\nsys.path.insert(0, {str(made)!r})\n" + textwrap.dedent("""
        import os, resource
        import numpy as np
        from kernel_rows import identity_head, program, step
        from octavo.core.layout import KvLayout
        from octavo.kernels import native
        from octavo.program.cpu import Cpu
        made = program(np.ones((9, 64), np.float32), (), identity_head(64), KvLayout(1, 1, 32), 1)
    """)
    done = subprocess.run(
        [sys.executable, "-c", before + textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_best_instruction_set_is_first_and_portable_last() -> None:
    order = ["avx512bf16", "avx512", "avx2", "portable"]
    assert native.isas()[-1] == "portable"
    assert set(native.isas()) <= set(order)
    flags = set(native.features())
    assert ("avx2" in native.isas()) <= ({"avx2", "fma", "f16c"} <= flags)
    assert ("avx512" in native.isas()) == ({"avx512f", "avx512bw", "avx512_vnni"} <= flags)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCTAVO_ISA", raising=False)
    assert native.isa() == native.isas()[0]
    monkeypatch.setenv("OCTAVO_ISA", "")
    assert native.isa() == native.isas()[0]
    for name in native.isas():
        monkeypatch.setenv("OCTAVO_ISA", name)
        assert native.isa() == name
        executor = Cpu(tiny(), 1)
        assert executor.isa == name
        assert ran(executor).tolist() == [0] * 9
        executor.close()
    monkeypatch.setenv("OCTAVO_ISA", "sse9")
    with pytest.raises(ValueError, match=r"OCTAVO_ISA: 'sse9' cannot run on this processor; one of .*portable can"):
        native.isa()


def test_unknown_instruction_sets_and_thread_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="isa: 'neon9' cannot run"):
        Cpu(tiny(), 1, isa="neon9")
    with pytest.raises(ValueError, match="threads: 0; at least 1"):
        Cpu(tiny(), 0)
    with pytest.raises(ValueError, match="threads: 0; at least 1"):
        native.measure(0)


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    native.library.cache_clear()
    monkeypatch.setattr(octavo.kernels, "__path__", [str(tmp_path)])
    with pytest.raises(ImportError, match=r"liboctavo_native.so is not beside octavo.kernels: install octavo with"):
        native.isas()
    monkeypatch.undo()
    assert native.isas()


def test_measured_rates_are_rates() -> None:
    out = apart("print(native.measure(1))", OCTAVO_ISA=native.isas()[0])
    rates = eval(out)
    assert tuple(rates) == native.RATES
    assert all(0 < rate < 1e6 for rate in rates.values())


def test_arrays_of_another_kind_are_refused() -> None:
    for vector in (np.ones(64), np.ones(128, np.float32)[::2]):
        head = Head(Norming("rms", vector, eps=0.0), Weight.float32(np.eye(64, dtype=np.float32)), None, Act(32))
        broken = program(np.ones((9, 64), np.float32), (), head, KvLayout(1, 1, 32), 1)
        with pytest.raises(TypeError, match=r"head, norm, weight: .*contiguous float32 is needed"):
            Cpu(broken, 1)
    executor = Cpu(tiny(), 1)
    batches, texts = step(9)
    executor.allocate(texts.pages)
    object.__setattr__(batches[0], "ids", batches[0].ids.astype(np.int64))
    with pytest.raises(TypeError, match="ids: contiguous int64; contiguous int32 is needed"):
        executor.run(batches[0])
    executor.close()


def test_a_closed_executor_refuses_work() -> None:
    executor = Cpu(tiny(), 2)
    ran(executor)
    executor.close()
    executor.close()
    with pytest.raises(AssertionError, match="closed"):
        executor.run(step(9)[0][0])


@pytest.mark.parametrize(
    ("wrote", "reads"), [(Act(32), Act(8, 32)), (Act(8, 64), Act(8, 32)), (Act(8, 32), Act(8, 64)), (Act(16), Act(32))]
)
def test_inputs_in_another_form_than_the_weights_read_are_refused(wrote: Act, reads: Act) -> None:
    ones, codes = Norming("rms", np.ones(64, np.float32)), np.zeros((64, 64), np.int8)
    weight = Weight.int8(codes, np.ones((64, 2), np.float16)) if reads.bits == 8 else Weight.float32(codes.astype("f4"))
    both = (reads, wrote)
    for ops in (
        (Norm(ones, wrote), FfnIn(weight, weight, None, None, "silu", reads, reads)),
        (Norm(ones, reads), FfnIn(weight, weight, None, None, "silu", *both), Proj(weight, None, reads, source=1)),
    ):
        broken = program(np.ones((9, 64), np.float32), ops, identity_head(64), KvLayout(1, 1, 32), 1)
        with pytest.raises(ModelError, match=r"reads its input as|cannot read inputs"):
            Cpu(broken, 1)


def test_orders_of_inputs_that_no_kernel_gives_are_refused() -> None:
    ones, eye = Norming("rms", np.ones(64, np.float32)), np.eye(64, dtype=np.float32)
    back, short, twice = (np.array(o, np.int32).tobytes() for o in (range(63, -1, -1), range(32), [0] * 64))

    def ffn(given: bytes, read: bytes, weights: bytes, out: bytes = b"") -> tuple[Op, ...]:
        weight, act = dataclasses.replace(Weight.float32(eye), order=weights), Act(32, order=out)
        up = FfnIn(None, weight, None, None, "relu", Act(32, order=read), act)
        return Norm(ones, Act(32, order=given)), up, Proj(dataclasses.replace(weight, order=out), None, act, source=1)

    def made(*orders: bytes) -> Program:
        return program(np.ones((9, 64), np.float32), ffn(*orders), identity_head(64), KvLayout(1, 1, 32), 1)

    Cpu(made(back, back, back), 1).close()
    for orders, words in (
        ((back, b"", b""), "reads its input as"),
        ((b"", back, back), "reads its input as"),
        ((back, back, b""), "inputs lie in another order"),
        ((short, short, short), "an order of 32 inputs where each of 64"),
        ((twice, twice, twice), "an order of 64 inputs where each of 64"),
        ((b"", b"", b"", back), "gives its outputs in order"),
    ):
        with pytest.raises(ModelError, match=words):
            Cpu(made(*orders), 1)


def test_more_threads_than_processors_and_idle_pools() -> None:
    """Two executors idle beside each other, used by turns, with up to 8 threads; closed while idle, or never used."""
    unused = Cpu(tiny(), 8)
    open_ones = [Cpu(tiny(), threads) for threads in (3, 4, 8)]
    want = ran(open_ones[0])
    for executor in open_ones * 3:
        assert np.array_equal(ran(executor), want)
    for executor in (unused, *open_ones):
        executor.close()


def test_the_callers_processors_are_given_back() -> None:
    before = os.sched_getaffinity(0)
    executor = Cpu(tiny(), min(2, len(before)))
    ran(executor)
    assert os.sched_getaffinity(0) == before
    executor.close()


def test_one_processor_and_two_threads() -> None:
    out = apart("""
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        executor = Cpu(made, 2)
        batches, texts = step(9)
        executor.allocate(texts.pages)
        tokens = [executor.run(batches[0]).tokens.tolist() for _ in range(20)][-1]
        executor.close()
        print(tokens, len(os.sched_getaffinity(0)))
    """)
    assert out == "[0, 0, 0, 0, 0, 0, 0, 0, 0] 1"


def test_threads_that_cannot_be_made_are_an_error_not_an_end() -> None:
    """Address space for some of the threads' stacks only: those that were made must go again."""
    out = apart("""
        Cpu(made, 2).close()
        before = len(os.listdir("/proc/self/task"))
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))
        try:
            Cpu(made, 200)
        except MemoryError as error:
            print(error, len(os.listdir("/proc/self/task")) - before)
    """)
    assert out.endswith("or no 200 threads 0")


def test_a_forked_process_ends() -> None:
    """It has the executor's memory but none of its threads: closing must not wait for them."""
    executor = Cpu(tiny(), 2)
    want = ran(executor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork beside threads
        child = os.fork()
    if child == 0:
        executor._plan.close()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert np.array_equal(ran(executor), want)
    executor.close()


def test_plain_code_is_not_measured_above_the_best_instructions():
    """Its dots were once worked out by the compiler, ahead of time."""
    best, *_, plain = native.isas()
    if best == plain:
        pytest.skip("this processor has one set of kernels")
    assert native.measure(1, plain)["int8_gop_s"] < native.measure(1, best)["int8_gop_s"]


def test_a_library_of_another_revision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "STRUCTS", (*native.STRUCTS[:-1], native.CBatch))
    with pytest.raises(ImportError, match="belongs to another revision of octavo: install it again"):
        native.library.__wrapped__()
