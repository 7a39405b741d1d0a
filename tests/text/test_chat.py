"""Chats: rendering, and the tokens of the responses."""

import pytest

from softlabels.errors import InvalidData
from softlabels.text import Tokenizer, encode_chat

TEMPLATE = """\
{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
GENERATION = """\
{% for message in messages %}<{{ message.role }}>{% if message.role == 'assistant' %}{% generation %}\
{{ message.content }}</s>{% endgeneration %}{% else %}{{ message.content }}</s>{% endif %}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Largest planet?"},
    {"role": "assistant", "content": "Jupiter."},
    {"role": "user", "content": "And then? ü"},
    {"role": "assistant", "content": "Saturn."},
]


def with_template(template):
    base = Tokenizer.train(["Largest planet? Jupiter. Saturn."] * 9, vocabulary=300)
    return Tokenizer(base.model, base.special, template)


@pytest.mark.parametrize("template", [TEMPLATE, GENERATION])
def test_exactly_the_responses_are_marked(template):
    tokenizer = with_template(template)
    ids, written = encode_chat(tokenizer, CHAT, "chat")
    assert tokenizer.decode(ids[written]).replace("\n", "") == "Jupiter.</s>Saturn.</s>"
    assert tokenizer.decode(ids).replace("\n", "").startswith("<system>Be brief.</s><user>Largest")


def test_responses_are_those_that_transformers_marks():
    from transformers import PreTrainedTokenizerFast

    tokenizer = with_template(GENERATION)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, chat_template=GENERATION)
    rendered = fast.apply_chat_template(CHAT, return_assistant_tokens_mask=True, return_dict=True, tokenize=True)
    ids, written = encode_chat(tokenizer, CHAT, "chat")
    assert rendered["input_ids"] == ids.tolist()
    assert rendered["assistant_masks"] == written.astype(int).tolist()
    assert written.any()


@pytest.mark.parametrize(
    ("template", "messages", "problem"),
    [
        (None, CHAT, "no chat template"),
        ("{{ raise_exception('no system') }}", CHAT, "no system"),
        ("{{ messages[9].content.upper() }}", CHAT, "the chat template fails"),
        ("{{ 1 / 0 }}", CHAT, "ZeroDivisionError"),
        ("{% for %}", CHAT, "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", CHAT, "SecurityError"),
        ("{{ messages | length }}", CHAT, "does not render the first 3 messages to a prefix"),
        (TEMPLATE, [], "not a chat"),
        (TEMPLATE, "hello", "not a chat"),
        (TEMPLATE, [{"content": "x"}], "not a chat"),
        (TEMPLATE, None, "not a chat"),
    ],
)
def test_bad_chats_and_templates_are_named(template, messages, problem):
    with pytest.raises(InvalidData, match=r"chats.jsonl, row 7: .*") as error:
        encode_chat(with_template(template), messages, "chats.jsonl, row 7")
    assert problem in str(error.value)
