"""What a person does on the page, in a real browser."""

import base64
import re
import time

import numpy as np
import pytest
import requests
import soundfile

from pipelines.serve.page import vocabulary, with_facts
from sqllm import DIMENSIONS

pytestmark = pytest.mark.timeout(180)
CALL = "Call, English and Italian: noisy leg"
LONG = "Announcements, English: loss burst"


def sample(page, name) -> list[dict]:
    """Pick a sample; the rows that the server sent."""
    with page.expect_response("**/v1/score") as answered:
        page.get_by_role("button", name=name, exact=True).click()
    scored(page)
    return answered.value.json()["rows"]


def choose(page, path) -> list[dict]:
    with page.expect_response("**/v1/score") as answered:
        page.get_by_label("Choose a file").set_input_files(path)
    return answered.value.json().get("rows")


def scored(page) -> None:
    """Until the scores are there, and then the words."""
    page.locator("#status").filter(has_text="Scored").wait_for(state="attached")
    page.locator("#model-words[aria-busy=false]").wait_for(state="attached")


def until(page, expression: str) -> None:
    """Wait until it is true. The page's own rules forbid wait_for_function, which evaluates in the page."""
    deadline = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never: {expression}"
        page.wait_for_timeout(50)


def shown(page) -> dict[str, str]:
    cards = page.locator(".score")
    return {cards.nth(i).get_attribute("data-name"): cards.nth(i).locator(".value").inner_text() for i in range(5)}


def said(page) -> str:
    return page.get_by_role("alert").inner_text()


def test_a_sample_shows_the_scores_that_the_server_sent(page):
    [row] = sample(page, "Welcome, English: loss")
    assert shown(page) == {name: f"{row[name]:.1f}" for name in DIMENSIONS}
    assert page.locator("#verdict strong").inner_text() == f"{row['mos']:.1f}"
    card = page.locator(".score[data-name=noi]")
    low, high = row["noi"] - row["noi_std"], row["noi"] + row["noi_std"]
    assert f"{low:.1f} to {high:.1f}" in card.inner_text()
    assert page.locator("#facts li").first.inner_text() == row["facts"][0]
    assert page.locator("#explanation").inner_text() == "The main fault is clear cut-outs."  # without the scores again


def test_nobody_waits_for_words_to_see_the_scores(page, scorer):
    scorer.hold.clear()
    page.get_by_role("button", name="Welcome, English: loss", exact=True).click()
    page.locator("#status").filter(has_text="Scored").wait_for(state="attached")
    assert len(shown(page)) == 5 and page.locator("#explanation").inner_text() == "Putting it into words…"
    scorer.hold.set()
    page.get_by_text("The main fault is clear cut-outs.").wait_for()


def test_the_worst_moment_plays(page):
    [row] = sample(page, LONG)
    assert row["worst_start_s"] > 5
    page.get_by_role("button", name=re.compile("worst moment")).click()
    until(page, f"document.querySelector('audio').currentTime > {row['worst_start_s'] + 0.2}")
    page.get_by_role("button", name="Pause").click()
    until(page, "document.querySelector('audio').paused")
    page.get_by_role("button", name="Play the gap").first.click()
    gap = row["evidence"]["dropouts"][0]["start_s"]
    until(page, f"Math.abs(document.querySelector('audio').currentTime - {gap}) < 1.1")
    page.get_by_text("Moment by moment").click()
    lines = page.locator("#moments tbody tr")
    assert lines.count() == len(row["windows"])
    assert lines.last.inner_text().split()[3:] == [f"{row['windows'][-1][name]:.1f}" for name in DIMENSIONS]


def test_a_stereo_file_has_two_legs(page, speech_file):
    rows = choose(page, speech_file(channels=2))
    scored(page)
    legs = page.get_by_role("radio", name=re.compile("leg"))
    assert legs.count() == 2
    assert page.get_by_role("radio", name="Right leg").is_checked()  # the worse one
    for leg, row in zip(("Left leg", "Right leg"), rows, strict=True):
        page.get_by_role("radio", name=leg).check(force=True)
        assert shown(page) == {name: f"{row[name]:.1f}" for name in DIMENSIONS}
    page.get_by_role("button", name="Play", exact=True).click()  # one leg, through the browser's mixer
    until(page, "document.querySelector('audio').currentTime > 0.3")


