"""Whatever stands in the settings of any architecture, a model is declared or refused with one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.checkpoint.source import Source, open_source
from octavo.core.errors import ModelError
from octavo.models.load import footprint
from octavo.models.registry import read_spec
from octavo.models.spec import ModelSpec

FOLDERS = sorted(path for path in (Path(__file__).parents[1] / "data" / "zoo").iterdir() if path.is_dir())
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_junk_in_any_field_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    config = json.loads((folder / "config.json").read_text())
    names = st.sampled_from([name for name in config if name != "architectures"] + ["rope_scaling", "layer_types"])
    changes = data.draw(st.dictionaries(names, JUNK | st.integers(0, 9), min_size=1, max_size=3))
    message = ""
    with open_source(folder) as whole:
        try:
            source = Source(folder, "safetensors", {}, config | changes, whole.tensors)
            spec = read_spec(source)
            assert isinstance(spec, ModelSpec)
            footprint(source, spec)
        except ModelError as error:
            message = str(error)
    assert "\n" not in message
