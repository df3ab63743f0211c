"""What a caller asks for: sampling parameters and requests. Frozen, checked when made, free of text.

The engine never sees text: stop strings, templates and detokenization live in the front.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from octavo.core.errors import InvalidValue
from octavo.core.ranges import check_integer, check_number, check_token_ids
from octavo.core.repetition import RepetitionDetectionParams
from octavo.core.structured import StructuredOutputsParams

MAX_LOGPROBS = 20  # most alternatives a token is reported with, as in the OpenAI API
MAX_N = 128  # most completions of one prompt
MAX_STOPS = 16  # most stop strings or stop tokens of one request
MAX_BAD_WORDS = 1024  # most texts that one request forbids
MAX_SEED = 2**63 - 1
MAX_BREAKERS = 64  # most sequence breakers of one request
TOKEN_LISTS = (("stop_token_ids", 0, 1024), ("allowed_token_ids", 1, 2**20), ("logprob_token_ids", 1, 128))  # lengths
FLAGS = ("include_stop_str_in_output", "ignore_eos", "detokenize", "skip_special_tokens", "skip_reading_prefix_cache")
SHAPERS = ("penalties", "dry")  # samplers that come before all others
SAMPLERS = {  # llama.cpp's names, and ours
    "temperature": "temperature",
    "top_n_sigma": "top_n_sigma",
    "min_p": "min_p",
    "top_k": "top_k",
    "typ_p": "typical_p",
    "typical_p": "typical_p",
    "top_p": "top_p",
    "xtc": "xtc",
}


def choice_seed(seed: int, choice: int) -> int:
    """The seed of one of a call's choices: the call's plus its number, as a signed number of 64 bits."""
    return (seed + choice + 2**63) % 2**64 - 2**63


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to draw tokens, with vLLM's names and defaults.

    temperature 0 is greedy. top_k 0 or -1 means all. `logprobs` and `prompt_logprobs` count alternatives (0: only the
    token itself). `seed` makes the draw repeatable whatever else runs; -1: none, as in vLLM and llama.cpp. `max_tokens`
    None: as many as fit. `allowed_token_ids`: nothing else is drawn. `bad_words`: texts that are not generated, alone
    or behind a space. `truncate_prompt_tokens`: only so many of the prompt's last tokens are read; -1: as many as leave
    room for `max_tokens`. `logprob_token_ids`: tokens to report in place of the likeliest. `skip_reading_prefix_cache`:
    compute the whole prompt, whatever is known of it. `repetition_detection`: end an answer that only repeats itself.
    Those from `typical_p` on are llama.cpp's, see docs/samplers.md; each default does nothing. `logits_processors`:
    names of installed code with its arguments, see docs/processors.md. Raises InvalidValue, naming the field, for
    anything out of range.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    structured_outputs: StructuredOutputsParams | None = None
    truncate_prompt_tokens: int | None = None
    skip_reading_prefix_cache: bool = False
    repetition_detection: RepetitionDetectionParams | None = None
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: list[str] | None = None
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    repeat_last_n: int = -1
    samplers: list[str] | None = None
    logits_processors: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        check_integer("n", self.n, 1, MAX_N)
        check_number("temperature", self.temperature, 0, 100)
        check_number("top_p", self.top_p, 0, 1, open_low=True)
        check_integer("top_k", self.top_k, -1, 2**31 - 1, " (0 or -1: all)")
        check_number("min_p", self.min_p, 0, 1)
        check_number("presence_penalty", self.presence_penalty, -2, 2)
        check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        check_number("repetition_penalty", self.repetition_penalty, 0, 100, open_low=True)
        if self.seed is not None:
            check_integer("seed", self.seed, -MAX_SEED - 1, MAX_SEED)
        check_integer("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.max_tokens is not None:
            check_integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
            if self.min_tokens > self.max_tokens:
                raise InvalidValue("min_tokens", self.min_tokens, f"at most max_tokens, which is {self.max_tokens}")
        for field in ("logprobs", "prompt_logprobs"):
            if getattr(self, field) is not None:
                check_integer(field, getattr(self, field), 0, MAX_LOGPROBS)
        if self.truncate_prompt_tokens is not None:
            note = " but 0 (-1: all that fit)"
            check_integer("truncate_prompt_tokens", self.truncate_prompt_tokens, -1, 2**31 - 1, note)
            if self.truncate_prompt_tokens == 0:
                raise InvalidValue("truncate_prompt_tokens", 0, "an integer of 1 or more, or -1 for all that fit")
        for field in FLAGS:
            if not isinstance(getattr(self, field), bool):
                raise InvalidValue(field, getattr(self, field), "true or false")
        if not isinstance(self.structured_outputs, (StructuredOutputsParams, type(None))):
            raise InvalidValue("structured_outputs", self.structured_outputs, "StructuredOutputsParams")
        if not isinstance(self.repetition_detection, (RepetitionDetectionParams, type(None))):
            raise InvalidValue("repetition_detection", self.repetition_detection, "RepetitionDetectionParams")
        self._check_lists()
        self._check_samplers()

    def _check_samplers(self) -> None:
        check_number("typical_p", self.typical_p, 0, 1, open_low=True)
        check_number("top_n_sigma", self.top_n_sigma, -1, 1000)
        for field in ("xtc_probability", "xtc_threshold", "mirostat_eta"):
            check_number(field, getattr(self, field), 0, 1)
        for field in ("dry_multiplier", "mirostat_tau", "dynatemp_range", "dynatemp_exponent"):
            check_number(field, getattr(self, field), 0, 100)
        check_number("dry_base", self.dry_base, 1, 100)
        check_integer("dry_allowed_length", self.dry_allowed_length, 0, 2**31 - 1)
        for field in ("dry_penalty_last_n", "repeat_last_n"):
            check_integer(field, getattr(self, field), -1, 2**31 - 1, " (-1: all, 0: none)")
        check_integer("mirostat", self.mirostat, 0, 2, " (0: off)")
        texts: Any = ["."] if self.dry_sequence_breakers is None else self.dry_sequence_breakers
        fits = isinstance(texts, list) and 0 < len(texts) <= MAX_BREAKERS
        if not fits or any(not isinstance(text, str) or not 0 < len(text) <= 256 for text in texts):
            accepted = f"1 to {MAX_BREAKERS} texts of 1 to 256 characters"
            raise InvalidValue("dry_sequence_breakers", texts, accepted)
        if self.samplers is not None:
            self._check_order(self.samplers)
        given: Any = {} if self.logits_processors is None else self.logits_processors
        if not isinstance(given, dict) or len(given) > 16 or not all(isinstance(one, dict) for one in given.values()):
            raise InvalidValue("logits_processors", given, "a map of at most 16 names to maps of arguments")

    def _check_order(self, names: Any) -> None:
        known = isinstance(names, list) and len(names) <= 12 and all(n in SAMPLERS or n in SHAPERS for n in names)
        drawing = [name for name in names if name in SAMPLERS] if known else []
        shaping = [name for name in names if name in SHAPERS] if known else []
        first = shaping == [name for name in SHAPERS if name in shaping] and names == shaping + drawing
        if not drawing or not first:
            accepted = f"a list of {', '.join(SHAPERS)}, and behind them at least one of {', '.join(SAMPLERS)}"
            raise InvalidValue("samplers", names, accepted)

    def uses(self, shaper: str) -> bool:
        """Whether `samplers` leaves room for one of SHAPERS."""
        return self.samplers is None or shaper in self.samplers

    @property
    def penalized(self) -> bool:
        """Whether a penalty of repeated tokens changes anything."""
        none = self.presence_penalty == 0 and self.frequency_penalty == 0 and self.repetition_penalty == 1
        return not none and self.repeat_last_n != 0 and self.uses("penalties")

    @property
    def dry(self) -> bool:
        """Whether DRY changes anything."""
        return self.dry_multiplier > 0 and self.dry_penalty_last_n != 0 and self.uses("dry")

    def _check_lists(self) -> None:
        if self.logit_bias is not None:
            if not isinstance(self.logit_bias, dict) or len(self.logit_bias) > 1024:
                raise InvalidValue("logit_bias", self.logit_bias, "a map of at most 1024 token ids to numbers")
            for token, bias in self.logit_bias.items():
                check_integer("logit_bias", token, 0, 2**31 - 1, " as token id")
                check_number(f"logit_bias[{token}]", bias, -100, 100)
        stops: Any = self.stop_strings if isinstance(self.stop, (str, list, tuple, type(None))) else [self.stop]
        if len(stops) > MAX_STOPS or any(not isinstance(s, str) or not s or len(s) > 1024 for s in stops):
            raise InvalidValue("stop", self.stop, f"at most {MAX_STOPS} strings of 1 to 1024 characters")
        for field, least, most in TOKEN_LISTS:
            if (ids := getattr(self, field)) is not None:
                check_token_ids(field, ids, least, most)
        named = self.logprob_token_ids or []
        if len(set(named)) < len(named):
            raise InvalidValue("logprob_token_ids", named[:8], "each token id once")
        words: Any = [] if self.bad_words is None else self.bad_words
        fits = isinstance(words, list) and len(words) <= MAX_BAD_WORDS
        if not fits or any(not isinstance(w, str) or not w.strip() or len(w) > 256 for w in words):
            raise InvalidValue("bad_words", words, f"at most {MAX_BAD_WORDS} texts of 1 to 256 characters, not blank")

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list, whatever form it was given in."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def fixed_seed(self) -> int | None:
        """The seed that was asked for; None: any."""
        return None if self.seed == -1 else self.seed

    @property
    def alternatives(self) -> int | None:
        """Tokens that each drawn one is reported with; None: nothing is reported."""
        return self.logprobs if self.logprob_token_ids is None else len(self.logprob_token_ids)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < 1e-5


def last_tokens(prompt: list[int], count: int | None, room: int) -> list[int]:
    """What `truncate_prompt_tokens`, which is `count`, leaves of a prompt; -1: as many as there is `room` for."""
    if count is None:
        return prompt
    return prompt[-(max(1, room) if count < 0 else count) :]


TASKS = ("embed", "classify", "score", "token_embed", "token_classify")


class PoolingParams(msgspec.Struct, frozen=True, kw_only=True):
    """What to give of a text instead of an answer, with vLLM's names.

    task: one of TASKS, those of tokens give each token's vector or scores; None: what the model is made for.
    dimensions: how many of an embedding's first ones, None: all. use_activation: whether scores pass the classifier's
    activation, or an embedding gets length 1; None: as the model wants it. normalize: the same, of embeddings.
    truncate_prompt_tokens: of a longer text the first so many tokens, marks included, -1: as many as the model takes.
    Raises InvalidValue, naming the field.
    """

    task: str | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    use_activation: bool | None = None
    truncate_prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise InvalidValue("task", self.task, ", ".join(TASKS))
        if self.dimensions is not None:
            check_integer("dimensions", self.dimensions, 1, 2**31 - 1)
        for field in ("normalize", "use_activation"):
            if not isinstance(getattr(self, field), (bool, type(None))):
                raise InvalidValue(field, getattr(self, field), "true or false")
        if self.normalize is not None and self.use_activation not in (None, self.normalize):
            raise InvalidValue("normalize", self.normalize, "the value of use_activation, where both are given")
        if self.truncate_prompt_tokens not in (None, -1):
            check_integer("truncate_prompt_tokens", self.truncate_prompt_tokens, 1, 2**31 - 1, " (or -1)")

    @property
    def of_tokens(self) -> bool:
        """Whether each token is given something, and not the text."""
        return self.task in ("token_embed", "token_classify")

    @property
    def activate(self) -> bool | None:
        """What `use_activation` and `normalize` say together."""
        return self.normalize if self.use_activation is None else self.use_activation


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate, or with `pooling` to give a vector of, in token ids.

    `id` is unique for the life of the engine (made by the front, never by the caller). `eos_ids` end the text unless
    `sampling.ignore_eos`. `seed` is always set by the front: the caller's seed (plus the choice's index), or a random
    one, so that a preempted or restarted sequence draws the same tokens. Lower `priority` goes first. `salt` and
    `adapter` keep the prefix cache of different tenants and adapters apart. `bad_words` are those of the sampling as
    tokens: the last of each is not drawn where those before it are the last that were generated. The answer is a text
    of `grammar` (llguidance's form, see text/grammar.py), unless that is empty; `grammar_field` is where the caller
    wrote it. `second`: how many tokens are of the first type, 0: all. `dry_breakers`: see worker/dry.py.
    `after`: the id of another request of this prompt, which comes first; this one waits until that has computed it.
    `drawn`: how many of the prompt's last tokens count as generated, for penalties, bad words and logits processors
    (not for the grammar or limits), of a request that goes on where another left off; `mu`: mirostat's state there.
    """

    id: str
    prompt: list[int]
    sampling: SamplingParams = SamplingParams()
    pooling: PoolingParams | None = None
    second: int = 0
    eos_ids: list[int] = []
    seed: int = 0
    priority: int = 0
    salt: str = ""
    adapter: int = 0
    grammar: str = ""
    grammar_field: str = ""
    bad_words: list[list[int]] = []
    dry_breakers: list[list[int]] = []
    after: str = ""
    drawn: int = 0
    mu: float | None = None


