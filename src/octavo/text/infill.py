"""Fill-in-the-middle: a prompt of what stands before a gap and behind it, after which the model writes what fits.

The marks are those that makers of code models train with: their tokenizers hold them. Sources: the models' cards, and
for the ends llama.cpp, whose end-of-generation tokens include those of padding, files and repositories. Knows no
request.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo.core.errors import UserError
from octavo.text.tokenizer import Tokenizer

FORMS = (  # of what stands before the gap, of what stands behind it, and what the model goes on from
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, StarCoder2, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
)
ENDS = ("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<fim_pad>", "<fim-pad>",
        "<file_sep>", "<repo_name>", "▁<EOT>", "<EOT>")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Infill:
    """One model's way. ends: what ends the text that fills a gap, beside the model's own end."""

    before: int
    behind: int
    middle: int
    ends: frozenset[int]

    @staticmethod
    def of(tokenizer: Tokenizer) -> Infill:
        """Raises UserError where the tokenizer has no such marks."""
        for form in FORMS:
            before, behind, middle = map(tokenizer.id_of, form)
            if before is not None and behind is not None and middle is not None:
                ends = {id for text in ENDS if (id := tokenizer.id_of(text)) is not None}
                return Infill(before, behind, middle, frozenset({*ends, before, behind, middle}))
        message = "suffix: this model's tokenizer has no tokens to fill in the middle of a text with; leave it out"
        raise UserError(message, "suffix", "no_infill")

    def prompt(self, tokenizer: Tokenizer, text: str | list[int], suffix: str, *, special: bool) -> list[int]:
        """Token ids of the whole prompt. special: begin with the mark that the model wants before a text."""
        begin = [tokenizer.bos_id] if special and tokenizer.encode("")[:1] == [tokenizer.bos_id] else []
        tokens = tokenizer.encode(text, special=False) if isinstance(text, str) else text
        rest = tokenizer.encode(suffix, special=False)
        return [*(id for id in begin if id is not None), self.before, *tokens, self.behind, *rest, self.middle]
