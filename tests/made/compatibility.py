"""docs/compatibility.md from a table of fields: `python tests/made/compatibility.py` writes it.

A row names the test that proves what it says. Who adds a field adds its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
HEAD = """# Compatibility

Made by `python tests/made/compatibility.py` from its table. Fields of requests to `/v1/completions` (T),
`/v1/chat/completions` (C), `/v1/embeddings` (E), `/pooling` (P), `/classify` (L), `/score` (S) and `/rerank` (R),
as compared with vLLM 0.32, llama.cpp's server of October 2026 and the OpenAI API, read in
their documents and sources. "exact": the same name and meaning. "refused": an error names the field, unless it holds a
value that asks for nothing. An empty cell: the other has no such field. The last column names the test of what we say.

| field | where | vLLM | llama.cpp | OpenAI | Octavo | test |
|---|---|---|---|---|---|---|
"""
BODIES = "protocol/test_request_bodies.py"
ARRIVES = f"{BODIES}::test_what_was_asked_arrives"
REFUSED = f"{BODIES}::test_a_bad_value_is_refused_under_the_name_of_its_field"
STRUCTURED = "server/test_structured.py"
FIELDS = "server/test_generation_fields.py"
CALLS = "server/test_calls.py"
CLIENT = "server/test_openai_client.py"
POOLING = "server/test_pooling.py"
LABEL = f"{BODIES}::test_neutral_values_and_labels_change_nothing"
NEUTRAL = "server/test_openapi.py::test_known_fields_that_are_not_supported_take_only_what_changes_nothing"
WHOLE = "server/test_whole_path.py"
STEPS = "program/test_samplers.py::test_what_is_left_equals_lists_sorted_in_float64"
DRAWN = "program/test_cpu_draw.py::test_every_row_draws_what_the_reference_draws"


@dataclass(frozen=True, slots=True)
class Row:
    """One field. where: T, C or both. The other engines' columns name their field, Octavo's says how ours compares."""

    name: str
    where: str
    vllm: str
    llama: str
    openai: str
    octavo: str
    test: str


def row(name: str, test: str, octavo: str = "exact", *, where: str = "TC", others: str = "v", llama: str = "") -> Row:
    """A field that others call the same: v vLLM, l llama.cpp, o OpenAI; `llama` is its name there if another."""
    named = [name if letter in others else "" for letter in "vlo"]
    return Row(name, where, named[0], llama or named[1], named[2], octavo, test)


ROWS = (
    row("model", f"{CLIENT}::test_models_are_listed_under_all_their_names", "exact; may be left out", where="TCEPLSR",
        others="vlo"),
    row("messages", f"{CLIENT}::test_a_developer_speaks_as_the_system_and_parts_are_joined",
        "exact; text only; where texts are pooled in place of input", where="CEP", others="vlo"),
    row("prompt", f"{CLIENT}::test_a_streamed_completion_equals_the_whole_one", where="T", others="vlo"),
    row("stream", f"{CLIENT}::test_a_streamed_chat_equals_the_whole_one", others="vlo"),
    row("n", f"{CLIENT}::test_choices_have_the_seeds_that_follow",
        "exact; at most 128; pages of the prompt are computed once", others="vlo"),
    row("best_of", f"{FIELDS}::test_best_of_gives_the_likeliest", "exact; by log-probability per token", where="T",
        others="o"),
    row("temperature", DRAWN, others="vlo"),
    row("top_p", DRAWN, others="vlo"),
    row("top_k", DRAWN, "exact; 0 or -1: all", others="vl"),
    row("min_p", DRAWN, others="vl"),
    row("presence_penalty", DRAWN, others="vlo"),
    row("frequency_penalty", DRAWN, others="vlo"),
    row("repetition_penalty", DRAWN, llama="repeat_penalty"),
    row("logit_bias", ARRIVES, "exact; token ids only", others="vlo"),
    row("seed", f"{CLIENT}::test_choices_have_the_seeds_that_follow", "exact; whatever else runs; -1: none, as in "
        "vLLM and llama.cpp", others="vlo"),
    row("stop", f"{CLIENT}::test_stop_strings_end_the_text_and_give_up_the_sequence", "exact; up to 16", others="vlo"),
    row("stop_token_ids", "server/test_whole_path.py::test_stop_strings_and_stop_tokens"),
    row("include_stop_str_in_output", "text/test_assembler.py::test_any_cut_gives_the_same_text_and_the_same_stop"),
    row("ignore_eos", ARRIVES, others="vl"),
    row("min_tokens", "worker/test_gather_property.py::test_gather_equals_the_slow_one"),
    row("max_tokens", f"{CLIENT}::test_completions_give_16_tokens_and_chats_as_many_as_fit", others="vo",
        llama="n_predict"),
    row("max_completion_tokens", f"{BODIES}::test_what_chat_refuses", where="C", others="vlo"),
    row("logprobs", f"{CLIENT}::test_logprobs_of_a_completion", "exact; at most 20 alternatives", others="vlo"),
    row("top_logprobs", f"{CLIENT}::test_logprobs_of_a_chat", where="C", others="vlo"),
    row("logprob_token_ids", f"{WHOLE}::test_logprobs_of_tokens_that_are_named", "exact; at most 128"),
    row("return_tokens_as_token_ids", f"{WHOLE}::test_tokens_by_their_numbers", "exact; bytes stay those of the text"),
    row("skip_reading_prefix_cache", f"{WHOLE}::test_a_prompt_that_is_computed_anew", llama="cache_prompt"),
    row("cache_prompt", f"{WHOLE}::test_a_prompt_that_is_computed_anew", "false: skip_reading_prefix_cache",
        others="l"),
    row("repetition_detection", f"{WHOLE}::test_an_answer_that_repeats_itself_ends",
        "exact; patterns of at most 1024 tokens; finish_reason repetition"),
    row("prompt_logprobs", f"{CLIENT}::test_prompt_logprobs", "exact; not with stream"),
    row("echo", f"{CLIENT}::test_echo", where="T", others="vo"),
    row("skip_special_tokens", ARRIVES),
    row("return_token_ids", f"{CLIENT}::test_a_streamed_chat_equals_the_whole_one", llama="return_tokens"),
    row("allowed_token_ids", f"{FIELDS}::test_allowed_token_ids"),
    row("bad_words", f"{FIELDS}::test_bad_words_are_spelled_alone_and_behind_a_space", "exact; at most 1024"),
    row("truncate_prompt_tokens", f"{FIELDS}::test_truncate_prompt_tokens", "exact; -1 leaves room for max_tokens;"
        " of texts that are pooled the first stay", where="TCEPLSR"),
    row("add_generation_prompt", f"{FIELDS}::test_continue_final_message", "exact; false unless given where texts are"
        " pooled", where="CEP", others="vl"),
    row("continue_final_message", f"{FIELDS}::test_continue_final_message", where="CEP"),
    row("chat_template", f"{FIELDS}::test_a_chat_template_of_the_request",
        "exact; only with --trust-request-chat-template", where="CEP"),
    row("chat_template_kwargs", f"{BODIES}::test_what_chat_refuses", "exact; names of the template's own", where="CEP",
        others="vl"),
    row("priority", "sched/test_scheduler.py::test_priority_orders_the_queue",
        "exact; with --scheduling-policy priority", where="TCEPLSR"),
    row("cache_salt", "sched/test_scheduler.py::test_salt_and_adapter_keep_prefixes_apart", where="TCEPLSR"),
    row("response_format", f"{STRUCTURED}::test_a_schema_by_openais_client_whole_and_streamed",
        "exact; the schema is followed whether strict or not", others="vlo"),
    row("structured_outputs", f"{STRUCTURED}::test_each_choice_follows_the_schema", "see docs/structured.md"),
    row("grammar", f"{STRUCTURED}::test_other_fields", "GBNF as llguidance reads it; Lark too", others="l"),
    row("json_schema", f"{STRUCTURED}::test_other_fields", others="l"),
    row("request_id", f"{FIELDS}::test_the_name_of_a_request_stands_in_the_answers_id", "exact; so is X-Request-Id",
        where="TCEPLSR"),
    row("deadline_ms", f"{FIELDS}::test_what_is_not_done_at_its_deadline_ends_there",
        'counts from the request; ends with finish_reason "length", stop_reason "deadline"', others="",
        llama="t_max_predict_ms"),
    row("stream_options", f"{CLIENT}::test_continuous_usage_counts_up", "exact; no obfuscation", others="vlo"),
    row("add_special_tokens", f"{FIELDS}::test_add_special_tokens", where="TCEPL"),
    row("user", LABEL, "checked for its type, changes nothing", where="TCEPLSR", others="vo"),
    row("input", f"{POOLING}::test_embeddings_of_every_form_of_input", "exact; at most 2048 texts", where="EPL",
        others="vlo"),
    row("encoding_format", f"{POOLING}::test_the_official_client_gets_embeddings", where="EP", others="vlo"),
    row("dimensions", f"{POOLING}::test_dimensions_lengths_and_pieces", "exact; of any model", where="EP", others="vo"),
    row("normalize", f"{POOLING}::test_dimensions_lengths_and_pieces", where="EP", llama="embd_normalize"),
    row("use_activation", f"{POOLING}::test_classes", "exact; of embeddings the same as normalize", where="EPLSR"),
    row("enable_chunked_processing", f"{POOLING}::test_dimensions_lengths_and_pieces",
        "by the request; pieces are weighted by tokens, and the mean gets length 1", where="E", others=""),
    row("task", f"{POOLING}::test_vectors_of_tokens", where="P"),
    *(row(name, f"{POOLING}::test_scores_and_ranks_of_models_of_both_kinds", where="S") for name in (
        "text_1", "text_2", "queries")),
    row("documents", f"{POOLING}::test_scores_and_ranks_of_models_of_both_kinds",
        "exact; texts, or for ranks objects with text alone", where="SR", others="vl"),
    row("query", f"{POOLING}::test_scores_and_ranks_of_models_of_both_kinds", where="R", others="vl"),
    row("top_n", f"{POOLING}::test_scores_and_ranks_of_models_of_both_kinds", "exact; 0: all", where="R", others="vl"),
    row("return_documents", f"{POOLING}::test_scores_and_ranks_of_models_of_both_kinds",
        "Jina's and Cohere's; true unless given", where="R", others=""),
    row("metadata", LABEL, "checked for its type, changes nothing", others="o"),
    *(row(name, LABEL, "checked for its type, changes nothing", where="C", others="o") for name in (
        "safety_identifier", "prompt_cache_key")),
    row("tools", f"{CALLS}::test_a_call", "exact; functions only; in the system message where the template shows none",
        where="C", others="vlo"),
    row("tool_choice", "server/test_forced_calls.py::test_required_calls_follow_their_schemas", "exact", where="C",
        others="vlo"),
    row("parallel_tool_calls", f"{CALLS}::test_calls_in_parallel_unless_they_may_not_be",
        "exact; of several only the first is given", where="C", others="vlo"),
    row("reasoning_effort", f"{CALLS}::test_a_conversation_with_calls_is_rendered",
        "exact; only where the chat template reads it", where="C", others="vlo"),
    row("include_reasoning", f"{CALLS}::test_reasoning_may_be_left_out",
        "exact; completion_tokens_details.reasoning_tokens of `usage` counts it either way", where="C"),
    row("thinking_token_budget", "server/test_thinking_budget.py::test_reasoning_ends_at_its_budget",
        "not with log-probabilities", where="C", llama="thinking_budget_tokens"),
    *(row(name, NEUTRAL, "refused", where="C", others="o") for name in (
        "functions", "function_call", "modalities", "audio", "prediction", "verbosity", "service_tier", "store",
        "web_search_options", "prompt_cache_retention")),
    *(row(name, REFUSED, "refused") for name in (
        "spaces_between_special_tokens", "flat_logprobs", "kv_transfer_params", "vllm_xargs", "extra_args")),
    row("use_beam_search", f"{WHOLE}::test_beam_search_gives_the_beams_of_llm",
        "the same rules (LLM.beam_search too); n at most 10; temperature has no part; refused with stream and with "
        "fields that shape draws"),
    row("length_penalty", f"{WHOLE}::test_beam_search_gives_the_beams_of_llm"),
    row("suffix", f"{FIELDS}::test_suffix",
        "of models with tokens to fill in, see text/infill.py; not with echo; elsewhere an error", where="T",
        others="o"),
    Row("logits_processors", "TC", "vllm_xargs", "", "", "names of installed code, with arguments: processors.md",
        "worker/test_processors.py::test_processors_see_their_sequence_and_decide_the_token_beside_others"),
    *(row(name, STEPS, note, others="l") for name, note in (
        ("typical_p", "exact"), ("top_n_sigma", "exact"), ("xtc_probability", "exact"), ("xtc_threshold", "exact"),
        ("dynatemp_range", "exact"), ("dynatemp_exponent", "exact"), ("mirostat", "exact; penalties still apply"),
        ("mirostat_tau", "exact"), ("mirostat_eta", "exact"),
        ("samplers", "a list of names; penalties and dry come first; by default temperature is first, not last"))),
    *(row(name, "worker/test_dry.py::test_penalties_equal_those_of_loops", others="l") for name in (
        "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n")),
    row("dry_sequence_breakers", "text/test_breakers.py::test_a_longer_breaker_is_what_begins_it_and_the_rest",
        others="l"),
    row("repeat_last_n", "worker/test_gather_property.py::test_gather_equals_the_slow_one",
        "-1 by default; presence and frequency count generated tokens only", others="l"),
    row("repeat_penalty", f"{FIELDS}::test_samplers_of_llama_cpp", "repetition_penalty's other name", others="l"),
)  # fmt: skip


def page() -> str:
    """The whole page."""
    lines = []
    for each in ROWS:
        others = " | ".join(f"`{name}`" if name else "" for name in (each.vllm, each.llama, each.openai))
        lines.append(f"| `{each.name}` | {each.where} | {others} | {each.octavo} | `{each.test}` |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
