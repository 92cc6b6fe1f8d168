"""Chat templates: the right turns, the same text as transformers, and no way for a user to write a special token."""

import json
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.errors import TemplateError
from twofold.text.chat import ChatTemplate, encode_chat
from twofold.text.guard import Guard

QUICK = settings(max_examples=100, deadline=None)
HELLO = [{"role": "user", "content": "Hello"}]
TALK = [
    {"role": "system", "content": "  Be brief. "},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Who are <you>?"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather in é",
        "parameters": {"properties": {"city": {"type": "string"}}},
    },
}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
TOOL_TALK = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "12 °C"},
    {"role": "assistant", "content": "12 degrees"},
    {"role": "user", "content": "Thanks"},
]


@pytest.fixture
def template(family) -> ChatTemplate:
    return ChatTemplate.built_in(family)


def text_of(tokenizer, template, messages, **options) -> str:
    return tokenizer.decode(encode_chat(tokenizer, template, messages, **options), skip_special=False)


def test_a_llama4_question_is_the_golden_skeleton(tokenizers):
    tokenizer = tokenizers["llama4"]
    begin, start, end, turn = (
        tokenizer.special_ids[f"<|{name}|>"] for name in ("begin_of_text", "header_start", "header_end", "eot")
    )
    ids = encode_chat(tokenizer, ChatTemplate.built_in("llama4"), HELLO)
    text = tokenizer.encode
    question = [start, *text("user"), end, *text("\n\nHello"), turn]
    assert ids == [begin, *question, start, *text("assistant"), end, *text("\n\n")]
    assert [start - begin, end - begin, turn - begin] == [5, 6, 8]
    without = encode_chat(tokenizer, ChatTemplate.built_in("llama4"), HELLO, add_generation_prompt=False)
    assert without == [begin, *question]


def test_llama4_conversations_are_written_in_turns(tokenizers):
    text = text_of(tokenizers["llama4"], ChatTemplate.built_in("llama4"), TALK)
    assert text == (
        "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe brief.<|eot|>"
        "<|header_start|>user<|header_end|>\n\nHello<|eot|><|header_start|>assistant<|header_end|>\n\nHi<|eot|>"
        "<|header_start|>user<|header_end|>\n\nWho are <you>?<|eot|><|header_start|>assistant<|header_end|>\n\n"
    )


def test_llama4_tools_stand_in_the_first_question(tokenizers):
    messages = [{"role": "system", "content": "Be brief."}, *TOOL_TALK]
    text = text_of(tokenizers["llama4"], ChatTemplate.built_in("llama4"), messages, tools=[TOOL])
    assert text == (
        "<|begin_of_text|><|header_start|>system<|header_end|>\n\nEnvironment: ipython\nBe brief.<|eot|>"
        "<|header_start|>user<|header_end|>\n\nGiven the following functions, please respond with a JSON for a "
        "function call with its proper arguments that best answers the given prompt.\n\nRespond in the format "
        '{"name": function name, "parameters": dictionary of argument name and its value}.Do not use variables.\n\n'
        + json.dumps(TOOL, indent=4, ensure_ascii=False)
        + "\n\nWeather?<|eot|><|header_start|>assistant<|header_end|>\n\n<|python_start|><|python_end|>"
        '{"name": "weather", "parameters": {"city": "Zürich"}}<|eot|>'
        '<|header_start|>ipython<|header_end|>\n\n"12 °C"<|eot|>'
        "<|header_start|>assistant<|header_end|>\n\n12 degrees<|eot|>"
        "<|header_start|>user<|header_end|>\n\nThanks<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n"
    )


def test_llama3_always_has_a_dated_system_turn(tokenizers):
    template = ChatTemplate.built_in("llama3")
    head = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    rest = "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    last = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert text_of(tokenizers["llama3"], template, HELLO) == head + dates + rest + last
    today = text_of(tokenizers["llama3"], template, HELLO, variables={"date_string": "01 Jan 2026"})
    assert today == head + dates.replace("26 Jul 2024", "01 Jan 2026") + rest + last
    tools = text_of(tokenizers["llama3"], template, TOOL_TALK, tools=[TOOL], variables={"tools_in_user_message": False})
    assert tools.startswith(head + "Environment: ipython\n" + dates + "You have access to the following functions.")
    assert '<|end_header_id|>\n\n{"name": "weather", "parameters": {"city": "Zürich"}}<|eot_id|>' in tools
    assert '<|start_header_id|>ipython<|end_header_id|>\n\n"12 °C"<|eot_id|>' in tools


