"""The fields of requests for generation that are not done: refused by name if they could change the answer, skipped if not. Pure.

Those that are done are in `bodies`. A field that stands in neither is refused, as OpenAI does: nobody knows what it means.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from capamesh.protocol.schema import Mismatch, read
from capamesh.router.requests.generation.fields import Values
from capamesh.router.requests.invalid_parameter import InvalidParameter

_LEAVE_IT: Final = "leave it out"
_TEXTS: Final = "models read and write texts"
_STORED: Final = "nothing is stored; send all messages each time"
_TEMPLATE: Final = "templates of models take it, if any does: use chat_template_kwargs"
_CHATS: Final = "ask /v1/chat/completions for them"
_OWN_TEMPLATE: Final = "the model's own template is taken; /v1/completions takes none"
REFUSED: Final[Mapping[str, tuple[tuple[object, ...], str]]] = {
    "add_generation_prompt": ((True,), _OWN_TEMPLATE),
    "add_special_tokens": ((False,), "send a prompt of tokens to /v1/completions"),
    "allowed_token_ids": ((), "use logit_bias, or a grammar"),
    "audio": ((), _TEXTS),
    "background": ((False,), "answers are not made in the background; leave it out"),
    "bad_words": (([],), "use logit_bias with their tokens"),
    "best_of": ((1,), "leave it out, or use n"),
    "cache_salt": ((), "prompts of different keys are kept apart; leave it out"),
    "chat_template": ((), _OWN_TEMPLATE),
    "context": (([],), "send the messages of before to /api/chat"),
    "continue_final_message": ((False,), "send the text so far as a prompt to /v1/completions"),
    "conversation": ((), _STORED),
    "custom_logit_processor": ((), _LEAVE_IT),
    "detokenize": ((True,), "answers are texts"),
    "documents": (([],), "put their texts into messages"),
    "dry_multiplier": ((0, 0.0), "use frequency_penalty"),
    "dynatemp_range": ((0, 0.0), "use temperature"),
    "early_stopping": ((False,), "it is of beam search, which is not done"),
    "echo": ((False,), "ask /v1/completions for it"),
    "enable_thinking": ((), _TEMPLATE),
    "extra_body": (({},), "put its fields into the body"),
    "function_call": (("none", "auto"), "use tool_choice"),
    "functions": (([],), "use tools"),
    "grammar_lazy": ((False,), "a grammar holds from the beginning"),
    "grammar_triggers": (([],), "a grammar holds from the beginning"),
    "guided_whitespace_pattern": ((), "use guided_regex or guided_grammar"),
    "images": (([],), _TEXTS),
    "include": (([], ["reasoning.encrypted_content"]), _LEAVE_IT),
    "length_penalty": ((1, 1.0), "it is of beam search, which is not done"),
    "logits_processors": (([],), "use logit_bias"),
    "logprobs": ((False,), _CHATS),
    "lora": (([],), "name another model"),
    "lora_path": ((), "name another model"),
    "min_new_tokens": ((0,), "use min_tokens"),
    "mirostat": ((0,), "use top_p or min_p"),
    "mm_processor_kwargs": ((), _TEXTS),
    "modalities": ((["text"],), _TEXTS),
    "n": ((1,), _CHATS),
    "n_predict": ((-1,), "use max_tokens"),
    "n_probs": ((0,), "use logprobs"),
    "no_stop_trim": ((False,), "use include_stop_str_in_output"),
    "penalize_newline": ((), "use logit_bias"),
    "post_sampling_probs": ((False,), _LEAVE_IT),
    "prediction": ((), _LEAVE_IT),
    "previous_response_id": ((), _STORED),
    "prompt": ((), "send the text as a message, or to /v1/completions"),
    "prompt_logprobs": ((), "those of a prompt are not told"),
    "random_seed": ((), "use seed"),
    "reasoning": (({},), _TEMPLATE),
    "reasoning_effort": ((), _TEMPLATE),
    "repeat_last_n": ((-1,), "penalties count the whole prompt and answer; leave it out"),
    "repeat_penalty": ((1, 1.0), "use repetition_penalty"),
    "return_hidden_states": ((False,), _LEAVE_IT),
    "return_token_ids": ((False,), "ask for logprobs"),
    "return_tokens_as_token_ids": ((False,), _LEAVE_IT),
    "safe_prompt": ((False,), "send it as a message of the role system"),
    "samplers": ((), "bias, penalties, temperature, min_p, top_k and top_p are done in this order"),
    "service_tier": (("auto", "default"), _LEAVE_IT),
    "skip_special_tokens": ((True,), "special tokens have no text here"),
    "spaces_between_special_tokens": ((True,), "special tokens have no text here"),
    "stop_regex": ((), "use stop, or a grammar"),
    "stop_sequences": (([],), "use stop"),
    "store": ((False,), _STORED),
    "structural_tag": ((), "use tools, or guided_grammar"),
    "suffix": (("",), "models go on with a text, and fill in none"),
    "system": (("",), "send it as a message of the role system"),
    "t_max_predict_ms": ((), "use max_tokens"),
    "template": (("",), _OWN_TEMPLATE),
    "tfs_z": ((1, 1.0), "use top_p or min_p"),
    "think": ((False,), _TEMPLATE),
    "thinking": (({"type": "disabled"},), _TEMPLATE),
    "thinking_token_budget": ((), _TEMPLATE),
    "top_logprobs": ((0,), _CHATS),
    "top_n_sigma": ((-1, -1.0), "use min_p"),
    "truncate_prompt_tokens": ((), "send a shorter prompt"),
    "truncation": (("disabled",), "leave items out yourself"),
    "typical_p": ((1, 1.0), "use top_p or min_p"),
    "use_beam_search": ((False,), "use n"),
    "verbosity": (("medium",), "ask for it in a message"),
    "vllm_xargs": (({},), _LEAVE_IT),
    "web_search_options": ((), "give the model a tool that searches"),
    "xtc_probability": ((0, 0.0), "use temperature"),
}
"""The fields that could change an answer, with the values that ask for nothing and with what to do instead."""
SKIPPED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("user", "safety_identifier", "metadata", "client_metadata", "request_id"),
            *("chat_id", "session_id"),
        ),
        "the client's own words",
    ),
    **dict.fromkeys(
        (
            *("guided_decoding_backend", "priority", "prompt_cache_retention", "cache_prompt"),
            *("keep_alive", "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu"),
            *("num_thread", "numa", "low_vram", "use_mmap", "use_mlock", "id_slot"),
            *("f16_kv", "vocab_only", "logits_all"),
        ),
        "the way in which a server runs its models",
    ),
    **dict.fromkeys(
        (
            *("mirostat_tau", "mirostat_eta", "dry_base", "dry_allowed_length"),
            *("dry_penalty_last_n", "dry_sequence_breakers", "dynatemp_exponent"),
            *("xtc_threshold", "max_tool_calls"),
        ),
        "of no use without another field, which is refused",
    ),
    **dict.fromkeys(
        (
            *("include_reasoning", "separate_reasoning", "stream_reasoning", "reasoning_format"),
            *("parse_tool_calls", "timings_per_token", "return_progress", "stream_options"),
            *("include_obfuscation", "continuous_usage_stats"),
        ),
        "what is told beside the text",
    ),
}
"""The fields that change no text, with what they are."""
_MISSING: Final = object()
_KNOWN: Final[dict[type[object], dict[str, object]]] = {}
"""What `_hints` has found."""


def taken(values: Values, kind: type[object], *, at: str = "") -> Values:
    """Return `values`, each field of which is one of `kind`, within its bounds, or asks for nothing.

    Raises `InvalidParameter`, which names the field behind `at`: it could change the answer, and is not done, or is not known.
    """
    hints = _hints(kind)
    for name, value in values.items():
        if value is None:
            continue
        hint = hints.get(name, _MISSING)
        if hint is _MISSING:
            _check_foreign(name, value, hints, at)
        elif hint is not None:
            try:
                read(value, cast("type[object]", hint))
            except Mismatch as exc:
                raise InvalidParameter(
                    f"{at}{name}", f"{at}{name}{str(exc).removeprefix('it')}"
                ) from None
    return values


def known(values: Values, kind: type[object]) -> dict[str, Any]:
    """Return the fields that mean something in a body: those of a data set's line may have any others beside them."""
    hints = _hints(kind)
    return {
        name: values[name] for name in values if name in hints or name in REFUSED or name in SKIPPED
    }


