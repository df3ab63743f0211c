"""How a model that gives vectors pools, from what its files say; and with its weights, as the program wants it.

What sentence-transformers wrote comes first, then a classifier's head, then what is usual: decoders give the last
token's vector, encoders the first one's, of length 1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from octavo.checkpoint.source import Source
from octavo.core.errors import InvalidValue, ModelError
from octavo.core.status import PoolingInfo
from octavo.models.named import Weights
from octavo.models.names import Architecture
from octavo.models.settings import Settings
from octavo.models.spec import Dense, ModelSpec, Pooler
from octavo.program.ops import Norming
from octavo.program.pooling import Layer, Pooling

RUNNERS = ("auto", "generate", "pooling")
CLASSIFIER = "ForSequenceClassification"  # what names of such architectures end with
MOST_LABELS = 100_000
# By the last part of a torch function's name.
FUNCTIONS = {"Identity": "none", "Tanh": "tanh", "Sigmoid": "sigmoid", "GELU": "gelu", "ReLU": "relu", "SiLU": "silu"}
PROBLEMS = {
    "regression": "none",
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
}
GGUF_KINDS = {1: "mean", 2: "cls", 3: "last"}  # {arch}.pooling_type; 0: none


def with_pooler(
    spec: ModelSpec, source: Source, architecture: Architecture, name: str, c: Settings, runner: str
) -> ModelSpec:
    """The spec of what is served: as it is, or without head and with a pooler. name: of the architecture, as written.

    runner: "generate" or "pooling", or "auto": what the files are made for. Raises ModelError and InvalidValue.
    """
    if runner not in RUNNERS:
        raise InvalidValue("runner", runner, " or ".join(RUNNERS))
    classifier = source.kind != "gguf" and name.endswith(CLASSIFIER)
    headless = not spec.head or (source.kind != "gguf" and name not in architecture.names)
    if headless and runner == "generate":
        raise InvalidValue("runner", runner, f"{name} has no head to generate with; pooling gives its vectors")
    made_to_pool = source.modules is not None or _gguf_type(source, name) != 0
    if not headless and (runner == "generate" or (runner == "auto" and not made_to_pool)):
        return spec
    if classifier:
        return replace(spec, head=False, pooler=_classifier(architecture, c))
    longest = (source.modules and source.modules.max_len) or spec.max_len
    return replace(spec, head=False, pooler=_embedding(spec, source, name), max_len=min(spec.max_len, longest))


def pooling_of(spec: ModelSpec, weights: Weights) -> Pooling | None:
    """A spec's pooler with its weights; None where it has none."""
    if spec.pooler is None:
        return None

    def numbers(key: str) -> np.ndarray | None:
        found = weights.get(key)
        return found if isinstance(found, np.ndarray) else None

    def layer(dense: Dense) -> Layer:
        key, norm, behind = "pool." + dense.name, dense.norm, None
        weight = numbers(key)
        assert weight is not None
        if norm is not None:
            behind = Norming(norm.kind, numbers(key + "_norm"), numbers(key + "_norm_bias"), norm.eps)
        return Layer(weight.astype(np.float64), numbers(key + "_bias"), dense.activation, behind)

    pooler = spec.pooler
    layers = tuple(map(layer, pooler.layers))
    return Pooling(pooler.kind, layers, pooler.labels, pooler.activation, pooler.normalize)


def pooling_info(spec: ModelSpec) -> PoolingInfo | None:
    """What a spec's pooler gives, for people and for checks; None where it has none."""
    pooler = spec.pooler
    if pooler is None:
        return None
    width = pooler.layers[-1].outputs if pooler.layers else spec.width
    tasks = ["classify", "token_classify"] if pooler.labels else ["embed", "token_embed"]
    score = ["score"] if len(pooler.labels) == 1 else []
    labels = list(pooler.labels)
    normalize = pooler.normalize
    return PoolingInfo(tasks=[*tasks, *score], width=width, labels=labels, types=spec.types, normalize=normalize)


def _embedding(spec: ModelSpec, source: Source, name: str) -> Pooler:
    modules = source.modules
    if modules is None:
        usual = "last" if spec.causal else "cls"
        return Pooler(_gguf_kind(source, name) or usual, normalize=True)
    layers = [_dense(Settings(folder, values), number) for number, (values, folder) in enumerate(modules.dense, 1)]
    return Pooler(modules.pooling, tuple(layers), normalize=modules.normalize)


def _gguf_type(source: Source, name: str) -> object:
    """What a GGUF file says of how to pool, 0 where it says nothing."""
    return source.metadata.get(f"{name}.pooling_type", 0)


def _gguf_kind(source: Source, name: str) -> str:
    """How the file wants its tokens pooled, "" where it says nothing. Raises ModelError."""
    given = _gguf_type(source, name)
    if given not in (0, *GGUF_KINDS):
        known = ", ".join(f"{number} ({kind})" for number, kind in GGUF_KINDS.items())
        raise ModelError(f"{source.path}: {name}.pooling_type: {str(given)[:100]} is not supported; {known} are")
    return GGUF_KINDS[given] if given else ""


def _dense(c: Settings, number: int) -> Dense:
    """A Dense module of sentence-transformers."""
    function = _function(c, "activation_function", "torch.nn.modules.activation.Tanh")
    return Dense(f"dense{number}", c.integer("out_features"), c.boolean("bias", True), function)


def _classifier(architecture: Architecture, c: Settings) -> Pooler:
    labels = _labels(c)
    if architecture.classifier:
        pooler = architecture.classifier(c, len(labels))
    else:
        pooler = Pooler("last", (Dense("score", len(labels), bias=False),))
    return replace(pooler, labels=labels, activation=_activation(c, len(labels)))


def _labels(c: Settings) -> tuple[str, ...]:
    """Names of the labels, by number."""
    named = c.value("id2label")
    if named is None:
        return tuple(f"LABEL_{number}" for number in range(c.integer("num_labels", 2, high=MOST_LABELS)))
    if not isinstance(named, dict) or not named or {str(i) for i in range(len(named))} != set(named):
        raise c.refused("id2label", "a name for each number from 0 on")
    return tuple(str(named[str(number)]) for number in range(len(named)))


def _activation(c: Settings, labels: int) -> str:
    """What scores pass: as a cross-encoder's files say, or as its problem wants it; one label alone has no softmax."""
    told = c.section("sentence_transformers")
    for settings, name in ((told, "activation_fn"), (c, "sbert_ce_default_activation_function")):
        if settings.has(name):
            return _function(settings, name)
    problem = PROBLEMS[c.word("problem_type", *PROBLEMS, default="single_label_classification")]
    return "sigmoid" if problem == "softmax" and labels == 1 else problem


def _function(c: Settings, name: str, default: str | None = None) -> str:
    """Our name of a torch function."""
    given = c.value(name, default)
    found = FUNCTIONS.get(str(given).rpartition(".")[2])
    if found is None:
        raise c.refused(name, ", ".join(FUNCTIONS))
    return found