def check_sampling_tokens(sampling: SamplingParams, vocab: int) -> None:
    """Raise InvalidValue for any token id of the sampling that the vocabulary does not have."""
    for field in ("logit_bias", "stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
        for token in getattr(sampling, field) or ():
            if token >= vocab:
                raise InvalidValue(field, token, f"token ids from 0 to {vocab - 1}")


def check_processors(sampling: SamplingParams, known: Collection[str]) -> None:
    """Raise InvalidValue for a logits processor that is not among those `known`."""
    for name in sampling.logits_processors or {}:
        if name not in known:
            raise InvalidValue(
                "logits_processors", name, ", ".join(known) or "none: no package of this server offers any"
            )


def check_ids(field: str, ids: list[int], vocab: int) -> None:
    """Raise InvalidValue, naming the place, for a token id that the vocabulary does not have."""
    if ids and (set(map(type, ids)) != {int} or not 0 <= min(ids) <= max(ids) < vocab):
        index, token = next((i, t) for i, t in enumerate(ids) if type(t) is not int or not 0 <= t < vocab)
        raise InvalidValue(f"{field}[{index}]", token, f"token ids from 0 to {vocab - 1}")


def check_tokens(request: Request, vocab: int) -> None:
    """Raise InvalidValue for any token id of a request that the vocabulary does not have."""
    accepted = f"token ids from 0 to {vocab - 1}"
    check_ids("prompt", request.prompt, vocab)
    sampling = request.sampling
    check_sampling_tokens(sampling, vocab)
    for token in (token for word in request.bad_words for token in word):
        if not 0 <= token < vocab:
            raise InvalidValue("bad_words", token, accepted)
    if sampling.allowed_token_ids is not None:
        never = {word[-1] for word in request.bad_words}
        if sampling.min_tokens > 0:
            never |= {*(sampling.stop_token_ids or ()), *(() if sampling.ignore_eos else request.eos_ids)}
        if never.issuperset(sampling.allowed_token_ids):
            wanted = "a token at least that neither bad_words nor, where min_tokens is set, the text's end takes away"
            raise InvalidValue("allowed_token_ids", sampling.allowed_token_ids[:8], wanted)
