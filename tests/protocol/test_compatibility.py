"""The table of compatibility says what is so: of the requests' types, and of tests that exist."""

import compatibility
import pytest

from octavo.protocol.chat import NEUTRAL_CHAT, ChatRequest
from octavo.protocol.completions import NEUTRAL_COMPLETION, CompletionRequest
from octavo.protocol.pooling import ClassifyRequest, EmbeddingRequest, PoolingRequest, RerankRequest, ScoreRequest

ASKED = {"T": (CompletionRequest, NEUTRAL_COMPLETION), "C": (ChatRequest, NEUTRAL_CHAT)}
ASKED |= {"E": (EmbeddingRequest, {}), "P": (PoolingRequest, {}), "L": (ClassifyRequest, {}), "S": (ScoreRequest, {})}
ASKED |= {"R": (RerankRequest, {})}


def test_the_page_is_the_table():
    assert compatibility.PAGE.read_text() == compatibility.page()
    names = [row.name for row in compatibility.ROWS]
    assert len(set(names)) == len(names)


def test_every_field_has_a_row():
    for letter, (model, neutral) in ASKED.items():
        listed = {row.name for row in compatibility.ROWS if letter in row.where}
        assert {*model.model_fields, *neutral} - listed == set()


@pytest.mark.parametrize("row", compatibility.ROWS, ids=lambda row: row.name)
def test_a_row_is_true_of_the_requests_and_names_a_test(row):
    for letter in row.where if row.where != "Python" else ():
        model, neutral = ASKED[letter]
        refused = row.octavo.startswith("refused")
        assert (row.name in model.model_fields, row.name in neutral) == (not refused, refused)
    path, name = row.test.split("::")
    assert f"def {name}(" in (compatibility.ROOT / "tests" / path).read_text()
