"""From the plain prose of docstrings and of the header's comments to reStructuredText.

    a paragraph       as it is; `code`, names that the site knows and arXiv numbers become links
    name   what it is and, where the columns of a block are two, a list of definitions
    - an item         a list
        indented      a program or a formula
"""

import ast
import re
import textwrap

CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
ARXIV = re.compile(r"\barXiv[ \n](\d{4}\.\d{4,5})\b")
ROW = re.compile(r"^([^\s=()](?:[^=()]*?[^\s=()])?) {2,}(\S.*)$")
ITEM = re.compile(r"^(?:-|\d+\.) +")


def escaped(text):
    text = text.replace("\\", "\\\\").replace("*", "\\*").replace("|", "\\|").replace("`", "\\`")
    return re.sub(r"_(?!\w)", r"\\_", text)


def inline(text, link):
    """One run of prose. `link(name)` gives the role of a name that the site knows, else None."""
    pieces, end = [], 0
    words = re.compile(rf"{CODE.pattern}|{ARXIV.pattern}|\b(?:cgrpo_\w+|CGRPO_\w+)\b|\bdocs/[\w-]+\.md\b")
    for match in words.finditer(text):
        code, arxiv = match[1], match[2]
        name = " ".join((code or match[0]).split())
        role = link(name)
        if arxiv:
            markup = f"`arXiv {arxiv} <https://arxiv.org/abs/{arxiv}>`__"
        elif role:
            markup = role
        elif code:
            markup = f"``{name}``"
        else:
            continue
        before, after = text[end : match.start()], text[match.end() : match.end() + 1]
        pieces.append(escaped(before))
        if re.search(r"[^\s(\[{/'\"<-]\Z", before or " ") or (pieces and not before and end):
            pieces.append("\\ ")
        pieces.append(markup)
        if re.match(r"[^\s.,:;!?)\]}/'\"-]", after):
            pieces.append("\\ ")
        end = match.end()
    return "".join(pieces) + escaped(text[end:])


def rows(lines):
    """The (name, text) pairs of a block of two columns, or None."""
    found = []
    for line in lines:
        match = ROW.match(line)
        if match and not match[1].endswith((".", ";")):
            found.append([match[1], match[2]])
        elif found and line.startswith("    "):
            found[-1][1] += "\n" + line.strip()
        else:
            return None
    return found


def items(lines):
    found = []
    for line in lines:
        if ITEM.match(line):
            found.append([ITEM.match(line)[0].strip(), ITEM.sub("", line, count=1)])
        elif found:  # clang-format takes the indentation of a long item away
            found[-1][1] += "\n" + line.strip()
        else:
            return None
    return found


def indent(text, by=4):
    return textwrap.indent(text, " " * by)


def definitions(table, link):
    return "\n\n".join(f"{link(name) or f'``{name}``'}\n{indent(inline(text, link))}" for name, text in table)


def program(text, link):
    """What stands indented: a list of two columns, Python, or a formula."""
    table = rows(text.splitlines()) or ()
    if len(table) > 1 and all(re.fullmatch(r"[\w., ]+", name) for name, _ in table):
        return definitions(table, link)
    try:
        python = bool(ast.parse(text).body) and re.search(r"^import|\w\(|^\w+ = ", text, re.MULTILINE)
    except SyntaxError:
        python = False
    return (".. code-block:: python" if python else "::") + "\n\n" + indent(text)


def block(lines, link):
    if lines[0].startswith("  "):
        return program(textwrap.dedent("\n".join(lines)), link)
    if (listed := items(lines)) is not None:
        return "\n".join(f"{'-' if mark == '-' else '#.'} " + indent(inline(t, link), 3).lstrip() for mark, t in listed)
    if (table := rows(lines)) is not None:
        return definitions(table, link)
    # A paragraph may go on as a list or as columns without a blank line.
    for at in range(1, len(lines)):
        rest = lines[at:]
        if ITEM.match(rest[0]) and items(rest) or ROW.match(rest[0]) and rows(rest):
            return block(lines[:at], link) + "\n\n" + block(rest, link)
        if rest[0].startswith("    "):  # the end of what is indented
            end = next((n for n in range(at, len(lines)) if not lines[n].startswith(" ")), len(lines))
            parts = [lines[:at], lines[at:end], lines[end:]]
            return "\n\n".join(block(part, link) for part in parts if part)
    return inline("\n".join(line.strip() for line in lines), link)


def restructured(text, link=lambda name: None):
    """Comment or docstring, without markers and common indentation."""
    blocks, current = [], []
    for line in [*text.strip("\n").expandtabs().splitlines(), ""]:
        if line.strip():
            current.append(line.rstrip())
        elif current:
            blocks.append(current)
            current = []
    joined = []
    for lines in blocks:  # a program may have blank lines in it
        if joined and joined[-1][0].startswith("    ") and lines[0].startswith("    "):
            joined[-1] += ["", *lines]
        else:
            joined.append(lines)
    return "\n\n".join(block(lines, link) for lines in joined) + "\n"