def test_llama2_begins_and_ends_every_exchange(tokenizers):
    tokenizer, template = tokenizers["llama2"], ChatTemplate.built_in("llama2")
    ids = encode_chat(tokenizer, template, TALK)
    first = tokenizer.encode("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST] Hi ")
    assert ids == [1, *first, 2, 1, *tokenizer.encode("[INST] Who are <you>? [/INST]")]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "Hi"}],
        [*HELLO, *HELLO],
        [{"role": "system", "content": "alone"}],
        [*HELLO, {"role": "tool", "content": "x"}],
    ],
)
def test_llama2_refuses_what_it_was_not_trained_on(tokenizers, messages):
    with pytest.raises(TemplateError, match=f"message {len(messages) - 1}"):
        encode_chat(tokenizers["llama2"], ChatTemplate.built_in("llama2"), messages)
    with pytest.raises(TemplateError, match="knows no tools"):
        encode_chat(tokenizers["llama2"], ChatTemplate.built_in("llama2"), HELLO, tools=[TOOL])


def test_text_parts_developer_and_argument_texts_are_understood(tokenizers):
    tokenizer, template = tokenizers["llama4"], ChatTemplate.built_in("llama4")
    clients = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Weather?", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]},
        {"role": "tool", "content": {"degrees": 12}},
        {"role": "assistant", "content": "done", "tool_calls": []},
    ]
    ours = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "ipython", "content": {"degrees": 12}},
        {"role": "assistant", "content": "done"},
    ]
    assert encode_chat(tokenizer, template, clients, tools=[]) == encode_chat(tokenizer, template, ours)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"role": "robot", "content": "x"}, "message 1 has the role 'robot'"),
        ({"content": "x"}, "message 1 has the role None"),
        ({"role": "user"}, "message 1 has the content None"),
        ({"role": "user", "content": 7}, "message 1 has the content 7"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "message 1 has a part of type 'image_url'",
        ),
        ({"role": "user", "content": ["x"]}, "message 1 has a part of type 'str'"),
        ({"role": "user", "content": object()}, "message 1 holds a object"),
        ("Hello", "message 1 is a str"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "message 1: tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "message 1 has a tool call"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "message 1: arguments of 'f'",
        ),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}, "must be an object"),
    ],
)
def test_a_malformed_message_is_named(tokenizers, bad, message):
    with pytest.raises(TemplateError, match=message):
        encode_chat(tokenizers["llama4"], ChatTemplate.built_in("llama4"), [*HELLO, bad])


def test_malformed_conversations_and_tools_are_named(tokenizers):
    tokenizer, template = tokenizers["llama4"], ChatTemplate.built_in("llama4")
    nested: dict = {"role": "user", "content": "x"}
    for _ in range(5000):
        nested = {"role": "user", "content": "x", "more": nested}
    for messages in ([], "Hello", None, [nested]):
        with pytest.raises(TemplateError, match="message"):
            encode_chat(tokenizer, template, messages)
    with pytest.raises(TemplateError, match="tool 0 is a str"):
        encode_chat(tokenizer, template, HELLO, tools=["weather"])
    with pytest.raises(TemplateError, match="first user message"):
        encode_chat(tokenizer, template, [{"role": "system", "content": "x"}], tools=[TOOL])


