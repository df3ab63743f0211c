"""The front and the engine process start light: what they must not import, they do not."""

import subprocess
import sys

import pytest

HEAVY = {
    "octavo.server.app": "torch transformers numpy jinja2 fastapi octavo.engine octavo.checkpoint octavo.models",
    "octavo.cli.serve": "torch numpy jinja2 pydantic starlette uvicorn tokenizers huggingface_hub tqdm octavo.models",
    "octavo.engine.process": "torch asyncio pydantic starlette uvicorn prometheus_client tokenizers jinja2 tqdm",
}


@pytest.mark.parametrize("module", HEAVY)
def test_what_is_not_needed_is_not_imported(module):
    code = f"import sys, {module}; print([name for name in {HEAVY[module].split()!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


def test_a_tokenizer_is_read_without_numpy(tmp_path):
    """So the server's process never needs it."""
    import tiny_llama

    for path in (
        tiny_llama.write_gguf(tmp_path / "x.gguf", tokenizer=True),
        tiny_llama.write_folder(tmp_path / "folder", tokenizer=True),
    ):
        code = (
            "import sys, pathlib; from octavo.checkpoint.source import open_source; "
            "from octavo.text.tokenizer import load_tokenizer; "
            "print(load_tokenizer(open_source(pathlib.Path(sys.argv[1]))).encode('a') != [], 'numpy' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True, text=True)
        assert done.stdout == "True False\n"
