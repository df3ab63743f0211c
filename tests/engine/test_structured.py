"""Answers that follow a grammar: valid whatever the temperature, the company and the preemptions, jumping or not."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
import tiny_llama
from tiny_engine import engine_of, gathered, program_of

from octavo.checkpoint.source import open_source
from octavo.core.errors import UserError
from octavo.core.request import Request, SamplingParams
from octavo.core.structured import StructuredOutputsParams
from octavo.kernels.weight import Weight
from octavo.models.load import load
from octavo.models.lower import lower
from octavo.models.registry import read_spec
from octavo.text.grammar import grammar_of
from octavo.text.tokenizer import load_tokenizer
from octavo.worker.grammars import KEPT, MAX_GRAMMAR, Grammars

ZOO = Path(__file__).parents[1] / "data" / "zoo"

# all of them finite, so that a model of random weights comes to an end
SCHEMAS = {
    "object": {
        "type": "object",
        "properties": {"first_name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0,
                                                                                "maximum": 120}},
        "required": ["first_name", "age"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", "green", 7, None, True]},
    "const": {"const": {"a": [1, 2, {"b": "c"}]}},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [{"type": "null"}, {"enum": [1, 2]}], "items": False, "minItems": 2},
    "anyOf": {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": -5, "maximum": 5}]},
    "ref": {"$defs": {"leaf": {"enum": ["x", "y"]}}, "type": "object", "properties": {"leaf": {"$ref": "#/$defs/leaf"}},
            "required": ["leaf"], "additionalProperties": False},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,4}-[0-9]{3}$"},
    "multiple": {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 25},
    "format": {"type": "string", "format": "date"},
    "nested": {"type": "object", "properties": {"p": {"type": "object", "properties": {"q": {"enum": [1]}},
               "required": ["q"], "additionalProperties": False}}, "required": ["p"], "additionalProperties": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tiny_llama.write_folder(tmp_path_factory.mktemp("model"), tokenizer=True)
    return program_of(path), load_tokenizer(open_source(path))


def grammars_of(model) -> Grammars:
    program, tokenizer = model
    return Grammars(lambda: tokenizer, program.vocab, tuple(tokenizer.eos_ids))


def asked(model, name: str, grammar: str, **sampling) -> Request:
    sampling = {"max_tokens": 150, "temperature": 1.0} | sampling
    _, tokenizer = model
    return Request(
        id=name,
        prompt=tokenizer.encode("Say " + name),
        sampling=SamplingParams(**sampling),
        eos_ids=list(tokenizer.eos_ids),
        seed=len(name),
        grammar=grammar,
        grammar_field="here",
    )


def schema_requests(model, **sampling) -> list[Request]:
    return [
        asked(model, name, grammar_of(StructuredOutputsParams(json=schema, disable_any_whitespace=True)), **sampling)
        for name, schema in SCHEMAS.items()
    ]


def text_of(model, tokens: list[int]) -> str:
    return model[1].decode(tokens)


def run(model, requests: list[Request], *, executor: str = "cpu", **settings):
    engine = engine_of(model[0], executor, grammars=grammars_of(model), **settings)
    try:
        return gathered(engine, requests), engine.stats()
    finally:
        engine.close()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_every_answer_is_valid_and_jumping_changes_nothing(model, temperature):
    requests = schema_requests(model, temperature=temperature)
    jumped, fast = run(model, requests)
    drawn, slow = run(model, requests, jump=False)
    for name, output in jumped.items():
        assert output.finish == "stop", (name, text_of(model, output.tokens), output.error)
        assert output.stop_reason is None
        jsonschema.validate(json.loads(text_of(model, output.tokens)), SCHEMAS[name])
        assert (output.tokens, output.finish) == (drawn[name].tokens, drawn[name].finish), name
    assert fast.steps < slow.steps


def test_convolutions_see_what_was_jumped_over(model):
    """Of LFM2, its table of embeddings made as long as the tokenizer asks."""
    source = open_source(ZOO / "lfm2")
    spec = dataclasses.replace(read_spec(source), vocab=model[0].vocab)
    table = np.random.default_rng(0).normal(0, 0.2, (spec.vocab, spec.width)).astype(np.float32)
    weights = load(source, read_spec(source)) | {"embed": Weight.float32(table)}
    hybrid = lower(spec, weights, kv_dtype="bfloat16", max_len=256), model[1]
    requests = schema_requests(hybrid, temperature=1.0)
    jumped, fast = run(hybrid, requests)
    drawn, slow = run(hybrid, requests, jump=False)
    assert {name: output.tokens for name, output in jumped.items()} == {
        name: output.tokens for name, output in drawn.items()
    }
    assert fast.steps < slow.steps


def test_preemption_and_company_change_nothing(model):
    requests = [asked(model, f"free {number}", "", max_tokens=130, ignore_eos=True) for number in range(4)]
    requests += schema_requests(model, temperature=1.0)
    apart, calm = run(model, requests)
    together, pressed = run(model, requests, pages=16)
    assert not calm.preemptions
    assert pressed.preemptions
    assert {name: output.tokens for name, output in apart.items()} == {
        name: output.tokens for name, output in together.items()
    }


def test_a_cached_prefix_changes_nothing(model):
    prompt = model[1].encode("the other one " * 12)
    requests = [msgspec.structs.replace(request, prompt=prompt) for request in schema_requests(model)]
    cold, _ = run(model, requests, prefix_cache=False)
    warm, stats = run(model, requests, seqs=2)
    assert stats.prefix_hits
    assert {name: output.tokens for name, output in cold.items()} == {
        name: output.tokens for name, output in warm.items()
    }


def test_no_step_compiles_what_a_request_brought(model, monkeypatch):
    """With more grammars than are kept, and preemptions."""
    compiled = []
    plain = Grammars._compile
    monkeypatch.setattr(Grammars, "_compile", lambda *given: compiled.append(given[1]) or plain(*given))
    requests = [
        asked(model, f"{number}", grammar_of(StructuredOutputsParams(regex=f"[a-z]{{90}}{number}")), max_tokens=120)
        for number in range(KEPT + 20)
    ]
    outputs, stats = run(model, requests, pages=16)
    assert stats.preemptions
    assert len(compiled) == len(requests)
    for name, output in outputs.items():
        assert re.fullmatch(f"[a-z]{{90}}{name}", text_of(model, output.tokens))


def test_reports_and_biases_turn_jumping_off_and_keep_the_text(model):
    plain, _ = run(model, schema_requests(model, temperature=0.8))
    reported, _ = run(model, schema_requests(model, temperature=0.8, logprobs=2))
    for name, output in reported.items():
        assert output.tokens == plain[name].tokens
        assert [entry.token for entry in output.logprobs] == output.tokens


def test_the_reference_executor_follows_masks_too(model):
    output = run(model, [asked(model, "x", grammar_of(StructuredOutputsParams(choice=["yes", "no"])))],
                 executor="reference")[0]["x"]  # fmt: skip
    assert text_of(model, output.tokens) in ("yes", "no")


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"choice": ["north", "south", 'qu"ote']}, r'north|south|qu"ote'),
        ({"regex": r"[a-f]{3}/\d{2}"}, r"[a-f]{3}/\d{2}"),
        ({"grammar": 'start: "a" B\nB: /[xy]{2,3}/'}, "a[xy]{2,3}"),
        ({"grammar": 'root ::= "a" ("b" | "cd") [0-9]'}, "a(b|cd)[0-9]"),
    ],
)
def test_each_form_is_followed(model, form, pattern):
    output = run(model, [asked(model, "x", grammar_of(StructuredOutputsParams(**form)))])[0]["x"]
    assert output.finish == "stop"
    assert re.fullmatch(pattern, text_of(model, output.tokens))


def test_max_tokens_cuts_what_is_forced(model):
    """Within a jump too: the answer is the beginning of the longer one."""
    grammar = grammar_of(StructuredOutputsParams(json=SCHEMAS["const"], disable_any_whitespace=True))
    whole = run(model, [asked(model, "x", grammar, temperature=0.0)])[0]["x"].tokens
    for count in (1, 2, len(whole) - 1):
        output = run(model, [asked(model, "x", grammar, temperature=0.0, max_tokens=count)])[0]["x"]
        assert output.finish == "length"
        assert output.tokens == whole[:count]
    output = run(model, [asked(model, "x", grammar, temperature=0.0, max_tokens=len(whole))])[0]["x"]
    assert (output.tokens, output.finish) == (whole, "stop")


def test_the_end_of_a_grammar_is_the_end_whatever_min_tokens_says(model):
    ends = asked(model, "ends", grammar_of(StructuredOutputsParams(choice=["a"])), min_tokens=20)
    free = asked(model, "free", "", max_tokens=8, ignore_eos=True)
    outputs, _ = run(model, [ends, free])
    assert outputs["ends"].finish == "stop"
    assert text_of(model, outputs["ends"].tokens) == "a"
    assert outputs["free"].finish == "length"


BOMBS = {
    "unbalanced pattern": {"regex": "(a"},
    "unknown type": {"json": {"type": "nothing"}},
    "unsatisfiable": {"json": {"type": "integer", "minimum": 5, "maximum": 4}},
    "missing reference": {"json": {"$ref": "#/$defs/none"}},
    "remote reference": {"json": {"$ref": "http://127.0.0.1:1/x.json"}},
    "bad grammar": {"grammar": "start: nowhere"},
    "bad gbnf": {"grammar": 'root ::= "a" ('},
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_cannot_be_compiled_is_refused_by_its_field(model, name):
    """Advisories on ReDoS, unbounded schemas and crashes of grammar libraries: see docs/structured.md."""
    with pytest.raises(UserError, match=r"^structured_outputs") as error:
        grammars_of(model).matcher(grammar_of(StructuredOutputsParams(**BOMBS[name])), "structured_outputs")
    assert error.value.field.startswith("structured_outputs")
    assert len(str(error.value)) < 600


HEAVY = {
    "nested repetition": {"regex": "((((a{1,1000}){1,1000}){1,1000}){1,1000})"},
    "doubled repetition": {"regex": "(a|aa)+(a|aa)+(a|aa)+$"},
    "huge alternation": {"regex": "(" + "|".join(f"{n:x}.*{n}.*" for n in range(9000)) + ")"},
    "endless reference": {"json": {"$ref": "#"}},
    "wide choice": {"json": {"anyOf": [{"type": "string", "pattern": f"^.*{n}.*{n}.*$"} for n in range(60)]}},
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_grammar_costs_its_own_request_and_a_bounded_time(model, name):
    """Refused, failed or followed: what runs beside it ends as ever."""
    began = time.monotonic()
    free = asked(model, "free", "", max_tokens=8, ignore_eos=True)
    try:
        heavy = [asked(model, "heavy", grammar_of(StructuredOutputsParams(**HEAVY[name])), max_tokens=8)]
        grammars_of(model).matcher(heavy[0].grammar, "here")
    except UserError:
        heavy = []
    outputs, _ = run(model, [*heavy, free])
    assert outputs["free"].finish == "length"
    assert len(outputs["free"].tokens) == 8
    assert time.monotonic() - began < 60


def test_deep_schemas_and_large_texts_are_refused(model):
    deep: dict = {}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    for form in ({"json": deep}, {"json": "[" * 100_000}, {"regex": "a" * (MAX_GRAMMAR + 1)}):
        with pytest.raises(UserError, match=r"^structured_outputs"):
            grammars_of(model).matcher(grammar_of(StructuredOutputsParams(**form)), "structured_outputs")


def test_exactly_one_form():
    for form in ({}, {"regex": "a", "choice": ["a"]}, {"json_object": False}):
        with pytest.raises(UserError, match="exactly one of"):
            StructuredOutputsParams(**form)