def _check_foreign(name: str, value: object, hints: Mapping[str, object], at: str) -> None:
    if name in SKIPPED:
        return
    found = REFUSED.get(name)
    if found is None:
        near = difflib.get_close_matches(name[:80], hints, 1)
        hint = f"did you mean {at}{near[0]}?" if near else _LEAVE_IT
        raise InvalidParameter(
            f"{at}{name[:80]}",
            f"{at}{name[:80]} is not known here, and could change the answer: {hint}",
        )
    harmless, instead = found
    if isinstance(value, dict):
        value = {key: each for key, each in value.items() if each is not None}
    if not any(type(value) is type(each) and value == each for each in harmless):
        raise InvalidParameter(f"{at}{name}", f"{at}{name} is not supported here: {instead}")


def _hints(kind: type[object]) -> Mapping[str, object]:
    """Return the type of each field that may be left out and is a plain value; None: it has a reader of its own."""
    found = _KNOWN.get(kind)
    if found is None:
        found = _KNOWN[kind] = {}
        for name, hint in get_type_hints(kind, include_extras=True).items():
            inner = get_args(hint)[0] if get_origin(hint) is NotRequired else None
            found[name] = inner if _is_plain(inner) else None
    return found


def _is_plain(hint: object) -> bool:
    """Return whether a type is null beside one plain type, or a list of one."""
    options = [each for each in get_args(hint) if each is not type(None)]
    if len(options) != 1:
        return False
    base: Any = options[0]
    while get_origin(base) in {Annotated, list}:
        base = get_args(base)[0]
    return base in {int, float, bool, str} or get_origin(base) is Literal