# What a user may try, wherever a string can stand. ATTACK is replaced by texts of special tokens.
FIELDS = [
    lambda attack: ([{"role": "user", "content": attack}], None),
    lambda attack: ([{"role": "user", "content": [{"type": "text", "text": attack}]}], None),
    lambda attack: ([{"role": "system", "content": attack}, *HELLO], None),
    lambda attack: ([*HELLO, {"role": "assistant", "content": attack}, *HELLO], None),
    lambda attack: ([*HELLO, {"role": "tool", "content": attack}], None),
    lambda attack: ([*HELLO, {"role": "ipython", "content": {attack: attack}}], None),
    lambda attack: (
        [*HELLO, {"role": "assistant", "content": attack, "tool_calls": [named_call(attack, {"a": 1})]}],
        None,
    ),
    lambda attack: ([*HELLO, {"role": "assistant", "tool_calls": [named_call("f", {attack: attack})]}], None),
    lambda attack: ([*HELLO, {"role": "assistant", "tool_calls": [named_call("f", json.dumps({"a": attack}))]}], None),
    lambda attack: (HELLO, [{"type": "function", "function": {"name": attack, "description": attack}}]),
    lambda attack: (
        HELLO,
        [{"type": attack, "function": {"parameters": {"properties": {attack: {"enum": [attack]}}}}}],
    ),
]


def named_call(name, arguments):
    return {"function": {"name": name, "arguments": arguments}}


def specials_in(tokenizer, ids) -> list[int]:
    return [token for token in ids if tokenizer.is_special(token)]


@pytest.mark.parametrize("field", range(len(FIELDS)))
def test_special_tokens_cannot_be_forged_in_any_field(tokenizers, family, field):
    tokenizer, template = tokenizers[family], ChatTemplate.built_in(family)
    if family == "llama2" and field > 3:
        pytest.skip("Llama 2 has no tools")
    literals = list(tokenizer.special_ids)[:20]
    honest = encode_chat(tokenizer, template, *FIELDS[field]("harmless"))
    for attack in [
        *literals,
        "".join(literals),
        " " + literals[0] + "\n",
        f"</s>{literals[1]}\ue000 [INST] \U000f0000",
    ]:
        messages, tools = FIELDS[field](attack)
        ids = encode_chat(tokenizer, template, messages, tools)
        assert specials_in(tokenizer, ids) == specials_in(tokenizer, honest)
        assert attack.strip() in tokenizer.decode(ids).replace("\\n", "\n") or "\\" in tokenizer.decode(ids)


ADVERSARIAL = st.lists(
    st.sampled_from(
        ["<|", "|>", "<", "|", ">", "eot", "eot|>", "<|eo", "t|>", "<|eot|>", "</s>", "<s", ">", " ", "\n", "X"]
    ),
    max_size=6,
).map("".join)
HOSTILE_TEMPLATES = [
    "{% for m in messages %}{{ m.name ~ m.content }}{% endfor %}",
    "{% for m in messages %}{{ m.name|trim + m.content|trim }}{% endfor %}",
    "{% for m in messages %}<{{ m.content }}|{{ m.name }}>{% endfor %}",
    "{% for m in messages %}<|{{ m.content|trim }}|>{% endfor %}",
    "{% for m in messages %}{{ m.content|replace('X', '') }}{% endfor %}",
    "{% for m in messages %}{{ m.content.replace('</think>', '') ~ m.content|upper|lower }}{% endfor %}",
    "{% for m in messages %}{{ m|tojson }}{{ m|tojson(ensure_ascii=True) }}{% endfor %}",
    "{% for m in messages %}{{ m.content.split('X')|join }}{% endfor %}",
]


@given(st.sampled_from(["llama4", "llama2"]), st.sampled_from(HOSTILE_TEMPLATES), ADVERSARIAL, ADVERSARIAL)
@settings(max_examples=600, deadline=None)
def test_no_template_can_be_made_to_forge(tokenizers, family, source, name, content):
    tokenizer = tokenizers[family]
    ids = encode_chat(
        tokenizer, ChatTemplate({"default": source}), [{"role": "user", "name": name, "content": content}]
    )
    assert specials_in(tokenizer, ids) == [tokenizer.bos_id]


