"""Writes docs/settings.md, the reference of all settings, from the configuration's classes.

python scripts/settings_page.py
"""

import itertools
from pathlib import Path

from zojax.config.reference import Setting, settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD = """# All settings

What a configuration file sets as `train=TrainConfig(steps=400)`, a command sets as `--set
train.steps=400`. `zojax settings TEXT` prints the same on a terminal. This page is made by
`scripts/settings_page.py` from the docstrings of `zojax.config`.
"""


def page() -> str:
    """The whole page."""
    groups = itertools.groupby(settings(), lambda setting: (_part(setting), setting.kind))
    return HEAD + "".join(_section(part, kind, list(group)) for (part, kind), group in groups)


def _part(setting: Setting) -> str:
    return setting.name.partition(".")[0]


def _section(part: str, kind: str, group: list[Setting]) -> str:
    title = f"{part}, {part}.name={kind}" if kind else part
    rows = [
        f"| `{s.name}` | {_cell(s.takes)} | `{_cell(s.default)}` | {_cell(s.meaning)} |"
        for s in group
    ]
    head = "| setting | takes | default | meaning |\n|---|---|---|---|"
    return "\n".join([f"\n## {title}\n", head, *rows, ""])


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
