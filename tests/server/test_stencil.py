"""A stencil gives the bytes that encoding the whole would give, whatever the texts."""

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from octavo.protocol.chat import AnswerDelta, ChatChunk, ChatChunkChoice
from octavo.protocol.completions import Completion, CompletionChoice
from octavo.server.stencil import HOLE, Stencil

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT, TEXT, st.integers(0, 600), st.sampled_from([None, msgspec.UNSET]))
@example('a\0"b\\', '\0"text":"\0"', 0, None)
def test_a_filled_stencil_is_the_encoded_whole(text, model, index, usage):
    def completion(text):
        return msgspec.json.encode(Completion("cmpl-1", 7, model, "print", [CompletionChoice(index, text)], usage))

    def chat(text):
        choice = ChatChunkChoice(index, AnswerDelta(content=text))
        return msgspec.json.encode(ChatChunk("chatcmpl-1", 7, model, "print", [choice], usage))

    for whole in (completion, chat):
        assert Stencil(whole(HOLE)).fill(text) == whole(text)