def test_a_file_can_be_dropped(page, speech_file):
    content = base64.b64encode(speech_file().read_bytes()).decode()
    with page.expect_response("**/v1/score") as answered:
        page.evaluate(DROP, content)
    page.get_by_role("heading", name="dropped.wav").wait_for()
    scored(page)
    assert answered.value.json()["rows"][0]["uri"] == "dropped.wav"


DROP = """content => {
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "dropped.wav", { type: "audio/wav" }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def test_the_microphone_is_recorded_as_wav(page):
    page.get_by_role("button", name="Record").click()
    page.get_by_role("button", name="Stop, 0:02").wait_for()
    with page.expect_response("**/v1/score") as answered:
        page.get_by_role("button", name="Stop").click()
    page.get_by_role("heading", name="recording.wav").wait_for()
    row = answered.value.json()["rows"][0]
    assert row["uri"] == "recording.wav" and row["channel"] == 0 and 1.5 < row["duration_s"] < 60
    assert row["evidence"]["level_db"] > -60  # the browser's stand-in for a microphone beeps


def test_answers_come_word_by_word(page, scorer):
    sample(page, "Welcome, English: loss")
    scorer.hold.clear()
    page.get_by_label("Your question").fill("what is wrong?")
    page.keyboard.press("Enter")
    answer = page.locator("#answers li").first
    answer.get_by_text("The main fault", exact=True).wait_for()
    assert answer.get_attribute("aria-busy") == "true"
    scorer.hold.set()
    answer.get_by_text("The main fault is clear cut-outs.").wait_for()
    page.locator("#answers li[aria-busy=false]").wait_for()
    assert scorer.questions[-1] == "what is wrong?"
    page.get_by_role("button", name="Is there an echo?").click()
    page.get_by_role("heading", name="Is there an echo?").wait_for()
    page.get_by_label("Your question").fill("does it break?")
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("alert").wait_for()
    assert said(page) == "The model failed: the answer broke off."


def test_the_moment_that_plays_can_be_asked_about(page, speech_file, scorer):
    [row] = choose(page, speech_file(seconds=25))
    scored(page)
    assert page.get_by_role("radio", name=f"The worst moment, 0:{int(row['worst_start_s']):02}").is_checked()
    page.locator("#plot").focus()
    for key in ("PageUp", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    page.get_by_role("radio", name="Where it plays, 0:12").check(force=True)
    page.get_by_role("button", name="Is there an echo?").click()
    page.get_by_role("heading", name="Is there an echo? At 0:12").wait_for()
    page.locator("#answers li[aria-busy=false]").wait_for()
    assert scorer.told[-1] == pytest.approx(row["windows"][1]["mos"]) != row["worst_mos"]


def test_a_bad_file_is_explained_and_the_next_one_works(page, tmp_path, speech_file):
    (tmp_path / "letter.wav").write_bytes(b"Dear all, this is no sound.")
    choose(page, tmp_path / "letter.wav")
    page.get_by_role("alert").wait_for()
    assert said(page).startswith("The recording cannot be scored: not audio, broken, or cut off before its end.")
    assert page.locator("#result").is_hidden() and page.locator("#plot").is_hidden()
    choose(page, speech_file())
    scored(page)
    assert page.get_by_role("alert").is_hidden() and len(shown(page)) == 5


def test_what_is_too_large_is_not_sent(visit, speech_file):
    page = visit(max_mb=0.1)
    sent = []
    page.on("request", lambda request: sent.append(request.method))
    page.get_by_text("Up to 30 minutes and 0.1 MB").wait_for()
    page.get_by_label("Choose a file").set_input_files(speech_file(seconds=5))
    page.get_by_role("alert").wait_for()
    assert said(page) == "The recording is too large: the server takes up to 0.1 MB."
    assert "POST" not in sent


def test_silence_is_explained(page, tmp_path):
    soundfile.write(tmp_path / "silent.wav", [0.0] * 32000, 16000)
    choose(page, tmp_path / "silent.wav")
    page.get_by_role("alert").wait_for()
    assert said(page).startswith("The recording cannot be scored: nobody speaks")
    assert page.locator("#result").is_hidden() and page.locator("#talk").is_hidden()


def test_a_format_that_the_browser_does_not_know_has_scores_and_no_picture(page, gsm_file):
    [row] = choose(page, gsm_file)
    scored(page)
    page.get_by_text("This browser cannot decode the file").wait_for()
    assert shown(page)["mos"] == f"{row['mos']:.1f}"
    assert page.locator("#spectrogram").is_hidden() and page.locator("#track").is_visible()
    assert page.locator("#player").is_hidden()


def test_a_reference_is_compared_with_or_refused(page, tmp_path, speech_file):
    clean = speech_file("clean.wav", seconds=6)
    choose(page, clean)
    scored(page)
    alone = shown(page)["noi"]
    with page.expect_response("**/v1/score") as answered:
        page.locator("#reference").set_input_files(clean)
    page.get_by_text("Compared with the clean original").wait_for()
    assert answered.value.json()["rows"][0]["reference_uri"] == "clean.wav" and shown(page)["noi"] != alone
    with page.expect_response("**/v1/score"):
        page.locator("#reference").set_input_files(_other(tmp_path))
    page.get_by_text("The clean original was not used").wait_for()
    with page.expect_response("**/v1/score"):
        page.get_by_role("button", name="Compare with nothing").click()
    page.locator("#leg-note").wait_for(state="hidden")
    assert shown(page)["noi"] == alone


def test_another_recording_is_compared_in_words(page, scorer, speech_file):
    choose(page, speech_file("one.wav", seconds=6))
    scored(page)
    better = page.get_by_role("button", name="Which one sounds better?")
    assert better.is_hidden()
    page.locator("#other").set_input_files(speech_file("two.wav", seconds=3))
    better.click()
    page.get_by_role("heading", name="Which one sounds better? Beside two.wav").wait_for()
    page.locator("#answers li[aria-busy=false]").wait_for()
    assert scorer.questions[-1] == "Which one sounds better?" and len(scorer.other.window) == 3 * 16000
    page.get_by_role("button", name="Is it too quiet?").click()  # it: the first one
    page.get_by_role("heading", name="Is it too quiet?", exact=True).wait_for()
    page.locator("#answers li[aria-busy=false]").nth(1).wait_for()
    assert scorer.questions[-1] == "Is it too quiet?" and scorer.other is None
    page.get_by_role("button", name="Compare with no other recording").click()
    better.wait_for(state="hidden")


def _other(folder):
    noise = np.random.default_rng(5).standard_normal(96000)
    soundfile.write(folder / "other.wav", 0.1 * noise, 16000)
    return folder / "other.wav"


def test_another_listener_scores_again(page):
    [panel] = sample(page, "Welcome, English: loss")
    with page.expect_response("**/v1/score") as answered:
        page.get_by_label("Who listens").select_option("strict")
    [strict] = answered.value.json()["rows"]
    page.locator(".score[data-name=mos] .value", has_text=f"{strict['mos']:.1f}").wait_for()
    assert strict["mos"] < panel["mos"] and strict["profile"] == "strict"
    assert shown(page) == {name: f"{strict[name]:.1f}" for name in DIMENSIONS}


def test_a_key_is_asked_for_once(visit):
    page = visit(keys=["open sesame"])
    field = page.get_by_label("This server asks for an API key")
    field.fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    field.fill("open sesame")
    page.keyboard.press("Enter")
    sample(page, "Welcome, English: loss")
    assert field.is_hidden() and page.get_by_role("alert").is_hidden()


def test_a_busy_server_says_when_to_come_back(visit, scorer, speech_file):
    page = visit(max_requests=1)
    scorer.hold.clear()
    form = {"files": {"file": speech_file().read_bytes()}, "data": {"question": "why?"}}
    with requests.post(f"{page.url}v1/ask", stream=True, timeout=60, **form):  # somebody else, whose answer takes long
        page.get_by_role("button", name=CALL).click()
        page.get_by_role("alert").wait_for()
        assert re.fullmatch(r"All places are taken: try again in \d+ s\.", said(page))
        scorer.hold.set()


def test_everything_can_be_done_with_the_keyboard(page):
    def tab_to(what):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("what => document.activeElement.matches(what)", what):
                return
        raise AssertionError(f"the tabulator does not reach {what}")

    tab_to("#file")
    assert page.evaluate("getComputedStyle(document.querySelector('label[for=file]')).outlineStyle") == "solid"
    tab_to("#record")
    tab_to("#samples li:nth-child(5) button")
    page.keyboard.press("Enter")
    scored(page)
    until(page, "!document.querySelector('#player').hidden")
    tab_to("#profile")
    tab_to("#plot")
    plot = page.get_by_role("slider", name="Position in the recording")
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowRight")
    assert plot.get_attribute("aria-valuetext").startswith("0:11 of 0:21, Overall 2.9, fair")
    page.keyboard.press(" ")
    until(page, "document.querySelector('audio').currentTime > 11.2")
    page.keyboard.press(" ")
    tab_to("input[name=dim]")
    page.keyboard.press("ArrowDown")
    assert "Free of noise 4.2, good" in plot.get_attribute("aria-valuetext")
    tab_to("#suggestions button")
    page.keyboard.press("Enter")
    page.locator("#answers li[aria-busy=false]").wait_for()


def test_a_screen_reader_has_a_name_for_everything(page):
    sample(page, CALL)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    seen = [
        node for node in tree if not node["ignored"] and _focusable(node) and node["role"]["value"] != "RootWebArea"
    ]
    assert len(seen) > 25
    assert not [node["role"]["value"] for node in seen if not node.get("name", {}).get("value")]


def _focusable(node) -> bool:
    return any(p["name"] == "focusable" and p["value"].get("value") for p in node.get("properties", []))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page, scheme):
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0
    for name in (CALL, LONG):
        sample(page, name)
        assert page.evaluate(overflow) <= 0
    page.get_by_text("Moment by moment").click()
    page.get_by_role("button", name="What is wrong with it?").click()
    page.locator("#answers li[aria-busy=false]").wait_for()
    assert page.evaluate(overflow) <= 0
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 600) == (scheme == "light")


def test_the_spectrogram_is_true(page, tmp_path):
    """A tone of 1 kHz on a scale up to 8 kHz is an eighth of the way up; bright there, dark elsewhere."""
    peak = page.evaluate("""async () => {
      const { BINS, spectrogram } = await import("/spectrum.js");
      const tone = Float32Array.from({ length: 16000 }, (_, i) => Math.sin(2 * Math.PI * 1000 * i / 16000));
      const column = spectrogram(tone, 10).slice(5 * BINS, 6 * BINS);
      const top = column.indexOf(Math.max(...column));
      return [top * 8000 / BINS, Math.max(...column) - column[BINS - 20]];
    }""")
    assert peak[0] == 1000 and peak[1] > 60


@pytest.mark.timeout(240)
def test_the_model_that_ships_is_heard(visit, request):
    """`sqllm serve` as it is, on Ray Serve; which does not start where there is no browser."""
    page = visit(address=request.getfixturevalue("served"))
    rows = sample(page, CALL)
    right = next(row for row in rows if row["channel"] == 1)
    assert right["noi"] == min(right[name] for name in DIMENSIONS)  # the noisy leg
    assert shown(page) == {name: f"{right[name]:.1f}" for name in DIMENSIONS}
    page.get_by_role("button", name="What is wrong with it?").click()
    answer = page.locator("#answers li[aria-busy=false] p")
    answer.wait_for()
    assert "noise" in answer.inner_text()


def test_the_page_speaks_as_the_reports_do():
    told = vocabulary()
    assert [score["name"] for score in told["scores"]] == list(DIMENSIONS)
    assert told["scale"][0]["word"] == "very bad"
    facts = with_facts({"status": "skipped", "evidence": None})["facts"]
    assert facts == []
