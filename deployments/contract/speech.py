"""What an answer says of speech: its parts and their times. Imports nothing of ours."""

from pydantic import BaseModel, ConfigDict


class SpeechSegment(BaseModel):
    """A part of what is said, and when: seconds from the beginning of the audio."""

    model_config = ConfigDict(frozen=True)

    start_s: float
    end_s: float
    text: str
