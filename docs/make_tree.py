"""Write the file tree of both READMEs from the modules' docstrings: python docs/make_tree.py [--check]."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "tunesmith"
BEGIN, END = "<!-- tree -->", "<!-- /tree -->"
READMES = ("README.md", "README.zh-CN.md")


def tree() -> str:
    """One line a file: its name and what it is for."""
    lines = ["```", "src/tunesmith/"]
    for path in sorted(SOURCE.rglob("*.py"), key=lambda p: (p.parent != SOURCE, p.parent, p.name)):
        name = path.relative_to(SOURCE)
        if path.name == "__init__.py" and path.parent != SOURCE:
            continue
        purpose = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[:1]
        lines.append(f"  {name!s:<32} {''.join(purpose).rstrip('.')}".rstrip())
    lines.append(
        "  bundled/{model,data,recipes}     the base model, data and recipe of the demo, made by examples/"
    )
    return "\n".join([*lines, "```"])


def main() -> int:
    """Write, or with --check only say whether the READMEs are up to date."""
    stale = []
    for name in READMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        before, rest = text.split(BEGIN, 1)
        after = rest.split(END, 1)[1]
        fresh = f"{before}{BEGIN}\n{tree()}\n{END}{after}"
        if fresh != text:
            stale.append(name)
            if "--check" not in sys.argv:
                (ROOT / name).write_text(fresh, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"the file tree is stale in {', '.join(stale)}: python docs/make_tree.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
