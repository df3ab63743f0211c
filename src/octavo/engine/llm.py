"""Generation from Python, in this process, with vLLM's names: `LLM(model).generate(prompts, params)`.

Owns an engine and the model's language. Invariant: between calls the engine is empty; a prompt that is refused stops
the call before anything has run. Calls from several threads take turns. Knows no HTTP.
"""

from __future__ import annotations

import operator
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from tqdm import tqdm

from octavo.checkpoint import hub
from octavo.checkpoint.source import open_source
from octavo.core.config import CacheConfig, ExecConfig, SchedulerConfig
from octavo.core.errors import InvalidValue, Unavailable, UserError
from octavo.core.request import Request, SamplingParams, choice_seed, last_tokens
from octavo.engine.beam import BeamSearchOutput, BeamSearchParams, search
from octavo.engine.config import LaunchConfig, parse_bytes
from octavo.engine.launch import build_engine
from octavo.engine.results import RequestOutput, alternatives, completion
from octavo.text.assemble import Assembler
from octavo.text.bad_words import spelled
from octavo.text.breakers import Breakers, required
from octavo.text.grammar import grammar_of
from octavo.text.template import ChatTemplate, until_end_of
from octavo.text.tokenizer import load_tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt and its completions in the making; `params` as the caller gave them."""

    prompt: str | None
    ids: list[int]
    params: SamplingParams
    totals: list[Assembler]


class LLM:
    """A model, loaded and ready.

    model: an alias, a folder, a .gguf file or a hub id (`revision`, `hf_token`; kept under `cache_dir`, default
    ~/.cache/octavo). memory: bytes this process may take, such as "2GiB"; None: what the machine leaves. dtype: how
    unquantized weights are stored, "auto" is bfloat16; quantization: "int8" or "int4" turns them into codes instead.
    kv_cache_dtype: "auto" (bfloat16), "bfloat16" or "float32". seed: of draws that bring none of their own; None:
    random ones. packed_cache: keep packed weights under `cache_dir` for the next start. Raises ModelError and
    InvalidValue.

    Use it as a context manager, or call `close`, to give the memory back at once.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        memory: str | int | None = None,
        dtype: str = "auto",
        quantization: str | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int = 512,
        kv_cache_dtype: str = "auto",
        enable_prefix_caching: bool = True,
        threads: int | None = None,
        executor: str = "cpu",
        seed: int | None = None,
        revision: str | None = None,
        hf_token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        packed_cache: bool = True,
    ) -> None:
        cache = Path("~/.cache/octavo").expanduser() if cache_dir is None else Path(cache_dir)
        path = hub.resolve(os.fspath(model), cache_dir=cache, revision=revision, token=hf_token)
        launch = LaunchConfig(
            model=str(path),
            name=os.fspath(model),
            max_len=max_model_len,
            packed_dir=str(cache / "packed") if packed_cache else None,
            scheduler=SchedulerConfig(
                max_seqs=max_num_seqs,
                max_step_tokens=max_num_batched_tokens,
                max_queued=2**31 - 1,
                itl_target_ms=0,  # nobody reads along
            ),
            cache=CacheConfig(
                memory_bytes=None if memory is None else parse_bytes(memory),
                kv_dtype="bfloat16" if kv_cache_dtype == "auto" else kv_cache_dtype,
                prefix_cache=enable_prefix_caching,
            ),
            exec=ExecConfig(executor=executor, threads=threads, dtype=dtype, quantization=quantization or "none"),
        )
        with open_source(path) as source:
            self.tokenizer = load_tokenizer(source)
        self._seed = seed
        self._count = 0
        self._lock = threading.Lock()
        self._engine, self.info = build_engine(launch)
        self._closed = ""  # why, once it is

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Completions of one prompt or several, in their order.

        A prompt is text, a list of token ids, {"prompt": text} or {"prompt_token_ids": ids}. Raises UserError, naming
        the prompt, before anything runs.
        """
        asked = _prompts(prompts)
        return self._run([self._encoded(i, p) for i, p in enumerate(asked)], sampling_params, use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """The model's answers to one conversation or several, each a list of {"role": ..., "content": ...}.

        chat_template: Jinja, instead of the model's own; chat_template_kwargs are variables for it. Raises UserError.
        """
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer, and chat needs one; use generate with token ids")
        written = chat_template or self.tokenizer.chat_template
        if written is None:
            raise UserError("this model has no chat template; give one as chat_template", "chat_template")
        if continue_final_message and add_generation_prompt:
            raise InvalidValue("continue_final_message", True, "only together with add_generation_prompt=False")
        template = ChatTemplate.of(self.tokenizer, written)
        prompts: list[tuple[str | None, list[int]]] = []
        for conversation in _conversations(messages):
            text = template.render(
                [dict(message) for message in conversation],
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                **(chat_template_kwargs or {}),
            )
            if continue_final_message:
                text = until_end_of(text, conversation[-1]["content"])
            prompts.append((text, self.tokenizer.encode(text, special=False)))
        return self._run(prompts, sampling_params, use_tqdm)

    def beam_search(self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams) -> list[BeamSearchOutput]:
        """The likeliest continuations of one prompt or several, by vLLM's rules.

        Beams share the pages of what they have in common; the begun page of each is computed anew at each token. Raises
        UserError, naming the prompt, before anything runs.
        """
        given = [self._encoded(i, p)[1] for i, p in enumerate(_prompts(prompts))]
        for index, ids in enumerate(given):
            if not ids or len(ids) + params.max_tokens > self.info.max_len:
                wanted = f"1 to {self.info.max_len - params.max_tokens} tokens, so that max_tokens fit behind them"
                raise InvalidValue(f"prompts[{index}]", f"{len(ids)} tokens", wanted)
        one = SamplingParams(temperature=0, max_tokens=1, logprobs=2 * params.beam_width, detokenize=False)

        def likely(beams: list[list[int]]) -> list[dict[int, float]]:
            results = self._run([(None, beam) for beam in beams], one, False)
            return [
                {token: each.logprob for token, each in (r.outputs[0].logprobs or [{}])[0].items()} for r in results
            ]

        decode = None if self.tokenizer is None else self.tokenizer.decode
        return [
            BeamSearchOutput(
                [
                    beam if decode is None else replace(beam, text=decode(beam.tokens, skip_special=False))
                    for beam in best
                ]
            )
            for best in search(given, params, self._ends(), likely)
        ]

    def close(self) -> None:
        """Stop the threads and give the memory back. May be called twice; the object is of no use afterwards."""
        self._close("it was closed")

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()

    def _close(self, reason: str) -> None:
        if not self._closed:
            self._closed = reason
            self._engine.close()

    def _encoded(self, index: int, prompt: Prompt) -> tuple[str | None, list[int]]:
        """Text, if there is one, and token ids of a prompt."""
        if isinstance(prompt, Mapping):
            if "prompt_token_ids" in prompt:
                prompt = prompt["prompt_token_ids"]
            elif "prompt" in prompt:
                prompt = prompt["prompt"]
            else:
                raise InvalidValue(f"prompts[{index}]", dict(prompt), "a dict with prompt or prompt_token_ids")
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise InvalidValue(f"prompts[{index}]", prompt, "this model has no tokenizer; give token ids")
            return prompt, self.tokenizer.encode(prompt)
        tokens: Iterable[Any] = prompt
        try:
            return None, [operator.index(token) for token in tokens]
        except TypeError:
            raise InvalidValue(f"prompts[{index}]", prompt, "text, or a list of token ids") from None

    def _run(
        self,
        prompts: list[tuple[str | None, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        params = _params(sampling_params, len(prompts))
        with self._lock:
            if self._closed:
                raise Unavailable(f"this LLM cannot be used: {self._closed}")
            jobs: list[Job] = []
            live: dict[str, Assembler] = {}
            try:
                for index, ((text, ids), sampling) in enumerate(zip(prompts, params, strict=True)):
                    jobs.append(self._add(index, text, ids, sampling, live))
                self._finish(live, use_tqdm)
            finally:
                for request_id in live:
                    self._engine.abort(request_id)
            first = self._count
            self._count += len(jobs)
        return [self._result(str(first + index), job) for index, job in enumerate(jobs)]

    def _add(
        self, index: int, text: str | None, ids: list[int], sampling: SamplingParams, live: dict[str, Assembler]
    ) -> Job:
        """Give the engine one request for each completion of a prompt. Raises UserError, naming the prompt."""
        totals = []
        seed = self._drawn_seed() if sampling.seed is None else sampling.seed
        one = msgspec.structs.replace(sampling, n=1, structured_outputs=None)
        try:
            grammar = grammar_of(sampling.structured_outputs)
            ids = last_tokens(ids, sampling.truncate_prompt_tokens, self.info.max_len - (sampling.max_tokens or 1))
            bad_words, ends = spelled(sampling.bad_words, self.tokenizer), self._ends()
            breakers = Breakers(required(self.tokenizer)).of(sampling.dry_sequence_breakers) if sampling.dry else []
            for choice in range(sampling.n):
                total = Assembler(self.tokenizer, sampling, ids)
                request_id = f"{self._count + index}-{choice}"
                request = Request(
                    id=request_id,
                    prompt=ids,
                    sampling=one,
                    eos_ids=ends,
                    seed=choice_seed(seed, choice),
                    bad_words=bad_words,
                    dry_breakers=breakers,
                    grammar=grammar,
                    grammar_field="structured_outputs" if grammar else "",
                )
                self._engine.add(request)
                live[request_id] = total
                totals.append(total)
        except UserError as error:
            error.args = (f"prompts[{index}]: {error}",)
            raise
        return Job(text, ids, sampling, totals)

    def _finish(self, live: dict[str, Assembler], use_tqdm: bool) -> None:
        """Step until all have ended; those that have are taken out of `live`."""
        began, generated = time.monotonic(), 0
        bar = tqdm(total=len(live), desc="Generated", unit="text", disable=not use_tqdm, dynamic_ncols=True)
        with bar, self._uninterrupted() as interrupted:
            while live:
                for output in self._engine.step():
                    total = live[output.id]
                    generated += len(total.push(output).tokens)
                    if total.stopped:
                        self._engine.abort(output.id)
                    if total.finish is not None:
                        del live[output.id]
                        bar.set_postfix_str(f"{generated / (time.monotonic() - began):.1f} tok/s", refresh=False)
                        bar.update()
                if interrupted.is_set():
                    raise KeyboardInterrupt

    @contextmanager
    def _uninterrupted(self) -> Iterator[threading.Event]:
        """Ctrl-C waits for the end of the step, so that the engine stays whole; a failure closes it."""
        interrupted = threading.Event()
        before = signal.getsignal(signal.SIGINT)
        ours = threading.current_thread() is threading.main_thread() and before is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, lambda number, frame: interrupted.set())
        try:
            yield interrupted
        except Exception as error:
            self._close(f"{type(error).__name__}: {error}")
            raise
        finally:
            if ours:
                signal.signal(signal.SIGINT, before)

    def _ends(self) -> list[int]:
        """Tokens that end a text."""
        return sorted({*self.info.eos_ids, *(() if self.tokenizer is None else self.tokenizer.eos_ids)})

    def _drawn_seed(self) -> int:
        """The seed of a prompt that brings none: the next of ours, or random."""
        if self._seed is None:
            return int.from_bytes(os.urandom(8), "little", signed=True)
        self._seed += 1
        return self._seed - 1

    def _result(self, request_id: str, job: Job) -> RequestOutput:
        tokenizer, params, first = self.tokenizer, job.params, job.totals[0]
        prompt_logprobs = None
        if params.prompt_logprobs is not None:
            prompt_logprobs = [None, *(alternatives(entry, tokenizer) for entry in first.prompt_logprobs)]
        return RequestOutput(
            request_id=request_id,
            prompt=job.prompt,
            prompt_token_ids=job.ids,
            prompt_logprobs=prompt_logprobs,
            outputs=[completion(i, total, tokenizer, params.logprobs) for i, total in enumerate(job.totals)],
            num_cached_tokens=first.cached,
        )


def _prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts, where one alone may have been given."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if not isinstance(prompts, Iterable):
        raise InvalidValue("prompts", prompts, "text, a list of token ids, or a list of those")
    several: list[Any] = list(prompts)
    if several and all(hasattr(item, "__index__") for item in several):
        return [several]
    return several


def _conversations(messages: Messages | Sequence[Messages]) -> list[Messages]:
    """A list of conversations, where one alone may have been given."""
    several: list[Any] = list(messages)
    return [several] if several and isinstance(several[0], Mapping) else several


def _params(given: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    """Parameters for each prompt."""
    if given is None or isinstance(given, SamplingParams):
        return [given or SamplingParams()] * count
    params = list(given)
    if len(params) != count:
        raise InvalidValue(
            "sampling_params", f"{len(params)} of them", f"one, or as many as prompts, which are {count}"
        )
    return params
