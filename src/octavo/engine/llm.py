"""Generation from Python, in this process, with vLLM's names: `LLM(model).generate(prompts, params)`.

The engine is the one of offline.py. Invariant: a prompt that is refused stops the call before anything has run. Calls
from several threads take turns. Knows no HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from octavo.core.beam import BeamSearchOutput, BeamSearchParams, search
from octavo.core.errors import InvalidValue, UserError
from octavo.core.request import Request, SamplingParams, choice_seed, last_tokens
from octavo.engine.offline import Receiver
from octavo.engine.pools import Pools
from octavo.engine.prompts import Prompt, for_each, several, written
from octavo.engine.results import RequestOutput, alternatives, completion
from octavo.text.assemble import Assembler
from octavo.text.bad_words import spelled
from octavo.text.breakers import Breakers, required
from octavo.text.grammar import grammar_of
from octavo.text.template import ChatTemplate
from octavo.text.told import shown

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt and its completions in the making; `params` as the caller gave them."""

    prompt: str | None
    ids: list[int]
    params: SamplingParams
    totals: list[Assembler]


class LLM(Pools):
    """A model, loaded and ready.

    model: an alias, a folder, a .gguf file or a hub id (`revision`, `hf_token`; kept under `cache_dir`, default
    ~/.cache/octavo). memory: bytes this process may take, such as "2GiB"; None: what the machine leaves. dtype: how
    unquantized weights are stored, "auto" is bfloat16, of encoders int16 codes where their files say more;
    quantization: "int16", "int8" or "int4" turns them into codes instead.
    kv_cache_dtype: "auto" (bfloat16), "bfloat16" or "float32". seed: of draws that bring none of their own; None:
    random ones. runner: "generate", or "pooling" for embeddings or scores of labels; "auto": what the model is made
    for. packed_cache: keep packed weights under `cache_dir` for the next start. Raises ModelError and
    InvalidValue.

    Use it as a context manager, or call `close`, to give the memory back at once.
    """

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
        asked = several(prompts)
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

        chat_template: Jinja, instead of the model's own; chat_template_kwargs are variables for it. Tools stand in the
        system message where the template shows none; calls are left in the answer's text. Raises UserError.
        """
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer, and chat needs one; use generate with token ids")
        written = chat_template or self.tokenizer.chat_template
        if written is None:
            raise UserError("this model has no chat template; give one as chat_template", "chat_template")
        if continue_final_message and add_generation_prompt:
            raise InvalidValue("continue_final_message", True, "only together with add_generation_prompt=False")
        template = ChatTemplate.of(self.tokenizer, written)
        render = template.render_open if continue_final_message else template.render
        prompts: list[tuple[str | None, list[int]]] = []
        for conversation in _conversations(messages):
            asked, given = shown(template, [_plain(message) for message in conversation], tools)
            text = render(
                asked,
                tools=given,
                add_generation_prompt=add_generation_prompt,
                **(chat_template_kwargs or {}),
            )
            prompts.append((text, self.tokenizer.encode(text, special=False)))
        return self._run(prompts, sampling_params, use_tqdm)

    def beam_search(self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams) -> list[BeamSearchOutput]:
        """The likeliest continuations of one prompt or several, by vLLM's rules.

        Beams share the pages of what they have in common, and each step computes one token of each, where prefixes are
        cached. Raises UserError, naming the prompt, before anything runs.
        """
        given = [self._encoded(i, p)[1] for i, p in enumerate(several(prompts))]
        for index, ids in enumerate(given):
            if not ids or len(ids) + params.max_tokens > self.info.max_len:
                wanted = f"1 to {self.info.max_len - params.max_tokens} tokens, so that max_tokens fit behind them"
                raise InvalidValue(f"prompts[{index}]", f"{len(ids)} tokens", wanted)

        def likely(beams: list[list[int]]) -> list[dict[int, float]]:
            results = self._run([(None, beam) for beam in beams], params.one_token(), False)
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

    def _encoded(self, index: int, prompt: Prompt) -> tuple[str | None, list[int]]:
        """Text, if there is one, and token ids of a prompt."""
        given = written(f"prompts[{index}]", prompt)
        if isinstance(given, list):
            return None, given
        if self.tokenizer is None:
            raise InvalidValue(f"prompts[{index}]", given, "this model has no tokenizer; give token ids")
        return given, self.tokenizer.encode(given)

    def _run(
        self,
        prompts: list[tuple[str | None, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        params = for_each("sampling_params", sampling_params, len(prompts), SamplingParams)
        with self._turn() as live:
            jobs: list[Job] = []
            for index, ((text, ids), sampling) in enumerate(zip(prompts, params, strict=True)):
                jobs.append(self._add(index, text, ids, sampling, live))
            self._finish(live, use_tqdm)
            first = self._count
            self._count += len(jobs)
        return [self._result(str(first + index), job) for index, job in enumerate(jobs)]

    def _add(
        self, index: int, text: str | None, ids: list[int], sampling: SamplingParams, live: dict[str, Receiver]
    ) -> Job:
        """Give the engine one request for each completion of a prompt. Raises UserError, naming the prompt."""
        totals = []
        seed = self._drawn_seed() if sampling.fixed_seed is None else sampling.fixed_seed
        one = msgspec.structs.replace(sampling, n=1, structured_outputs=None)
        form = sampling.structured_outputs
        try:
            grammar = grammar_of(form, self.tokenizer)
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
                    after=f"{self._count + index}-0" if choice else "",
                    grammar=grammar,
                    grammar_field=form.where if form is not None else "",
                )
                self._engine.add(request)
                live[request_id] = total
                totals.append(total)
        except UserError as error:
            error.args = (f"prompts[{index}]: {error}",)
            raise
        return Job(text, ids, sampling, totals)

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
            outputs=[completion(i, total, tokenizer, params.alternatives) for i, total in enumerate(job.totals)],
            num_cached_tokens=first.cached,
        )


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates take it: an assistant's that holds nothing but calls or reasoning has an empty content."""
    plain = dict(message)
    if plain.get("role") == "assistant" and plain.get("content") is None:
        plain["content"] = ""
    return plain


def _conversations(messages: Messages | Sequence[Messages]) -> list[Messages]:
    """A list of conversations, where one alone may have been given."""
    several: list[Any] = list(messages)
    return [several] if several and isinstance(several[0], Mapping) else several
