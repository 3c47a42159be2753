"""Holds the links of the built site: each leads to a file of it, and to a place in it. Nothing is loaded from elsewhere."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote

LOADS = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag, name) == ("a", "name"):
                self.ids.add(value)
            elif name in ("href", "src") and value:
                (self.loaded if (tag, name) in LOADS else self.links).append(value)


def wrong(site, pages):
    for path, page in pages.items():
        for target in page.links + page.loaded:
            if re.match(r"[a-z]+:|//", target):
                if target in page.loaded and not target.startswith("data:"):
                    yield f"{path.relative_to(site)}: loads {target}"
                continue
            file, _, anchor = target.partition("#")
            place = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            if place.is_dir():
                place /= "index.html"
            if not place.exists():
                yield f"{path.relative_to(site)}: {target}: no such file"
            elif anchor and place in pages and unquote(anchor) not in pages[place].ids:
                yield f"{path.relative_to(site)}: {target}: no such place"


def main(site):
    site = site.resolve()
    docc = site / "swift"  # DocC's pages are made by their script
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html")) if docc not in path.parents}
    found = sorted(set(wrong(site, pages)))
    styles = [path for path in site.rglob("*.css") if docc not in path.parents and re.search(r"url\(['\"]?(?:https?:)?//|@import", path.read_text())]
    found += [f"{path.relative_to(site)}: loads from another host" for path in styles]
    external = sorted({t for page in pages.values() for t in page.links if re.match(r"https?:", t)})
    site.with_name(site.name + "-external.txt").write_text("\n".join(external) + "\n")
    print("\n".join([*found, f"site: {len(pages)} pages, {len(found)} wrong links, {len(external)} addresses elsewhere"]))
    return bool(found)
