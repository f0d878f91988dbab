"""The display: lines in a log, bars on a terminal."""

import io

from rich.console import Console

from wgan_sweep.common import progress
from wgan_sweep.common.progress import Display


def display(terminal: bool) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    return Display(Console(file=out, force_terminal=terminal, width=150)), out


def test_a_log_shows_lines(monkeypatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    shown, out = display(terminal=False)
    shown.sweep(2)
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with shown.run("run a", 100) as run:
        run.update(10, {"images_seen": 640, "wasserstein": 1.5})
        run.update(15, {"images_seen": 960})  # 320 images in 10 s
        run.working_on("scoring")  # does not count in the rate
        run.update(15, {"images_seen": 960})
        run.update(20, {"images_seen": 1280, "wasserstein": 1.25, "fid": 30.0})
        run.summary = "done: FID 30.00"
    shown.close()
    text = out.getvalue()
    assert "\x1b" not in text
    assert "run a  step 20/100" in text
    assert all(word in text for word in ("img/s", "W 1.25", "FID 30.00", " left"))
    assert "img/s" not in text.splitlines()[0]  # the rate is not known yet
    assert text.count("32 img/s") == 3
    assert "0:02:40 left" in text  # 80 steps at 10 steps in 20 s
    assert text.splitlines()[-1] == "run a  done: FID 30.00"


def test_a_terminal_shows_bars_and_one_line_per_finished_run() -> None:
    shown, out = display(terminal=True)
    shown.sweep(2)
    for name in ("run a", "run b"):
        with shown.run(name, 10) as run:
            run.update(10, {"images_seen": 640, "wasserstein": 1.5})
            run.summary = f"{name} is done"
    shown.close()
    assert "sweep" in out.getvalue()
    assert out.getvalue().count("is done") == 2


def test_a_run_that_raises_shows_the_exception() -> None:
    shown, out = display(terminal=False)
    try:
        with shown.run("run a", 10):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert "run a  interrupted (KeyboardInterrupt)" in out.getvalue()


def test_the_number_of_items_is_shown_on_a_log_and_on_a_terminal(monkeypatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    for terminal, words in ((False, "real  7 of 9\nreal  9 of 9\n"), (True, "9/9")):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=80)
        assert list(progress.show_progress([[0] * 7, [0] * 2], 9, "real", console)) == [[0] * 7, [0] * 2]
        assert words in out.getvalue()


def test_a_log_and_the_bar_of_a_sweep_say_how_many_runs_are_complete_and_the_time_left(monkeypatch) -> None:
    """Four runs: the first one was complete before, each other one takes 100 s."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    clock: list[float] = []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[-1])
    for terminal in (False, True):
        clock.append(1000.0)
        shown, out = display(terminal)
        shown.sweep(4)
        for seconds in (0.0, 100.0, 100.0, 100.0):
            with shown.run("a run", 10) as run:
                clock.append(clock[-1] + seconds)
                run.summary = "done"
            if terminal:
                shown._live.refresh()
        shown.close()
        text = out.getvalue()
        for words in ("about 0:03:20 left", "about 0:01:40 left"):
            assert words in text
        if not terminal:
            lines = [line for line in text.splitlines() if line.startswith("sweep")]
            assert lines[0] == "sweep  1 of 4 runs"
            assert lines[1:] == [
                "sweep  2 of 4 runs  about 0:03:20 left",
                "sweep  3 of 4 runs  about 0:01:40 left",
                "sweep  4 of 4 runs",
            ]
