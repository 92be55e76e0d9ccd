"""What travels of an answer before its end."""

from dataclasses import dataclass

from deployments.contract.chat import Markup
from deployments.contract.speech import SpeechSegment
from deployments.contract.text_generation import PromptToken, TokenLogprob


@dataclass(frozen=True, slots=True)
class Chunk:
    """New text of an answer under way, final as it is. `index`: how many tokens, or segments, there are so far."""

    text: str
    index: int
    logprobs: tuple[TokenLogprob, ...] = ()
    markup: Markup | None = None
    """Of the whole text; the first chunk has it, where the request asks for it."""
    segments: tuple[SpeechSegment, ...] = ()
    """Of speech: what the text is made of."""
    prompt_logprobs: tuple[PromptToken, ...] = ()
    """Of the whole prompt; the first chunk has them, where the request asks for them."""

    def joined(self, later: "Chunk") -> "Chunk":
        """This one and the one that follows it, as one."""
        return Chunk(
            self.text + later.text,
            later.index,
            self.logprobs + later.logprobs,
            self.markup or later.markup,
            self.segments + later.segments,
            self.prompt_logprobs + later.prompt_logprobs,
        )
