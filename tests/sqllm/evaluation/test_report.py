from html.parser import HTMLParser

from sqllm.evaluation import report, tables


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") and v and v.startswith("http")]


def rows(n=30):
    return [
        {"clip": i, "dim": "mos", "set": "<A>", "condition": f"c{i % 9}", "true": 1 + i / 10, "predicted": 1 + i / 9}
        for i in range(n)
    ]


def test_the_page_stands_alone():
    judgements = rows()
    figures = tables.figures(judgements)
    text = report.page("Of a <model>", {"model": "m & n"}, figures, judgements)
    tags = Tags(text)
    assert not tags.links and "script" not in tags.seen
    assert tags.seen.count("svg") == 1 and "&lt;A&gt;" in text and "m &amp; n" in text and "<model>" not in text
    assert "prefers-color-scheme: dark" in text and "#000000" not in text


def test_a_terminal_gets_fewer_columns():
    figures = tables.figures(rows())
    wide, brief = (report.cells(figures, brief=b)[0] for b in (False, True))
    assert "tau" in wide and "tau" not in brief and "task" not in wide
    assert len(report.cells(figures)[1]) == 2
