"""An HTML page read back: what a browser would show, without a browser."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "wbr"}


@dataclass
class ReadCell:
    """Words, the number that sorts them, and whether the column is of figures."""

    text: str
    number: float | None
    kind: str


@dataclass
class ReadTable:
    """One table."""

    id: str
    headings: list[str] = field(default_factory=list)
    rows: list[list[ReadCell]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """Of each row: `struck` or `absent` where it is no result."""
    choices: dict[str, list[str]] = field(default_factory=dict)
    """By column, what rows can be filtered by."""
    caption: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Element:
    """A start tag with its attributes and the text inside it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


class ReadPage(HTMLParser):
    """Tables by the name in their id, charts, and every element with its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, ReadTable] = {}
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self._table: ReadTable | None = None
        self.feed(str(html))  # a Markup would escape what is added to its parts
        self.close()
        assert self._open == [], self._open

    def texts(self, tag: str) -> list[str]:
        """The text of every element of a kind."""
        return [element.text.strip() for element in self.elements if element.tag == tag]

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [element.attributes[name] for element in self.elements if name in element.attributes]

    @property
    def ids(self) -> list[str]:
        """In the order of the page."""
        return self.attributes("id")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)
        of = element.attributes
        if tag == "div" and of.get("class") == "table":
            self._table = self.tables[of["id"].removeprefix("table-")] = ReadTable(of["id"])
        elif tag == "section" or of.get("class") == "samples":
            self._table = None
        elif tag == "tr" and self._table and self._table.headings:
            self._table.rows.append([])
            self._table.classes.append(of.get("class", ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def handle_endtag(self, tag: str) -> None:
        element = self._open.pop()
        assert element.tag == tag, (element, tag)
        table, of, text = self._table, element.attributes, element.text.strip()
        if table is None:
            return
        if tag == "th":
            table.headings.append(text)
        elif tag == "td":
            number = float(of["data-number"]) if "data-number" in of else None
            table.rows[-1].append(ReadCell(text, number, of["class"].split()[0]))
        elif tag == "select":
            table.choices[of["data-column"]] = [line.strip() for line in element.text.splitlines() if line.strip()][1:]
        elif tag == "p" and of.get("class") == "caption":
            table.caption = text
        elif tag == "li":
            table.notes.append(text)
