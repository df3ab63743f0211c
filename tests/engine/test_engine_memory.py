"""What an engine says of the memory its process holds: looked at anew, and not at every step."""

from __future__ import annotations

import tiny_engine
import tiny_llama

from octavo.engine import engine as loop


def test_the_memory_is_looked_at_again_and_not_at_every_step(tmp_path, monkeypatch):
    looks = iter(range(100, 200))
    clock = [50.0]
    monkeypatch.setattr(loop, "resident_bytes", lambda: next(looks))
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    engine = tiny_engine.engine_of(tiny_engine.program_of(tiny_llama.write_folder(tmp_path / "model")), "reference")
    try:
        seen = []
        for _ in range(8):
            seen.append(engine.stats().resident_bytes)
            clock[0] += loop.LOOK_SECONDS / 2
        assert seen == [100, 100, 101, 101, 102, 102, 103, 103]
    finally:
        engine.close()
