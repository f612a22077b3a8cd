"""The template of base models that have none."""

import pytest
from transformers import PreTrainedTokenizerFast

from tests.data.families import FAMILIES
from tunesmith.data.records import Chat, Message
from tunesmith.data.render import Rendered, render
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import TemplateError

MESSAGES = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello!"))


def base_tokenizer(name: str = "chatml", bos: bool = False, **names: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer without a template that has a BOS; with `bos` it begins each text with it by itself."""
    from tokenizers.processors import TemplateProcessing

    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    backend = tokenizer.backend_tokenizer
    token = family.bos or family.special[1]
    if bos:
        backend.post_processor = TemplateProcessing(
            single=f"{token} $A", special_tokens=[(token, backend.token_to_id(token))]
        )
    named = {"eos_token": family.eos, "bos_token": token, **names}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **{k: v for k, v in named.items() if v})
    assert made.chat_template is None
    return made


# mutation tried: BOS always; a tokenizer that adds none then gets an untrained habit.
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_plain_adds_only_the_tokenizers_own_bos_and_eos(name: str, bos: bool) -> None:
    tokenizer = base_tokenizer(name, bos)
    template = ChatTemplate.of(tokenizer)
    result = render(Chat(MESSAGES), "a:1", template, "sft", 200, "drop")
    assert isinstance(result, Rendered)
    ids = result.renderings[0].ids.tolist()
    special = [tokenizer.convert_ids_to_tokens(id) for id in ids if id in tokenizer.all_special_ids]
    assert special == ([tokenizer.bos_token] if bos else []) + [tokenizer.eos_token]
    assert template.name == "plain"
    assert template.stop_id == tokenizer.eos_token_id
    text = tokenizer.decode(ids[1:] if bos else ids).lstrip()
    text = text.replace(f"{tokenizer.eos_token} ", tokenizer.eos_token)  # Llama 2 writes a space there
    assert text == f"Be brief.\n\nUser:\nHi\nAssistant:\nHello!{tokenizer.eos_token}\n"
    assert tokenizer.decode(result.renderings[0].ids[result.renderings[0].learnt].tolist()) == (
        f"Hello!{tokenizer.eos_token}"
    )


def test_plain_can_be_asked_for_in_place_of_a_models_own() -> None:
    tokenizer = FAMILIES["llama3"].tokenizer()
    assert ChatTemplate.of(tokenizer, "plain").name == "plain"
    assert ChatTemplate.of(tokenizer, "auto").name == "llama-3"


def test_a_saved_plain_template_is_plain_again() -> None:
    tokenizer = base_tokenizer("mistral", bos=True)
    first = ChatTemplate.of(tokenizer)
    tokenizer.chat_template = first.source
    again = ChatTemplate.of(tokenizer)
    assert (again.name, again.source) == ("plain", first.source)
    asked = MESSAGES[:2]
    assert again.prompt_ids(asked) == first.prompt_ids(asked)
    theirs = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in asked], add_generation_prompt=True, return_dict=False
    )
    assert first.prompt_ids(asked) == theirs


def test_a_tokenizer_without_eos_is_refused_with_what_to_do() -> None:
    tokenizer = base_tokenizer("chatml", eos_token=None)
    with pytest.raises(TemplateError, match="no EOS token") as caught:
        ChatTemplate.of(tokenizer)
    assert "eos_token" in caught.value.problems[0].fix


def test_a_vocabulary_without_line_breaks_gets_spaces() -> None:
    from tokenizers import Tokenizer, models

    letters = {letter: n for n, letter in enumerate(["<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyzAUH:! "])}
    backend = Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    template = ChatTemplate.of(tokenizer)
    result = render(Chat(MESSAGES[1:]), "a:1", template, "sft", 200, "drop")
    assert isinstance(result, Rendered)
    assert 0 not in result.renderings[0].ids.tolist()
