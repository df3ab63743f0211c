"""The HTTP front starts light: what it must not import, it does not."""

import subprocess
import sys

HEAVY = ("torch", "transformers", "numpy", "jinja2", "octavo.engine", "octavo.checkpoint", "octavo.models")


def test_the_front_imports_neither_engine_nor_arithmetic():
    code = f"import sys, octavo.server.app; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"
