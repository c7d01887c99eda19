from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import pytest
import tiny_llama

from capamesh.node.runtime.text_generation import chat_template
from capamesh.node.runtime.text_generation.chat_template import ChatTemplate
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, TooLarge

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'Hi <b>& "é" 😀'},
]


def template(source: str) -> ChatTemplate:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(source, special, lambda: datetime(2026, 3, 4, tzinfo=UTC))


def test_prompt_is_made_of_messages() -> None:
    prompt = template(tiny_llama.TEMPLATE).render(CHAT)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        '<|im_start|>user\nHi <b>& "é" 😀<|im_end|>\n'
        "<|im_start|>assistant\n"
    )
    assert template(tiny_llama.TEMPLATE).render(CHAT, adds_prompt=False).endswith("<|im_end|>\n")


def test_functions_that_templates_of_others_use_are_there() -> None:
    made = template(
        "{{ bos_token }}{%- for m in messages %}\n  {%- if m['role'] == 'user' and m.content is string %}"
        "[{{ loop.index0 }}:{{ m['content'].strip().split(' ')[0] | upper }}]{% endif %}{% endfor %}"
        "{{ strftime_now('%d %b %Y') }}{% if tools %}{{ tools | tojson }}{% endif %}"
        "{% generation %}{{ mood }}{%- endgeneration -%}{{ missing }}{{ eos_token }}"
    )
    said = made.render(CHAT, tools=[{"name": "é<"}], extra={"mood": "glad"})
    assert said == '<s>[1:HI]04 Mar 2026[{"name": "é<"}]glad</s>'


def test_template_may_refuse_messages() -> None:
    made = template("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequest, match="refuses the messages: roles must alternate"):
        made.render(CHAT)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}",
        "{{ ('a' * 1000000000)|length }}",
        "{{ [1] * 1000000000 }}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.no.such }}",
    ],
)
def test_hostile_template_ends_soon_and_reaches_nothing(source: str) -> None:
    with pytest.raises(InvalidRequest, match="does not take these messages"):
        template(source).render(CHAT)


@pytest.mark.parametrize(
    "expression",
    [
        "messages.__class__",
        "messages[0]['__class__']",
        "raise_exception.__globals__",
        "strftime_now.__closure__",
        "raise_exception|attr('__globals__')",
        "messages.append.__self__",
    ],
)
def test_template_reaches_no_inner_attributes(expression: str) -> None:
    assert template("{{ " + expression + " }}").render(CHAT) == ""


def test_messages_and_prompt_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_MESSAGES", 2)
    monkeypatch.setattr(chat_template, "MAX_PROMPT_CHARACTERS", 20)
    made = template("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert made.render([{"content": "x" * 10}] * 2) == "x" * 20
    with pytest.raises(TooLarge, match="3 messages"):
        made.render([{"content": "x"}] * 3)
    with pytest.raises(TooLarge, match="22 characters"):
        made.render([{"content": "x" * 11}] * 2)


@pytest.mark.parametrize("indent", ["1000000000", "-1", "17", "'  '", "1e9"])
def test_template_indents_json_by_few_spaces(indent: str) -> None:
    whole = template("{{ messages|tojson(indent=16) }}").render([{"a": 1}])
    assert whole == json.dumps([{"a": 1}], indent=16)
    with pytest.raises(InvalidRequest, match=r"indents JSON by .* 0 to 16 spaces"):
        template("{{ messages|tojson(indent=" + indent + ") }}").render([{"a": 1}])


def test_json_that_grows_by_its_indents_is_bounded() -> None:
    value: object = [1] * 20_000
    for _ in range(200):
        value = [value]
    with pytest.raises(TooLarge, match="more than 4194304 characters"):
        template("{{ messages|tojson(indent=4) }}").render([{"tools": value}])
    for _ in range(2_000):
        value = [value]
    with pytest.raises(InvalidRequest, match=r"nested too deep|does not take"):
        template("{{ messages|tojson(indent=4) }}").render([{"tools": value}])


def test_template_that_is_none_is_the_models_fault() -> None:
    for source in ("{% for %}", "{{ x", "{% unknown %}"):
        with pytest.raises(ModelInvalid, match="cannot be read"):
            template(source)
    with pytest.raises(ModelInvalid, match="1048577 characters"):
        template("x" * (2**20 + 1))


def test_node_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minijinja", None)
    with pytest.raises(ModelInvalid, match=r"'minijinja'.*pip install 'capamesh\[generation\]'"):
        template("")
