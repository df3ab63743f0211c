"""Answers of a model in this process: the text continues the prompt's, and the memory is that of who asks."""

from __future__ import annotations

import io

import text_vocab
import tiny_llama

from octavo.cli import flags, resolve, session
from octavo.cli.progress import Progress
from octavo.core.config import CacheConfig
from octavo.core.request import SamplingParams
from octavo.engine.config import LaunchConfig


def test_a_continuation_keeps_its_leading_space(tmp_path, monkeypatch):
    """SentencePiece drops the first space of a text, and a continuation is not the first."""
    spm = text_vocab.spm()
    monkeypatch.setattr(session, "load_tokenizer", lambda source: spm)
    folder = tiny_llama.write_folder(tmp_path / "model", vocab=spm.vocab_size)
    launch = LaunchConfig(model=str(folder), cache=CacheConfig(memory_bytes=2**28))
    made = session.Session(launch, Progress(io.StringIO()))
    try:
        ids = spm.encode("the cat")
        word = next(token for token in range(spm.vocab_size) if spm.token_bytes(token) == b" in ")
        sampling = SamplingParams(temperature=0, max_tokens=2, logit_bias={word: 100}, ignore_eos=True)
        answers = made.answer(ids, sampling)
        assert "".join(delta.text for _, delta in answers) == answers.totals[0].text == " in  in "
    finally:
        made.close()


def test_one_person_takes_the_memory_of_one_conversation(tmp_path):
    """`chat` and `generate` hold as many sequences as they answer at once; `serve` what its flag says."""
    folder = tiny_llama.write_folder(tmp_path / "model")
    reference = ["--executor", "reference"]
    for words, sequences, expected in (
        (["chat", str(folder)], 1, 1),
        (["generate", "a", "--n", "3"], 3, 3),
        (["serve", str(folder)], None, 64),
        (["plan", str(folder), "--max-num-seqs", "5"], None, 5),
    ):
        args = flags.parser("0").parse_args([*words, *reference])
        assert resolve.launch(args, folder, sequences=sequences).scheduler.max_seqs == expected