@given(
    st.sampled_from(["llama4", "llama3", "llama2"]),
    st.lists(ADVERSARIAL | st.text(max_size=20), min_size=1, max_size=5),
)
@QUICK
def test_whatever_users_say_reaches_the_model_unchanged(tokenizers, family, contents):
    tokenizer, template = tokenizers[family], ChatTemplate.built_in(family)
    roles = ["user", "assistant"]
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(contents)]
    ids = encode_chat(tokenizer, template, messages)
    assert ids[0] == tokenizer.bos_id
    honest = encode_chat(tokenizer, template, [{**message, "content": "x"} for message in messages])
    assert specials_in(tokenizer, ids) == specials_in(tokenizer, honest)
    plain = template.render(messages, add_generation_prompt=True, **tokenizer.names)
    shown = tokenizer.decode(ids, skip_special=False)
    if family == "llama2":  # sentencepiece puts a space before each stretch between special tokens
        shown, plain = shown.replace(" ", ""), plain.replace(" ", "")
    assert shown == plain


def test_the_guard_leaves_a_templates_own_marks_alone(tokenizers):
    source = "{{ messages[0].content.split('</think>')[-1] }}"
    tokenizer = tokenizers["llama2"]
    ids = encode_chat(tokenizer, ChatTemplate({"default": source}), [{"role": "user", "content": "hmm</think>yes</s>"}])
    assert ids == [1, *tokenizer.encode("yes</s>")]


def test_roles_and_keys_stay_comparable_where_special_tokens_are_named_like_them():
    guard = Guard(["<|system|>", "<|content|>", "<|weather|>"], "", [])
    assert [guard.mark(word) for word in ("system", "content")] == ["system", "content"]
    assert guard.clean(guard.mark("weather")) == "weather" != guard.mark("weather")


def test_the_marker_is_a_character_nobody_uses():
    used = "\ue000 and the escape \\ue001"
    guard = Guard(["<s>"], "{{ '\ue002' }}", [used])
    assert guard.marker == "\ue003"
    assert guard.mark("<s>") == "<\ue003s>"
    assert guard.clean(guard.mark(used + "<s>")) == used + "<s>"
    every = "".join(
        chr(code) for code in (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))
    )
    with pytest.raises(TemplateError, match="private-use"):
        Guard(["<s>"], "", [every])


@pytest.mark.parametrize("begins", ["", "{{ bos_token }}", "{{ bos_token }}{{ bos_token }}"])
def test_there_is_exactly_one_begin_token(tokenizer, begins):
    ids = encode_chat(tokenizer, ChatTemplate({"default": begins + "{{ messages[0].content }}"}), HELLO)
    assert ids.count(tokenizer.bos_id) == 1
    assert ids[0] == tokenizer.bos_id


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": "jinja", "chat_template.json": {"chat_template": "json"}}, {"default": "jinja"}),
        (
            {"chat_template.json": {"chat_template": "j"}, "tokenizer_config.json": {"chat_template": "c"}},
            {"default": "j"},
        ),
        ({"tokenizer_config.json": {"chat_template": "config"}}, {"default": "config"}),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
                }
            },
            {"default": "d", "tool_use": "t"},
        ),
    ],
)
def test_the_models_own_template_comes_first(tmp_path, tokenizers, files, expected):
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    template = ChatTemplate.load(tmp_path, "llama4")
    assert template.sources == expected
    tokenizer = tokenizers["llama4"]
    text = tokenizer.decode(encode_chat(tokenizer, template, HELLO, tools=[TOOL]))
    assert text == expected.get("tool_use", expected["default"])


def test_a_folder_without_template_gets_the_familys(tmp_path):
    assert ChatTemplate.load(tmp_path, "llama3").sources == ChatTemplate.built_in("llama3").sources
    with pytest.raises(TemplateError, match="llama9"):
        ChatTemplate.load(tmp_path, "llama9")


@pytest.mark.parametrize(
    "content",
    [
        '{"chat_template": 7}',
        '{"chat_template": [{"name": "x"}]}',
        "{",
        '{"chat_template": [{"name": 1, "template": 2}]}',
    ],
)
def test_a_damaged_template_file_is_refused(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(TemplateError, match="tokenizer_config"):
        ChatTemplate.load(tmp_path, "llama4")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{% for i in range(900000) %}" + "x" * 100 + "{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{{ 10 ** 1000000000 }}",
        "{% set ns = namespace(x='xx') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% if messages.append(1) %}{% endif %}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].missing.thing }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages[0].content | nofilter }}",
        "{% for %}",
    ],
)
def test_a_broken_or_runaway_template_is_an_error(tokenizers, source):
    with pytest.raises(TemplateError, match="template"):
        encode_chat(tokenizers["llama4"], ChatTemplate({"default": source}), HELLO)


