"""OpenVINO's network of Whisper chooses what torch's does, of clips that come and go, and takes its place only then."""

import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openvino
import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq

from deployments.engines import conversion
from deployments.engines.audio import greedy, openvino_decoder
from deployments.engines.audio.engine import load_engine
from deployments.engines.audio.flow import Straight
from deployments.engines.audio.greedy import Clip, GreedyDecoder
from deployments.engines.audio.openvino_convert import STEP, convert
from deployments.engines.audio.openvino_decoder import ConvertedWhisper, OpenVinoDecoder, best_token
from deployments.engines.audio.torch_decoder import TorchDecoder
from deployments.engines.audio.transcript import SpeechOptions
from deployments.engines.audio.whisper import WhisperEngine
from deployments.system.artifact_cache import ArtifactCache
from tests.support.audio.expected import generated
from tests.support.audio.files import words
from tests.support.audio.models import whisper
from tests.support.audio.screened import logits_of_rounded_weights

PATIENCE_S = 240
MOST = 4
pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper(tmp_path_factory.mktemp("converted") / "m", 4)


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    """It keeps what was found of a model too, so each test has one of its own."""
    return ArtifactCache(tmp_path / "cache", 1 << 30)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ConvertedWhisper:
    place = tmp_path_factory.mktemp("place")
    convert(folder, place)
    return ConvertedWhisper.read(place, 1)


@pytest.fixture
def network(converted: ConvertedWhisper, model: Any) -> OpenVinoDecoder:
    return OpenVinoDecoder(converted, model, MOST)


def features(seed: int) -> torch.Tensor:
    return torch.randn(80, 400, generator=torch.Generator().manual_seed(seed))


def decoder(model: Any, network: Any) -> GreedyDecoder:
    return GreedyDecoder(model, network, (), 0.6, -1.0)


PROMPT: list[int | None] = [300, 301]


def alone(decoder: GreedyDecoder, seed: int) -> list[int]:
    clip = Clip(features(seed), list(PROMPT))
    decoder.begin(clip)
    while not clip.done:
        decoder.step([clip])
    return clip.tokens


def test_a_step_copies_no_keys_and_values(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path)
    kinds = {node.get_type_name() for node in openvino.Core().read_model(tmp_path / STEP).get_ops()}
    assert "MatMul" in kinds
    assert "Broadcast" not in kinds


@pytest.mark.parametrize("places", [3, 64])
def test_clips_that_come_and_go_are_written_as_torch_writes_each_alone(
    model: Any, converted: ConvertedWhisper, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_decoder, "_PLACES", places)
    network = OpenVinoDecoder(converted, model, MOST)
    known = [alone(decoder(model, TorchDecoder(model, 1)), seed) for seed in range(6)]
    ours = decoder(model, network)
    waiting = [Clip(features(seed), list(PROMPT)) for seed in range(6)]
    clips, under_way, steps = waiting[1:], list[Clip](), 0
    while waiting or under_way:
        if waiting and len(under_way) < MOST - 1:
            under_way.append(waiting.pop(0))
            ours.begin(under_way[-1])
        if steps == 5:
            del under_way[0]  # its caller has left
        ours.step(under_way)
        steps += 1
        assert {clip.row for clip in under_way} == set(range(len(under_way)))
        under_way = [clip for clip in under_way if not clip.done]
    assert [clip.tokens for clip in clips] == known[1:]


def test_clips_of_full_blocks_have_another_and_share_a_call(model: Any, network: OpenVinoDecoder) -> None:
    known = [alone(decoder(model, TorchDecoder(model, 1)), seed) for seed in range(MOST + 2)]
    ours = decoder(model, network)
    clips = [Clip(features(seed), list(PROMPT)) for seed in range(MOST + 2)]
    for clip in clips:
        ours.begin(clip)
    assert len({id(clip.keys) for clip in clips}) == 2
    while under_way := [clip for clip in clips if not clip.done]:
        ours.step(under_way[::-1])
    assert [clip.tokens for clip in clips] == known


