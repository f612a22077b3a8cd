"""Each rule speaks where it should, and is silent where text is fine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.doctor.test_check import doctor, finding, row, rules, write
from tunesmith.data.doctor import language, text_faults, wording
from tunesmith.data.doctor.answers import cut_off
from tunesmith.data.doctor.custom import load_own
from tunesmith.data.doctor.examine import check
from tunesmith.data.doctor.leakage import HeldText
from tunesmith.data.doctor.look import finders
from tunesmith.data.doctor.near import Sketches, Units, groups, overlap, shingles
from tunesmith.data.doctor.pieces import Piece, apply
from tunesmith.data.doctor.private import is_card_number, is_identity_number, personal
from tunesmith.data.doctor.rules import load_rules
from tunesmith.errors import UserError
from tunesmith.recipe import Data

RULES = load_rules()


def mended(find, text: str, role: str = "assistant") -> str:
    return apply(text, find(Piece("", role, text)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("打 13812345678 找我", "打 [PHONE] 找我"),
        ("我的电话是13812345678吗", "我的电话是[PHONE]吗"),  # mutation tried: patterns without re.ASCII
        ("拨打010-62345678咨询，邮箱lin.tao@shop.cn即可", "拨打[PHONE]咨询，邮箱[EMAIL]即可"),
        ("+86 138-1234-5678", "[PHONE]"),
        ("call (415) 867-5309 now", "call [PHONE] now"),
        ("身份证 11010519491231002X。", "身份证 [ID]。"),
        ("lin.tao@shop.com.cn", "[EMAIL]"),
        ("卡号 6222 0212 3456 7894", "卡号 [CARD]"),
        ("4532015112830366", "[CARD]"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert mended(personal, text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "11010519491231002", "110105194912310021", "13812345678901", "3.13812345678", "a@b", "you@example.com",
        "4532015112830367", "1234567812345670", "x = 12+30 = 42", "2024-01-15 to 2024-02-15", "0.1381234567",
        "1,381,234,567", "ISBN 9787301012345", "16 8 4 2 1 0 3 5 7 9 11 13 15",
    ],
)  # fmt: skip
def test_numbers_that_are_nobodys_are_left_alone(text: str) -> None:
    assert mended(personal, text) == text


# mutation tried: the check digit's table begins with 0
def test_check_digits_count() -> None:
    assert is_identity_number("11010519491231002X")
    assert not any(is_identity_number(f"11010519491231002{d}") for d in "0123456789")
    assert not is_identity_number("11010519491331002X")
    assert is_card_number("4111111111111111") is False  # too even to be anybody's
    assert sum(is_card_number(f"453201511283036{d}") for d in range(10)) == 1


def test_what_is_shown_of_personal_data_does_not_tell_it(tmp_path: Path) -> None:
    report = doctor(
        write(tmp_path / "a.jsonl", [row("q"), row("r", "write to lin.tao@shop.cn or 13812345678")])
    )
    (example,) = finding(report, "personal_data").examples
    assert "lin.tao" not in example.what + example.excerpt
    assert "l***@shop.cn" in example.what
    assert "138****5678" in example.what, "all that a row holds is told"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("cafÃ© crÃ¨me", "café crème"),
        ("itâ€™s", "it’s"),
        ("浣犲ソ涓栫晫", "你好世界"),
        ("ä½\xa0å¥½", "你好"),
        ("½ñÌìÌìÆøÔõÃ´Ñù", "今天天气怎么样"),  # ftfy makes Russian of a part of it
        ("ÈçºÎÓÃ Python ¶ÁÈ¡ÎÄ¼þ£¿", "如何用 Python 读取文件？"),
    ],
)
def test_mojibake_is_put_right(text: str, right: str) -> None:
    assert mended(text_faults.mojibake, text) == right


# mutation tried: without _begins_as_gbk
@pytest.mark.parametrize("text", ["浠婂ぉ澶╂皵鎬庝箞鏍�", "濡備綍鐢? Python"])
def test_mojibake_that_has_lost_a_part_is_named_and_left(text: str) -> None:
    (mark,) = text_faults.mojibake(Piece("", "user", text))
    assert "read as GBK" in mark.what
    assert mark.instead is None


# mutation tried: _gbk_as_latin that does not ask for usual characters
@pytest.mark.parametrize(
    "text",
    [
        "漠漠茫茫，山遥路远",
        "café",
        "São Paulo",
        "Ångström 5 £ – “a”",
        "naïve Ã",
        "ÄÖÜß äöü",
        "ÀÁÂÃÄÅ",
        "¿¿¡¡",
    ],
)
def test_text_that_is_right_is_no_mojibake(text: str) -> None:
    assert list(text_faults.mojibake(Piece("", "user", text))) == []


def test_invisible_characters_go_but_emoji_and_persian_keep_their_joiners() -> None:
    assert mended(text_faults.invisible, "a\u200bb\u00adc\ufeff\u202e") == "abc"
    for text in ("👩\u200d💻", "می\u200cخواهم", "क\u094d\u200dष"):
        assert mended(text_faults.invisible, text) == text


def test_html_is_stray_only_where_nobody_speaks_of_it(tmp_path: Path) -> None:
    assert mended(text_faults.stray_html, "Tom &amp; Jo<br>&nbsp;x") == "Tom & Jo\n x"
    for text in ("a <b and c> d", "use the <b> tag in HTML", "```\n<p>x</p>\n```", "R&D; AT&T", "x<y>z"):
        assert mended(text_faults.stray_html, text) == text
    rows = [row("write a web page", "<p>hello</p>"), row("tell a story", "<p>hello</p>")]
    assert finding(doctor(write(tmp_path / "a.jsonl", rows)), "stray_html").count == 1


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("嗯嗯，好的。", "好的。"), ("好的，啊，我知道了", "好的，我知道了"), ("Um, I think, uh, so.", "I think, so."),
        ("好啊", "好啊"), ("嗯。", "嗯。"), ("啊里巴巴", "啊里巴巴"), ("The ER is full, sir.", "The ER is full, sir."),
        ("to err, is human", "to err, is human"), ("hum, a tune", "hum, a tune"), ("你在哪儿啊？", "你在哪儿啊？"),
    ],
)  # fmt: skip
def test_fillers_go_where_they_stand_alone(text: str, clean: str) -> None:
    assert mended(lambda piece: wording.fillers(RULES, piece), text) == clean


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("我以经到了", "我已经到了"), ("以经济为中心", "以经济为中心"), ("因该是的", "应该是的"),
        ("我门去，因该很好玩", "我们去，应该很好玩"), ("在我门口等", "在我门口等"), ("他门都来了", "他们都来了"),
        ("因该公司破产", "因该公司破产"), ("银行帐户", "银行账户"), ("蚊帐", "蚊帐"), ("做的很好", "做得很好"),
        ("高兴的说着", "高兴地说着"), ("I could of gone", "I could have gone"),
        ("he could of course", "he could of course"), ("Recieved `recieve`", "Received `recieve`"),
    ],
)  # fmt: skip
def test_suspected_typos(text: str, right: str) -> None:
    assert mended(lambda piece: wording.typos(RULES, piece), text) == right


@pytest.mark.parametrize(
    "text",
    [
        "Shipping is calculated by weight and",
        "运费按重量计算，因为",
        "Here it is:\n```python\nx = 1",
    ],
)
def test_answers_that_are_surely_cut_off(text: str) -> None:
    found = cut_off(text)
    assert found is not None
    assert found[0]


@pytest.mark.parametrize(
    "text",
    [
        "Short",
        "all of",
        "x" * 200 + ".",
        "a list:\n- one\n- two and of",
        "Buy it today! " * 12 + "#sale",
        "1. " + "a" * 150,
    ],
)
def test_answers_that_end_as_they_may(text: str) -> None:
    found = cut_off(text)
    assert found is None or not found[0]


def test_languages_are_told_by_script_and_words() -> None:
    assert language.language_of("失眠怎么办") == "zh"
    assert language.language_of("這個問題應該怎麼解決呢") == "zh-Hant"
    assert language.language_of("今日はとても良い天気ですね") == "ja"
    assert language.language_of("How are you and what is it that you want of this?") == "en"
    assert (
        language.language_of("Je ne sais pas ce que vous voulez dans la vie, et les autres non plus") == "fr"
    )
    assert language.language_of("x = 1") is None
    assert not language.differs("zh", "zh-Hant")
    assert language.rare(Counter(zh=3000, ru=4, en=400)) == {"ru": 4}


def test_an_answer_in_another_language_is_told_unless_it_was_asked_for(tmp_path: Path) -> None:
    english = "It is a good idea to sleep early and to avoid coffee in the evening."
    rows = [row("失眠怎么办呢？", english), row("把“失眠怎么办”翻译成英文", english)]
    assert finding(doctor(write(tmp_path / "a.jsonl", rows)), "other_language").count == 1


SENTENCE = "the cat sat on a mat near the old red door while rain fell over all of our quiet little town"
WORDS = SENTENCE.split()


# mutation tried: BANDS = 2
def test_near_duplicates_are_found_in_both_languages_and_different_rows_are_not(tmp_path: Path) -> None:
    chinese = "退货请在七天之内联系客服并提供订单号码和照片我们会在两个工作日之内处理完毕谢谢您的理解和支持"
    rows = [
        row("a question about a cat", " ".join(WORDS * 2)),
        row("a question about a cat", " ".join(WORDS * 2) + " again"),
        row("怎么退货呢", chinese),
        row("怎么退货呢", chinese[:-1] + "啊"),
        row("a question about a dog", " ".join(reversed(WORDS))),
        row("如何换货呢", "".join(reversed(chinese))),
    ]
    report = doctor(write(tmp_path / "a.jsonl", rows))
    found = finding(report, "near_duplicate")
    assert found.count == 2
    assert [e.where.rpartition(":")[2] for e in found.examples] == ["2", "4"]
    assert found.examples[0].what.endswith("the same as row 1")


def test_a_dialogue_that_goes_on_is_no_near_duplicate(tmp_path: Path) -> None:
    long = " ".join(WORDS * 3)
    rows = [row("q one", long), {"prompt": "and", "response": "more of it", "history": [["q one", long]]}]
    assert "near_duplicate" not in rules(doctor(write(tmp_path / "a.jsonl", rows)))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).filter(lambda p: p[0] > p[1]), max_size=20))
def test_groups_name_the_first_row_of_each(pairs: list[tuple[int, int]]) -> None:
    found = groups(pairs)
    assert all(first < row for row, first in found.items())
    for row_, other in pairs:
        assert found.get(row_, row_) == found.get(other, other)


def test_the_sketch_estimates_the_overlap() -> None:
    units, sketches = Units(), Sketches()
    words = [f"w{i}" for i in range(400)]
    sets = [shingles(units.of(" ".join(words[a : a + 300])), 3) for a in (0, 20, 90)]
    for i, a in enumerate((0, 20, 90)):
        sketches.add(i, " ".join(words[a : a + 300]))
    assert overlap(sets[0], sets[1]) == pytest.approx(278 / 318)
    assert (1, 0) in set(sketches.pairs(0.8))
    assert np.array_equal(units.of("A b, C!"), units.of("a B c"))


# mutation tried: LEAST_SHARE = 0
def test_questions_of_validation_and_tasks_are_found_in_training(tmp_path: Path) -> None:
    asked = "If a train leaves the town at noon and drives for three hours, how far does it come?"
    train = [
        row(f"Tell me. {asked} Thanks.", "180"),
        row("If a train leaves the town at noon and drives away", "so"),
    ]
    held = write(tmp_path / "v.jsonl", [row(asked, "it depends on its speed")])
    report = doctor(write(tmp_path / "a.jsonl", train), validation=held)
    assert finding(report, "leak_of_validation").count == 1
    assert f"{held}:1" in finding(report, "leak_of_validation").examples[0].what
    task = HeldText("exam", "exam.csv:3", "下列哪一项不是人体的必需氨基酸之一呢请选择")
    data = Data(
        train=write(tmp_path / "b.jsonl", [row("下列哪一项不是人体的必需氨基酸之一呢？请选择。")]),
        validation=None,
    )
    (example,) = check(data, tasks=[task]).finding("leak_of_task").examples  # type: ignore[union-attr]
    assert example.what == "holds 100% of the question at exam.csv:3"


def test_a_refusal_and_a_hand_over_are_told(tmp_path: Path) -> None:
    rows = [
        row("a", "As an AI language model, I cannot have opinions."), row("b", "抱歉，我无法回答这个问题。"),
        row("c", "好的，正在为您转人工。"), row("d", "As an AI engineer, she can."),
    ]  # fmt: skip
    report = doctor(write(tmp_path / "a.jsonl", rows))
    assert finding(report, "refusal").count == 2
    assert finding(report, "unfit:handed_to_a_person").count == 1


def test_a_source_or_a_task_that_drowns_the_others_is_told(tmp_path: Path) -> None:
    big = write(
        tmp_path / "a.jsonl",
        [
            row(
                f"question {i}",
                f"answer {i}",
            )
            | {"task": "qa"}
            for i in range(900)
        ],
    )
    small = write(
        tmp_path / "b.jsonl", [row(f"other {i}", f"thing {i}") | {"task": "sum"} for i in range(30)]
    )
    report = doctor((big, small))
    assert finding(report, "unbalanced_source").examples[0].where == big
    assert finding(report, "unbalanced_task").examples[0].where == "task=qa"
    assert finding(report, "small_task").examples[0].what == "30 rows"
    weighted = doctor(({"path": big, "weight": 1}, {"path": small, "weight": 1}))
    assert "unbalanced_source" not in rules(weighted)


def test_a_tag_column_that_no_row_has_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("q") | {"age": 3}])
    assert (
        finding(doctor(path, tags=["age", "sexx"]), "missing_tag_column").examples[0].what
        == "no row has 'sexx'"
    )


def test_the_model_decides_between_suspects(tmp_path: Path) -> None:
    def score(texts):
        return [9.0 * ("的说" in text) + len(text) for text in texts]

    path = write(tmp_path / "a.jsonl", [row("他高兴的说着话", "银行帐户")])
    found = check(Data(train=path, validation=None), score=score).finding("typo")
    assert found is not None
    assert [e.what for e in found.examples] == ["'高兴的说着', probably '高兴地说着', by 9.0 nats"]


def test_rules_can_be_changed_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "fillers: [lah]\nunfit:\n  rude: {pattern: damn, in: answers}\ntypos: {布署: null}\n"
    )
    found = load_rules([tmp_path / "r.yaml"])
    find = finders(found, None)
    assert next(find["filler_word"](Piece("", "user", "Lah, ok")), None)
    assert not next(find["filler_word"](Piece("", "user", "um, ok")), None)
    assert {rule.name for rule in found.unfit} >= {"rude", "handed_to_a_person"}
    assert len(found.typos) == len(RULES.typos) - 1


@pytest.mark.parametrize(
    "text",
    [
        "filler: [a]",
        "unfit: {a: {pattern: '('}}",
        "unfit: {a: {pattern: 'x*'}}",
        "typos: {a: '\\9'}",
        "[",
        "3",
        "near: 7",
        "\x00",
    ],
)
def test_wrong_rules_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError):
        load_rules([tmp_path / "r.yaml"])


@pytest.mark.parametrize("code", ["", "x = ", "1/0", "def other(): pass"])
def test_wrong_code_is_told(tmp_path: Path, code: str) -> None:
    (tmp_path / "r.py").write_text(code)
    with pytest.raises(UserError):
        load_own([tmp_path / "r.py"])


def test_a_rule_of_ones_own_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(
        "def find_shouting(text, role):\n    return 'is loud' if text.isupper() else None\n"
    )
    path = write(tmp_path / "a.jsonl", [row("HELLO"), row("hello")])
    report = check(Data(train=path, validation=None), own=load_own([tmp_path / "r.py"]))
    assert report.finding("shouting").examples[0].what == "turn 0: is loud"  # type: ignore[union-attr]


@given(st.text(max_size=60))
def test_no_text_makes_a_rule_fail(text: str) -> None:
    for role in ("user", "assistant", "text"):
        piece = Piece("", role, text)  # type: ignore[arg-type]
        for find in finders(RULES, None).values():
            list(find(piece))
        list(wording.typos(RULES, piece))
        list(wording.unfit(RULES, piece))
        list(text_faults.stray_html(piece))
    cut_off(text)
    language.language_of(text)