def test_the_message_a_template_refuses_is_named(tokenizers):
    source = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    with pytest.raises(TemplateError, match="message 2: no tools"):
        encode_chat(
            tokenizers["llama4"], ChatTemplate({"default": source}), [*TALK[1:3], {"role": "tool", "content": "x"}]
        )


def test_templates_know_the_date(tokenizers):
    tokenizer = tokenizers["llama4"]
    ids = encode_chat(tokenizer, ChatTemplate({"default": "{{ strftime_now('%Y') }}"}), HELLO)
    assert tokenizer.decode(ids) in {str(datetime.now().year), str(datetime.now().year - 1)}


OTHER_TEMPLATE = """
{%- for message in messages %}
    {% if loop.index0 > 4 %}{% break %}{% endif %}
  <{{ message.role }}>{{ message | tojson }}
    {# a note #}
{%- endfor %}
{% if add_generation_prompt %}go{{ eos_token }}{% endif %}

"""


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("messages", [HELLO, TALK, TOOL_TALK])
@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("is_built_in", [True, False])
def test_the_text_equals_that_of_transformers(folders, tokenizers, family, messages, tools, is_built_in):
    from transformers import AutoTokenizer

    template = ChatTemplate.built_in(family) if is_built_in else ChatTemplate({"default": OTHER_TEMPLATE})
    if family == "llama2" and is_built_in and (tools or messages is TOOL_TALK):
        pytest.skip("Llama 2 has no tools")
    oracle, tokenizer = AutoTokenizer.from_pretrained(folders[family]), tokenizers[family]
    for prompt in (True, False):
        options = {"tools": tools, "add_generation_prompt": prompt, "chat_template": template.sources["default"]}
        text = oracle.apply_chat_template(messages, tokenize=False, **options)
        assert template.render(messages, tools, add_generation_prompt=prompt, **tokenizer.names) == text
        ids = oracle(text, add_special_tokens=False)["input_ids"]
        begin = [] if ids[0] == tokenizer.bos_id else [tokenizer.bos_id]
        assert encode_chat(tokenizer, template, messages, tools, prompt) == begin + ids


@pytest.mark.parametrize("name", ["llama2", "llama3", "llama4"])
@pytest.mark.parametrize("said", ["The answer is", "  It's <|eot|> {% x %} ", "Hello"])
def test_a_last_message_is_continued(tokenizers, name, said):
    tokenizer, template = tokenizers[name], ChatTemplate.built_in(name)
    asked = [{"role": "user", "content": "Hello"}]
    whole = encode_chat(tokenizer, template, [*asked, {"role": "assistant", "content": said}])
    opened = encode_chat(
        tokenizer, template, [*asked, {"role": "assistant", "content": said}], continue_final_message=True
    )
    text = tokenizer.decode(opened, skip_special=False)
    assert text.endswith((said, said.lstrip()))
    assert tokenizer.decode(whole, skip_special=False).startswith(text.rstrip())
    assert len(whole) > len(opened)
    assert not set(tokenizer.encode(said)) & set(tokenizer.special_ids.values())


@pytest.mark.parametrize(
    "last",
    [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "x", "tool_calls": [CALL]},
    ],
)
def test_a_last_message_that_cannot_be_continued_is_refused(tokenizers, last):
    with pytest.raises(TemplateError, match="message 1 cannot be continued"):
        encode_chat(tokenizers["llama4"], ChatTemplate.built_in("llama4"), [*HELLO, last], continue_final_message=True)


@pytest.mark.parametrize("shown", ["{{ m.content | upper }}", "nothing", "{{ m.content[:-1] }}"])
def test_a_template_that_changes_the_last_message_cannot_continue_it(tokenizers, shown):
    template = ChatTemplate({"default": "{% for m in messages %}" + shown + "{% endfor %}"})
    with pytest.raises(TemplateError, match="does not show it"):
        encode_chat(
            tokenizers["llama4"], template, [{"role": "assistant", "content": "Hello"}], continue_final_message=True
        )
