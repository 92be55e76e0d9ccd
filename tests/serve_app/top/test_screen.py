"""What is on the terminal."""

from rich.console import Console

from serve_app.top.sampling import History, read
from serve_app.top.screen import screen
from tests.serve_app.top.test_sampling import metrics
from tests.support.http_runtimes import status

MEMORY = """# TYPE replica_memory_used_bytes gauge
replica_memory_used_bytes{family="text_generation",replica="r"} 1.048576e+07
# TYPE replica_memory_budget_bytes gauge
replica_memory_budget_bytes{family="text_generation",replica="r"} 1.048576e+08
# TYPE text_requests_waiting gauge
text_requests_waiting{model="gpt"} 4
"""
MODELS = [
    status("gpt", "text_generation").model_copy(update={"state": "ready", "resident_bytes": [2**23], "pinned": True}),
    status("broken", "image_classification").model_copy(update={"state": "failed", "reason": "no weights"}),
]


def shown(history: History, trouble: str = "", width: int = 200) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(screen("http://x", history, lambda at: f"t={at:g}", trouble))
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def history(*looks: str) -> History:
    history = History()
    for at, look in enumerate(looks):
        history.add(read(float(at), look + MEMORY, MODELS))
    return history


def test_families_models_and_errors_are_shown_with_their_rates() -> None:
    lines = shown(history(metrics(10, 1, 100, 10, 0), metrics(30, 5, 500, 30, 10)))
    assert lines[0] == "http://x t=1 24.0 requests/s, 400 tokens/s"
    assert "text_generation 1 of 1 1 10 of 100 MiB 24.0 4.0 75 ms 973 ms" in lines
    assert "image_classification 0 of 1 0 – 0.0 0.0 – –" in lines
    assert "gpt ready 8 MiB 24.0 4.0 400 – 4 pinned" in lines
    assert "broken failed – 0.0 0.0 – – – no weights" in lines
    assert "t=1 overloaded 4 gpt" in lines


def test_before_the_second_look_there_are_no_rates() -> None:
    lines = shown(history(metrics(10, 1, 100, 10, 0)))
    assert "gpt ready 8 MiB – – – – 4 pinned" in lines


def test_trouble_is_said_beside_what_was_last_seen() -> None:
    lines = shown(history(metrics(10, 1, 100, 10, 0)), "the runtime cannot be reached")
    assert lines[0].endswith("the runtime cannot be reached")
    assert any(line.startswith("gpt ready") for line in lines)
    assert shown(History(), "nothing yet") == ["http://x nothing yet"]


def test_on_80_columns_names_are_cut_and_numbers_are_whole() -> None:
    lines = shown(history(metrics(10, 1, 100, 10, 0), metrics(30, 5, 500, 30, 10)), width=80)
    assert any(line.endswith("1 of 1 1 10 of 100 MiB 24.0 4.0 75 ms 973 ms") for line in lines)
    assert "gpt ready 8 MiB 24.0 4.0 400 – 4 pinned" in lines
