"""Sources are listed at intervals, in threads: the last known content counts; a store that hangs delays no model."""

import threading
from collections.abc import Iterator

import pytest

from deployments.contract.errors import Unavailable
from deployments.repository import source_poller
from deployments.repository.source_poller import POLL_EVERY_S, SourceContent, SourcePoller
from deployments.repository.staging import RemoteFile
from tests.support.clock import Clock


class Store:
    """Lists one weight file, waits for `answers`, and fails on demand."""

    def __init__(self) -> None:
        self.size = 5
        self.listings = 0
        self.failure: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()

    def __call__(self, source: str) -> dict[str, RemoteFile]:
        assert self.answers.wait(10)
        self.listings += 1
        if self.failure is not None:
            raise self.failure
        return {"model.safetensors": RemoteFile(self.size, ""), "config.json": RemoteFile(2, "")}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store()
    monkeypatch.setattr(source_poller, "listing", store)
    yield store
    store.answers.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def poller(clock: Clock, store: Store) -> SourcePoller:
    return SourcePoller(clock)


def polled_again(poller: SourcePoller, clock: Clock) -> SourceContent:
    """The content after the listing that is due has ended."""
    clock.now += POLL_EVERY_S
    poller.content("s")
    if (listing := poller._sources["s"].listing) is not None:
        listing.exception(10)
    return poller.content("s")


def test_a_source_is_listed_at_intervals_and_a_change_is_another_digest(
    poller: SourcePoller, clock: Clock, store: Store
) -> None:
    first = poller.content("s")
    assert first.weight_bytes == 5
    store.size = 6
    clock.now += POLL_EVERY_S - 1
    assert poller.content("s") == first
    assert store.listings == 1
    second = polled_again(poller, clock)
    assert second.weight_bytes == 6
    assert second.digest != first.digest


def test_a_source_that_cannot_be_listed_keeps_its_last_known_content(
    poller: SourcePoller, clock: Clock, store: Store
) -> None:
    first = poller.content("s")
    store.failure = Unavailable("away")
    assert [polled_again(poller, clock) for _ in range(3)] == [first] * 3
    assert store.listings == 4


def test_a_source_that_was_never_listed_has_no_content_yet(poller: SourcePoller, store: Store) -> None:
    store.failure = Unavailable("away")
    assert poller.content("s") == SourceContent()


def test_a_store_that_hangs_delays_the_first_scan_only(
    poller: SourcePoller, clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_poller, "FIRST_LISTING_S", 0)
    store.answers.clear()
    assert poller.content("s") == SourceContent()
    monkeypatch.setattr(source_poller, "FIRST_LISTING_S", None)  # A second wait would never end.
    assert poller.content("s") == SourceContent()
    store.answers.set()
    assert polled_again(poller, clock).weight_bytes == 5


def test_sources_that_no_model_names_are_forgotten(poller: SourcePoller, store: Store) -> None:
    for source in "ab":
        poller.content(source)
    poller.forget_others({"b"})
    poller.content("b")
    assert store.listings == 2
    poller.content("a")
    assert store.listings == 3
