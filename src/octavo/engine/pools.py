"""Embeddings, scores and classes from Python, in this process, with vLLM's names: what `LLM` does of models that pool.

Invariant: a text that is refused stops the call before anything has run.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from octavo.core.errors import EngineFault, InvalidValue, UserError
from octavo.core.request import PoolingParams, Request
from octavo.core.status import check_kind
from octavo.engine.offline import Offline
from octavo.engine.prompts import Prompt, for_each, several, written
from octavo.engine.results import (
    ClassificationOutput,
    EmbeddingOutput,
    PooledRequestOutput,
    PoolingOutput,
    ScoringOutput,
    Vector,
)
from octavo.text.pooled import PIECE, Pooled, cosine, joined, pieces_of, tokens_of

P = TypeVar("P", PoolingOutput, EmbeddingOutput, ClassificationOutput, ScoringOutput)
Floats = npt.NDArray[np.float32]
Params = PoolingParams | Sequence[PoolingParams] | None


class Pools(Offline):
    """What needs no text to be generated."""

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: Params = None,
        use_tqdm: bool = True,
        *,
        pooling_task: str | None = None,
    ) -> list[PooledRequestOutput[PoolingOutput]]:
        """What the model gives of texts: a vector of each, or with a task of tokens one of each of its tokens.

        A text is a str, a list of token ids, {"prompt": text} or {"prompt_token_ids": ids}. pooling_task: "embed",
        "classify", "token_embed" or "token_classify"; None: the model's usual one. Raises UserError, naming the text.
        """
        return self._given(prompts, pooling_params, use_tqdm, pooling_task, PoolingOutput)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: Params = None,
        use_tqdm: bool = True,
        *,
        enable_chunked_processing: bool = False,
    ) -> list[PooledRequestOutput[EmbeddingOutput]]:
        """The vector of each text.

        enable_chunked_processing: of a text that is longer than the model takes, the mean of its pieces' vectors, each
        counted as often as it has tokens. Raises UserError, naming the text.
        """
        if enable_chunked_processing:
            return self._chunked(prompts, pooling_params, use_tqdm)
        return self._given(prompts, pooling_params, use_tqdm, "embed", _embedding)

    def classify(
        self, prompts: Prompt | Sequence[Prompt], pooling_params: Params = None, use_tqdm: bool = True
    ) -> list[PooledRequestOutput[ClassificationOutput]]:
        """A number for each of the model's labels, of each text. Raises UserError, naming the text."""
        return self._given(
            prompts, pooling_params, use_tqdm, "classify", lambda data: ClassificationOutput(data.tolist())
        )

    def reward(
        self, prompts: Prompt | Sequence[Prompt], pooling_params: Params = None, use_tqdm: bool = True
    ) -> list[PooledRequestOutput[PoolingOutput]]:
        """As `encode`, of a model that scores each token. Raises UserError, naming the text."""
        return self._given(prompts, pooling_params, use_tqdm, "token_classify", PoolingOutput)

    def score(
        self,
        data_1: Prompt | Sequence[Prompt],
        data_2: Prompt | Sequence[Prompt],
        pooling_params: PoolingParams | None = None,
        use_tqdm: bool = True,
    ) -> list[PooledRequestOutput[ScoringOutput]]:
        """How well texts go together, pair by pair; one alone in data_1 goes with each of data_2.

        A model with one label scores a pair as its maker meant it; of one that gives embeddings it is their cosine.
        Raises UserError, naming the text.
        """
        first, second = several(data_1), several(data_2)
        if len(first) not in (1, len(second)):
            raise InvalidValue("data_1", f"{len(first)} texts", f"one, or as many as data_2, which are {len(second)}")
        info, params = self.info.pooling, for_each("pooling_params", pooling_params, 1, PoolingParams)[0]
        if info is None or info.labels:
            return self._cross(first * (len(second) // max(1, len(first))), second, params, use_tqdm)
        names = [f"data_{side}[{i}]" for side, texts in enumerate((first, second), 1) for i in range(len(texts))]
        found = self._given([*first, *second], params, use_tqdm, "embed", _embedding, names)
        vectors = [array("f", each.outputs.embedding) for each in found]
        return [
            PooledRequestOutput(
                other.request_id,
                [*one.prompt_token_ids, *other.prompt_token_ids],
                ScoringOutput(cosine(vectors[place], vectors[len(first) + number])),
            )
            for number, other in enumerate(found[len(first) :])
            for place in [number % len(first)]
            for one in [found[place]]
        ]

    def _cross(
        self, first: list[Prompt], second: list[Prompt], params: PoolingParams, use_tqdm: bool
    ) -> list[PooledRequestOutput[ScoringOutput]]:
        """Scores of pairs by a model that reads both at once."""
        asked = []
        for number, pair in enumerate(zip(first, second, strict=True)):
            texts = [written(f"data_{side}[{number}]", text) for side, text in enumerate(pair, 1)]
            for side, text in enumerate(texts, 1):
                if not isinstance(text, str):
                    raise InvalidValue(
                        f"data_{side}[{number}]", text, "a text: a pair is written with the model's marks"
                    )
            one, other = map(str, texts)
            asked.append(tokens_of(f"data_2[{number}]", one, self.tokenizer, self.info, params, second=other))
        tasked = [msgspec.structs.replace(params, task="score")] * len(asked)
        names = [f"data_2[{number}]" for number in range(len(asked))]
        return self._run_vectors(names, asked, tasked, use_tqdm, lambda data: ScoringOutput(float(data[0])))

    def _given(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: Params,
        use_tqdm: bool,
        task: str | None,
        made: Callable[[Floats], P],
        names: list[str] | None = None,
    ) -> list[PooledRequestOutput[P]]:
        """What the model gives of each text. names: of the texts, for errors."""
        texts = several(prompts)
        names = names or _names(len(texts))
        params = for_each("pooling_params", pooling_params, len(texts), PoolingParams)
        if task is not None:
            params = [msgspec.structs.replace(each, task=task) for each in params]
        asked = [
            tokens_of(name, written(name, text), self.tokenizer, self.info, each)
            for name, text, each in zip(names, texts, params, strict=True)
        ]
        return self._run_vectors(names, asked, params, use_tqdm, made)

    def _chunked(
        self, prompts: Prompt | Sequence[Prompt], pooling_params: Params, use_tqdm: bool
    ) -> list[PooledRequestOutput[EmbeddingOutput]]:
        """Embeddings of texts of any length."""
        texts = several(prompts)
        params = for_each("pooling_params", pooling_params, len(texts), PoolingParams)
        names, pieces = _names(len(texts)), []
        for name, text, wanted in zip(names, texts, params, strict=True):
            with _naming(name):
                tasked = msgspec.structs.replace(wanted, task="embed")
                check_kind(Request(id="", prompt=[], pooling=tasked), self.info.pooling)
                if wanted.truncate_prompt_tokens is not None:
                    told = "only without enable_chunked_processing"
                    raise InvalidValue("truncate_prompt_tokens", wanted.truncate_prompt_tokens, told)
            pieces.append(pieces_of(name, written(name, text), self.tokenizer, self.info))
        asked = [piece for each in pieces for piece in each]
        owners = [name for name, each in zip(names, pieces, strict=True) for _ in each]
        given = iter(self._run_vectors(owners, asked, [PIECE] * len(asked), use_tqdm, PoolingOutput))
        made = []
        for each, wanted in zip(pieces, params, strict=True):
            parts = [next(given) for _ in each]
            vectors = [array("f", part.outputs.data.tobytes()) for part in parts]
            embedding = joined(each, vectors, wanted, self.info).tolist()
            ids = [token for piece in each for token in piece.ids]
            made.append(PooledRequestOutput(parts[0].request_id, ids, EmbeddingOutput(embedding)))
        return made

    def _run_vectors(
        self,
        names: list[str],
        asked: list[Pooled],
        params: list[PoolingParams],
        use_tqdm: bool,
        made: Callable[[Floats], P],
    ) -> list[PooledRequestOutput[P]]:
        """What the engine gives of each. Raises UserError, naming the text."""
        totals = [Vector() for _ in asked]
        with self._turn() as live:
            first = self._count
            for number, (pooled, each, total) in enumerate(zip(asked, params, totals, strict=True)):
                request = Request(id=str(first + number), prompt=pooled.ids, second=pooled.second, pooling=each)
                with _naming(names[number]):
                    self._engine.add(request)
                live[request.id] = total
            self._finish(live, use_tqdm)
            self._count += len(asked)
        return [
            PooledRequestOutput(
                str(first + number), pooled.ids, made(_numbers(total, pooled, each)), total.output.cached
            )
            for number, (pooled, each, total) in enumerate(zip(asked, params, totals, strict=True))
        ]


def _names(count: int) -> list[str]:
    """Names of texts, for errors."""
    return [f"prompts[{number}]" for number in range(count)]


@contextmanager
def _naming(text: str) -> Iterator[None]:
    """Put a text's name before what is said of it inside."""
    try:
        yield
    except UserError as error:
        error.args = (f"{text}: {error}",)
        raise


def _embedding(data: Floats) -> EmbeddingOutput:
    return EmbeddingOutput(data.tolist())


def _numbers(total: Vector, pooled: Pooled, params: PoolingParams) -> Floats:
    """What was given. [numbers], or of tokens [tokens, numbers]"""
    if total.finish == "error":
        raise EngineFault(total.output.error or "the engine failed")
    numbers = np.frombuffer(total.output.vector, np.float32)
    return numbers.reshape(len(pooled.ids), -1) if params.of_tokens else numbers
