from sqllm import page


def test_a_drawing_changes_with_the_page():
    def draw(figure):
        axes = figure.subplots()
        axes.plot([1, 2], [1, 2], color=page.PENS["awful"])
        axes.set_title("<here> US$ to CA$, $$gold$$ $a_$")

    svg = page.drawing("it's a line", 2, 2, draw)
    assert "var(--awful)" in svg and "#010204" not in svg and "#000000" not in svg and 'id="figure' not in svg
    assert "aria-label='it&#x27;s a line'" in svg and "&lt;here&gt; US$ to CA$, $$gold$$ $a_$" in svg


def test_numbers_stand_to_the_right():
    text = page.table(["name", "n"], [["<a>", "12"], ["b", "–"]])
    assert "<td class=t>&lt;a&gt;</td><td>12</td>" in text