def test_the_memory_of_clips_is_freed_with_the_last_of_them(network: OpenVinoDecoder) -> None:
    one, other = (Clip(features(seed), list(PROMPT)) for seed in range(2))
    with torch.inference_mode():
        network.encode(one)
        network.encode(other)
        network.forward([one, other], [[300], [300]])
    block = weakref.ref(one.keys)
    assert other.keys is block()
    one.keys = None
    del other  # cancelled
    gc.collect()
    assert block() is None


@torch.inference_mode()
def test_the_best_token_is_that_of_float32_where_rounded_weights_do_not_tell(model: Any) -> None:
    weight, bias = model.proj_out.weight, torch.zeros(len(model.proj_out.weight))
    bias[::7] = -torch.inf
    vectors = torch.randn(5000, model.config.d_model, generator=torch.Generator().manual_seed(0))
    exact = model.proj_out(vectors) + bias
    screened, doubts = logits_of_rounded_weights(weight, vectors)
    pairs = zip(screened.numpy(), vectors.numpy(), strict=True)
    best = [best_token(*pair, bias.numpy(), weight.numpy(), float(doubts.max())) for pair in pairs]

    def short(tokens: torch.Tensor) -> float:
        return float((exact.amax(1) - exact.gather(1, tokens[:, None])[:, 0]).max())

    assert short(torch.tensor(best)) < 1e-4
    assert short((screened + bias).argmax(1)) > 1e-3


def in_this_process(convert: Callable[..., None], folder: Path, details: Sequence[object], place: Path) -> None:
    """A child is nice: on a busy machine its turn may come late."""
    convert(folder, *details, place)


def settled(folder: Path, cache: ArtifactCache) -> WhisperEngine:
    engine = load_engine(folder, cores=1, cache=cache)
    assert isinstance(engine, WhisperEngine)
    assert engine.settled.wait(PATIENCE_S)
    return engine


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "no_faster", lambda before, converted: None)
    monkeypatch.setattr(conversion, "convert_in_child", in_this_process)


def test_it_writes_what_transformers_writes_and_later_loads_find_it(
    folder: Path, cache: ArtifactCache, pays: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_engine(folder, cores=1)
    engine = settled(folder, cache)
    assert engine.runtime_info[1].startswith("forward: OpenVINO, on 1 thread; at most 8")
    assert engine.resident_bytes > plain.resident_bytes
    for sound in (words(2.0, seed=1), words(3.0, seed=2)):
        clip = engine.clip(sound, SpeechOptions(language="de"))
        assert clip is not None
        engine.begin(clip)
        while not clip.done:
            engine.step([clip])
        text = generated(folder, sound, task="transcribe", language="de")
        assert engine.written(clip, 2.0).text == text
    long = words(9.0, seed=3)
    both = [one.transcribe(long, SpeechOptions(), lambda _: None, Straight()) for one in (engine, plain)]  # type: ignore[union-attr]
    assert both[0] == both[1]
    engine.close()
    assert engine.resident_bytes == 0
    monkeypatch.setattr(conversion, "convert_in_child", None)
    assert "OpenVINO" in settled(folder, cache).runtime_info[1]


def test_one_that_writes_something_else_is_not_used(
    folder: Path, cache: ArtifactCache, pays: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = OpenVinoDecoder.forward
    monkeypatch.setattr(OpenVinoDecoder, "forward", lambda *given: forward(*given) * 1.01)
    engine = settled(folder, cache)
    assert "PyTorch (converted it writes something else)" in engine.runtime_info[1]


def test_a_clip_that_began_before_is_ended_by_the_network_that_has_encoded_it(model: Any, network: Any) -> None:
    ours = decoder(model, TorchDecoder(model, 1))
    known = [alone(ours, seed) for seed in range(2)]
    clips = [Clip(features(seed), list(PROMPT)) for seed in range(2)]
    ours.begin(clips[0])
    ours.network = network
    ours.begin(clips[1])
    while under_way := [clip for clip in clips if not clip.done]:
        ours.step(under_way)
    assert [clip.tokens for clip in clips] == known
