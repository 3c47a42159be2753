"""The C reference: include/chunkgrpo.h, section by section, with the header's own comments."""

import re
import textwrap

from prose import indent, inline, restructured

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
FIELD = re.compile(r"([\w *]+?[ *\n]+)(\w+)(\[\d+\])?\s*;\s*(?:/\*(.*?)\*/)?", re.DOTALL)
DECLARATIONS = [  # name, pattern of what stands at a place of the header
    ("macro", r"#define (?P<name>CGRPO_\w+) (?P<value>\S+)"),
    ("enum", r"typedef int32_t (?P<name>cgrpo_\w+);\s*enum \{(?P<body>.*?)\n?\};"),
    ("struct", r"typedef struct (?P<name>cgrpo_\w+) \{\n(?P<body>.*?)\n\} cgrpo_\w+;"),
    ("handle", r"typedef struct (?P<name>cgrpo_\w+) cgrpo_\w+;"),
    ("callback", r"typedef (?P<signature>int \(\*(?P<name>cgrpo_\w+)\)\([^;]*?\));"),
    ("function", r"(?P<signature>(?:const )?\w+ \*?(?P<name>cgrpo_\w+)\([^;{]*?\));(?: /\*(?P<aside>[^*]*)\*/)?"),
]
DECLARATIONS = [(kind, re.compile(pattern, re.DOTALL)) for kind, pattern in DECLARATIONS]
ROLES = {"macro": "macro", "enum": "type", "struct": "struct", "handle": "struct", "callback": "type", "function": "func"}


def uncommented(comment):
    """The text of a comment without its stars."""
    inner = comment[2:-2].lstrip("*")
    lines = [re.sub(r"^ \*(?: |$)| {3}(?=\S)", "", line, count=1) for line in ("  " + inner.strip(" ")).splitlines()]
    first, rest = lines[0].strip(), textwrap.dedent("\n".join(lines[1:]))
    return "\n".join(filter(None, [first, rest])) if first else rest


def flat(text):
    return " ".join(text.split())


class Reference:
    def __init__(self, header):
        self.text = header[header.index('extern "C" {\n#endif') + len('extern "C" {\n#endif') :]
        self.text = self.text[: self.text.rindex("#ifdef __cplusplus")]
        self.intro = uncommented(COMMENT.search(header)[0])
        bare = COMMENT.sub("", self.text)
        self.known = {}
        for kind, pattern in DECLARATIONS:
            for match in pattern.finditer(bare):
                self.known.setdefault(match["name"], f":c:{ROLES[kind]}:`{match['name']}`")
                if kind == "enum":
                    for name in re.findall(r"(CGRPO_\w+) =", match["body"]):
                        self.known[name] = f":c:macro:`{name} <{match['name']}.{name}>`"

    def link(self, name):
        page = re.fullmatch(r"docs/([\w-]+)\.md", name)
        if page:
            return f":doc:`/{page[1]}`"
        return self.known.get(name)

    def sections(self):
        """(number, title, reStructuredText) of each."""
        banner = re.compile(r"/\* =+\n \* (\d+)\. (.*?)\n(.*?)=+ \*/", re.DOTALL)
        parts = banner.split(self.text)[1:]
        for number, title, comment, body in zip(*[iter(parts)] * 4):
            comment = uncommented("/*\n" + comment.rstrip(" *") + "*/")
            yield number, title, restructured(comment, self.link) + "\n" + "".join(self.declarations(body))

    def declarations(self, body):
        at, waiting = 0, ""
        while at < len(body):
            if body[at].isspace():
                at += 1
                continue
            if comment := COMMENT.match(body, at):
                at = comment.end()
                text = restructured(uncommented(comment[0]), self.link)
                alone = re.match(r"\s*\n\n|\s*/\*|\s*$", body[at:])
                if comment[0].startswith("/**") and not alone:
                    waiting = text
                else:
                    yield text + "\n"
                continue
            kind, match = next(
                ((kind, found) for kind, pattern in DECLARATIONS if (found := pattern.match(body, at))), (None, None)
            )
            if match is None:
                raise SystemExit(f"docs: a declaration of the header that the reference cannot read: {body[at:at + 200]}")
            at = match.end()
            if match.groupdict().get("aside"):
                waiting += "\n" + inline(flat(match["aside"]), self.link) + "\n"
            yield getattr(self, kind)(match) + ("\n" + indent(waiting) if waiting else "") + self.members(kind, match)
            waiting = ""

    def macro(self, match):
        return f".. c:macro:: {match['name']}\n\n    ``{match['value']}``\n"

    def enum(self, match):
        return f".. c:type:: int32_t {match['name']}\n"

    def struct(self, match):
        return f".. c:struct:: {match['name']}\n"

    handle = struct

    def callback(self, match):
        return f".. c:type:: {flat(match['signature'])}\n"

    def function(self, match):
        return f".. c:function:: {flat(match['signature'])}\n"

    def members(self, kind, match):
        if kind == "struct":
            return "\n" + "".join(self.fields(match["body"]))
        if kind == "enum":
            return "\n" + "".join(self.enumerators(match["body"]))
        return "\n"

    def fields(self, body):
        at = 0
        while at < len(body):
            if body[at].isspace():
                at += 1
            elif comment := COMMENT.match(body, at):
                yield indent(inline(flat(comment[0][2:-2]), self.link)) + "\n\n"
                at = comment.end()
            else:
                match = FIELD.match(body, at)
                field = flat(match[1]).replace("* ", "*") + ("" if flat(match[1]).endswith("*") else " ") + match[2]
                yield indent(f".. c:member:: {field}{match[3] or ''}\n\n")
                if match[4]:
                    yield indent(inline(flat(match[4]), self.link), 8) + "\n\n"
                at = match.end()

    def enumerators(self, body):
        """A comment stands above its enumerator, or behind it on its line."""
        pattern = re.compile(r"(?P<above>(?:\s*/\*(?:(?!\*/).)*\*/)*)\s*(?P<name>CGRPO_\w+) = (?P<value>\d+),?"
                             r"(?P<behind> */\*(?:(?!\*/).)*\*/)?", re.DOTALL)
        for match in pattern.finditer(body):
            above, behind = (COMMENT.findall(match[part] or "") for part in ("above", "behind"))
            for comment in above[:-1]:
                yield indent(inline(flat(comment[2:-2]), self.link)) + "\n\n"
            said = " ".join([f"``{match['value']}``", *(inline(flat(c[2:-2]), self.link) for c in above[-1:] + behind)])
            yield indent(f".. c:macro:: {match['name']}\n\n") + indent(said, 8) + "\n\n"
