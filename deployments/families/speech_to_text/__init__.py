"""The SpeechToText family."""
