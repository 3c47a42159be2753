"""The Markdown pages of the tree as pages of the site: links lead to other pages, to a copy of a file, or nowhere."""

import re
import shutil
from pathlib import PurePosixPath

LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^()\s]+)\)")
PAGES = {  # of the tree beside docs/*.md: their place in the site
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
    "Benchmarks/README.md": "benchmarks",
    "Tests/fixtures/README.md": "fixtures",
    "Tests/gpu/README.md": "gpu-tests",
    "Sources/KernelsCUDA/README.md": "cuda-kernels",
    "Tests/faults/README.md": "faults",
    "Tests/fuzz/README.md": "fuzz",
    "Tests/mutants/README.md": "mutants",
}


def places(root):
    """{path in the tree: docname} of every page."""
    docs = {f"docs/{p.name}": p.stem for p in sorted((root / "docs").glob("*.md")) if p.name != "README.md"}
    return {**PAGES, **docs, "docs/README.md": "index"}


def resolved(page, target):
    """The path in the tree that a link of a page leads to."""
    parts = []
    for part in (PurePosixPath(page).parent / target).parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


class Pages:
    def __init__(self, root, out, source_url=""):
        self.root, self.out, self.source_url = root, out, source_url.rstrip("/")
        self.places = places(root)
        listed = LINK.findall((root / "docs" / "README.md").read_text())
        self.titles = {resolved("docs/README.md", target): title for _, title, target in listed}

    def write(self, page, extra=""):
        """One page of the tree into the site's sources."""
        text = (self.root / page).read_text()
        pieces = re.split(r"(^```.*?^```[^\n]*$)", text, flags=re.MULTILINE | re.DOTALL)
        pieces[::2] = [LINK.sub(lambda m: self.link(page, m), piece) for piece in pieces[::2]]
        (self.out / f"{self.places[page]}.md").write_text("".join(pieces) + extra)

    def link(self, page, match):
        image, text, target = match.groups()
        text = LINK.sub(lambda m: self.link(page, m), text) if "](" in text else text
        if re.match(r"[a-z]+:|#", target):
            return f"{image}[{text}]({target})"
        file, hash, anchor = target.partition("#")
        path = resolved(page, file)
        if path in self.places:
            text = self.titles.get(path, text) if text == target else text
            return f"[{text}](/{self.places[path]}.md{hash}{anchor})"
        if image:
            return f"![{text}](/{self.copied(path, '')})"
        if self.source_url:
            return f"[{text}]({self.source_url}/{path})"
        # A browser shows a text file where it would not show a Swift file.
        return f"[{text}](path:/{self.copied(path, '.txt')})" if (self.root / path).is_file() else text

    def copied(self, path, suffix):
        place = self.out / "files" / f"{path}{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.root / path, place)
        return f"files/{path}{suffix}"
