"""Write docs/errors.md and docs/errors.zh-CN.md, the catalogue of errors, from the classes and tables of the code.

python docs/make_errors.py          tests/test_errors_page.py fails where the pages are not what this writes
"""

from __future__ import annotations

import inspect
from pathlib import Path

from tunesmith.data.faults import FIXES
from tunesmith.errors import Interrupted, TunesmithError, UserError

DOCS = Path(__file__).parent
CHINESE = {  # code -> (what, what to do first)
    "internal": ("我们的错", "请附上崩溃文件报告；设 TUNESMITH_DEBUG=1 可见回溯"),
    "user": ("命令的某个选项", "按提示更改"),
    "usage": ("命令行里不存在或缺少的词", "看 tunesmith VERB --help"),
    "recipe": ("配方里的键、值或其组合", "更改所指的键；所有问题一次列出"),
    "data": ("数据文件或某一行（文件:行）", "改正该行，或 data.on_bad_row=drop 丢弃并计数"),
    "template": ("无法用来训练的对话模板", "data.template: plain，或改正模板"),
    "model": ("模型文件夹、配置、权重或分词器", "补全或重新下载该文件夹"),
    "folder": ("运行文件夹已存在、缺失、被占用或不可写", "--resume 继续，或 output=另一处"),
    "checkpoint": ("检查点校验不过，或不属于这个配方与数据", "用原来的配方与数据继续，或重新开始"),
    "out_of_memory": ("预测放不下，或最小微批次仍然内存不足", "tunesmith plan 会给出放得下的配方"),
    "diverged": ("连续多步没有有限的损失与梯度", "降低 optim.lr，查看 events.jsonl 里列出的行"),
    "disk_full": ("磁盘没有空间保存必须保留的东西", "腾出空间后 --resume"),
    "certificate": ("合并后的模型与训练的模型回答不一致", "导出 adapter，或用更高精度合并"),
    "interrupted": ("应要求停止（Ctrl-C、SIGTERM、--stop-after）", "tunesmith train RECIPE --resume"),
}
FIRST = {  # code -> what to do first, in English; what each message says itself is nearer
    "internal": "report it with the crash file; TUNESMITH_DEBUG=1 shows the traceback",
    "user": "change the option as the message says",
    "usage": "see tunesmith VERB --help",
    "recipe": "change the keys it names; all problems are told at once",
    "data": "mend the row, or leave such rows out, counted: data.on_bad_row=drop",
    "template": "data.template: plain, or mend the template",
    "model": "complete the folder or download it again",
    "folder": "--resume goes on with it, output= takes another",
    "checkpoint": "resume with the recipe and data it was made with, or start anew",
    "out_of_memory": "tunesmith plan names a recipe that fits",
    "diverged": "lower optim.lr; look at the rows named in events.jsonl",
    "disk_full": "free space, then --resume",
    "certificate": "export the adapter, or merge in a wider dtype",
    "interrupted": "tunesmith train RECIPE --resume",
}


def classes() -> list[type[TunesmithError]]:
    """Every class of the tree, ours first, in the order in which it is written down."""
    found: list[type[TunesmithError]] = [TunesmithError, UserError]
    for base in (UserError, TunesmithError):
        found += [one for one in base.__subclasses__() if one not in found]
    return [one for one in found if one.__module__ == "tunesmith.errors" and one is not Interrupted] + [
        Interrupted
    ]


def english() -> str:
    """The English page."""
    rows = [
        f"| `{one.code}` | {one.exit_code} | {one.__name__} | {(inspect.getdoc(one) or '').splitlines()[0]} | "
        f"{FIRST[one.code]} |"
        for one in classes()
    ]
    rows.append(
        f"| `usage` | 2 | | A word of the command line that does not exist, or is missing. | {FIRST['usage']} |"
    )
    return "\n".join(
        [
            "# What can go wrong", "", "[中文](errors.zh-CN.md)", "",
            "Every error says where, what and what to do, all problems at once; with `--json` it is one object,",
            '`{"error": {"code", "problems": [{"where", "what", "fix"}]}}`. Exit codes: 0 done, 2 you must change',
            "something, 1 our fault, 130 stopped on request and resumable. This page is made by `docs/make_errors.py`;",
            "more than 350 bad inputs and what each is told stand in `tests/faults/bad_*.py`.", "",
            "| code | exit | class | about | first thing to do |", "|---|--:|---|---|---|", *rows, "",
            "## Why a row is not learnt from", "",
            "As they stand in `ledger.json`, in `tunesmith data check` and in the error of `on_bad_row: error`.", "",
            "| reason | what to do |", "|---|---|", *(f"| `{reason}` | {fix} |" for reason, fix in FIXES.items()), "",
        ]
    )  # fmt: skip


def chinese() -> str:
    """The Chinese page: reasons keep their names, which are those of the files."""
    rows = [f"| `{one.code}` | {one.exit_code} | {' | '.join(CHINESE[one.code])} |" for one in classes()]
    rows.append(f"| `usage` | 2 | {' | '.join(CHINESE['usage'])} |")
    return "\n".join(
        [
            "# 可能出的错", "", "[English](errors.md)", "",
            "每个错误都说明在哪里、是什么、怎么办，所有问题一次列出；加 `--json` 时是一个对象，",
            '`{"error": {"code", "problems": [{"where", "what", "fix"}]}}`。退出码：0 完成，2 需要你更改，',
            "1 我们的错，130 应要求停止、可继续。本页由 `docs/make_errors.py` 从代码生成；",
            "350 多种坏输入及其回答见 `tests/faults/bad_*.py`。", "",
            "| 代码 | 退出码 | 关于 | 先做什么 |", "|---|--:|---|---|", *rows, "",
            "## 为什么某一行不被学习", "",
            "这些原因出现在 `ledger.json`、`tunesmith data check` 和 `on_bad_row: error` 的错误里。", "",
            "| 原因 | 怎么办（原文） |", "|---|---|", *(f"| `{reason}` | {fix} |" for reason, fix in FIXES.items()), "",
        ]
    )  # fmt: skip


def pages() -> dict[str, str]:
    """File names and what belongs into them."""
    return {"errors.md": english(), "errors.zh-CN.md": chinese()}


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
